"""The trainer over modules that are not the library's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import BilevelTrainer, PerIdLogits, task_for
from autoemb.bilevel import Batch
from autoemb.bilevel.hypergradient import KINDS
from autoemb.nn.rows import RowModule
from autoemb.schema import STARS

LOSS = task_for("regression", STARS).loss
EXACT = 1e-12  # float64, the same sums in another order


def batch(seed):
    """Events of a few ids, none of which is its own position among them."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 12, (8, 2), generator=random) * 2
    return Batch(ids, torch.rand(8, generator=random, dtype=torch.float64))


def on_whole_tables(model, controller, events):
    columns = events.ids.unbind(1)
    return model(events.ids, torch.stack(controller(columns, [None, None]), 1))


class Dense(nn.Module):
    """Embeddings that know nothing of rows."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(40, 2), nn.Embedding(30, 2)

    def forward(self, ids, weights):
        users, items = self.users(ids[:, 0]), self.items(ids[:, 1])
        return (users * items * weights.flatten(1).sum(1, keepdim=True)).sum(1, keepdim=True)


class Rows(RowModule):
    """The same with tables that are cut down to the rows in play."""

    def __init__(self):
        super().__init__()
        for field, rows in enumerate((40, 30)):
            self.register_rows(f"table_{field}", field, torch.empty(rows, 2))

    def init_rows(self, name, rows):
        rows.normal_()

    def forward(self, ids, weights):
        users, items = self.lookup("table_0", ids[:, 0]), self.lookup("table_1", ids[:, 1])
        return (users * items * weights.flatten(1).sum(1, keepdim=True)).sum(1, keepdim=True)


class Mixed(Rows):
    """Tables of rows beside a plain embedding of the same ids."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(40, 1)

    def forward(self, ids, weights):
        return super().forward(ids, weights) + self.bias(ids[:, 0])


class Scaled(nn.Module):
    """Weights that depend on nothing but two logits a field and do not sum to one."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(2, 2))

    def forward(self, ids, features):
        return [torch.sigmoid(self.logits[f]).expand(len(i), 2) for f, i in enumerate(ids)]


class PlainLogits(nn.Module):
    """Logits for every id in a plain embedding."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, 2) for rows in (40, 30))

    def forward(self, ids, features):
        return [torch.sigmoid(t(i)) for t, i in zip(self.tables, ids, strict=True)]


def check_like_whole_tables(model, controller):
    """Compare a turn of Algorithm 1, by gradient descent, with one on whole tables."""
    model, controller = model.double(), controller.double()
    reference = copy.deepcopy((model, controller))
    trainer = BilevelTrainer(
        model,
        controller,
        loss=LOSS,
        optimizer="sgd",
        learning_rate=0.3,
        controller_learning_rate=1.0,
    )

    def descend(events, module, rate):
        loss = LOSS(on_whole_tables(*reference, events), events.target).mean()
        parameters = list(module.parameters())
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= rate * grad

    past, events = batch(0), batch(1)
    trainer.controller_step(past)
    descend(past, reference[1], 1.0)
    trainer.step(events)
    descend(events, reference[0], 0.3)
    for module, expected in zip((model, controller), reference, strict=True):
        for name, value in module.state_dict().items():
            wanted = expected.state_dict()[name]
            torch.testing.assert_close(value, wanted, rtol=EXACT, atol=EXACT)
    logits = trainer.predict(events.ids)
    wanted = on_whole_tables(*reference, events).detach()
    torch.testing.assert_close(logits, wanted, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("controller", [Scaled, lambda: PerIdLogits([40, 30], 2)])
@pytest.mark.parametrize("model", [Dense, Rows])
def test_any_module_trains_as_on_whole_tables(model, controller):
    torch.manual_seed(0)
    check_like_whole_tables(model(), controller())


def test_a_plain_embedding_beside_rows_of_the_same_field_gets_the_right_ids():
    torch.manual_seed(0)
    check_like_whole_tables(Mixed(), Scaled())


def test_a_controller_with_a_plain_embedding_gets_the_right_ids():
    torch.manual_seed(0)
    check_like_whole_tables(Rows(), PlainLogits())


@pytest.mark.parametrize("model", [Dense, Rows])
def test_any_module_takes_every_hypergradient(model):
    grads = {}
    for kind in KINDS:
        torch.manual_seed(0)
        built, controller = model().double(), Scaled().double()
        before = controller.logits.detach().clone()
        trainer = BilevelTrainer(
            built,
            controller,
            loss=LOSS,
            hypergradient=kind,
            optimizer="sgd",
            controller_learning_rate=1.0,
            xi=30.0,  # the problem is that flat
        )
        trainer.controller_step(batch(0), batch(1))
        grads[kind] = before - controller.logits.detach()
    second_order = (grads["exact"] - grads["first"]).norm()
    assert second_order > 0.01 * grads["exact"].norm()
    # 1e-2 for the finite difference, as in test_hypergradient.py
    assert (grads["finite-difference"] - grads["exact"]).norm() <= 1e-2 * second_order


def test_a_module_without_parameters_in_play_still_predicts():
    class Constant(nn.Module):
        def forward(self, ids, weights):
            return torch.zeros(len(ids), 1)

    outcome = BilevelTrainer(Constant(), Scaled(), loss=LOSS).step(batch(0))
    assert outcome.logits.tolist() == [[0.0]] * 8


def test_predict_puts_the_controller_in_eval_mode_too():
    torch.manual_seed(0)

    class Dropping(Scaled):
        def forward(self, ids, features):
            weights = super().forward(ids, features)
            return [functional.dropout(w, 0.5, self.training) for w in weights]

    trainer = BilevelTrainer(Rows(), Dropping(), loss=LOSS)
    random = torch.random.get_rng_state()
    first, second = trainer.predict(batch(0).ids), trainer.predict(batch(0).ids)
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), random)
