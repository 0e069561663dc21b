"""The trainer over modules that are not the library's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import BilevelTrainer, PerIdLogits, RowModule, task_for
from autoemb.bilevel.hypergradient import KINDS
from autoemb.schema import STARS
from tests.bilevel.small import TABLES, example_of

LOSS = task_for("regression", STARS).loss
EXACT = 1e-12  # float64, the same sums in another order


def batch(seed):
    """Events of a few ids, none of which is its own position among them."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 12, (8, 2), generator=random) * 2
    return example_of(ids, torch.rand(8, generator=random, dtype=torch.float64))


class Dense(nn.Module):
    """Embeddings that know nothing of rows."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(40, 2), nn.Embedding(30, 2)

    def forward(self, inputs, mix=None):
        users, items = self.users(inputs.ids["user_id"]), self.items(inputs.ids["item_id"])
        return (users * items).sum(1, keepdim=True)


class Rows(RowModule):
    """The same with tables that are cut down to the rows in play, and a mix."""

    def __init__(self):
        super().__init__(TABLES)
        for number, (table, rows) in enumerate(zip(TABLES, (40, 30), strict=True)):
            self.register_rows(f"table_{number}", table, torch.empty(rows, 2))

    def init_rows(self, name, rows):
        rows.normal_()

    def scale(self, inputs, mix):
        """What the mix of an event's ids sums to, which it does not do to one."""
        each = [mix[t][self.positions(t, inputs.ids[t])].sum(1, keepdim=True) for t in TABLES]
        return sum(each)

    def forward(self, inputs, mix=None):
        users = self.lookup("table_0", inputs.ids["user_id"])
        items = self.lookup("table_1", inputs.ids["item_id"])
        product = (users * items).sum(1, keepdim=True)
        return product if mix is None else product * self.scale(inputs, mix)


class Mixed(Rows):
    """Tables of rows beside a plain embedding of the same ids."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(40, 1)

    def forward(self, inputs, mix=None):
        return super().forward(inputs, mix) + self.bias(inputs.ids["user_id"])


class Scaled(nn.Module):
    """A mix that depends on nothing but two logits a table and does not sum to one."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(2, 2))

    def forward(self, rows, features):
        own = zip(self.logits, TABLES, strict=True)
        return {t: torch.sigmoid(x).expand(len(rows[t]), 2) for x, t in own if t in rows}


class PlainLogits(nn.Module):
    """Logits for every id in a plain embedding."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleDict(
            {table: nn.Embedding(rows, 2) for table, rows in zip(TABLES, (40, 30), strict=True)}
        )

    def forward(self, rows, features):
        return {table: torch.sigmoid(self.tables[table](own)) for table, own in rows.items()}


def on_whole_tables(model, controller, events):
    if controller is None:
        return model(events.inputs)
    every = {"user_id": torch.arange(40), "item_id": torch.arange(30)}
    return model(events.inputs, controller(every, {}))


def check_like_whole_tables(model, controller):
    """Compare a turn of Algorithm 1, by gradient descent, with one on whole tables."""
    model = model.double()
    controller = None if controller is None else controller.double()
    reference = copy.deepcopy((model, controller))
    trainer = BilevelTrainer(
        model,
        controller,
        loss=LOSS,
        optimizer="sgd",
        learning_rate=0.3,
        controller_learning_rate=1.0,
        row_rate=1.0,
    )

    def descend(events, module, rate):
        loss = LOSS(on_whole_tables(*reference, events), events.label).mean()
        parameters = list(module.parameters())
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= rate * grad

    past, events = batch(0), batch(1)
    if controller is not None:
        trainer.controller_step(past)
        descend(past, reference[1], 1.0)
    trainer.step(events)
    descend(events, reference[0], 0.3)
    for module, expected in zip((model, controller), reference, strict=True):
        for name, value in ({} if module is None else module.state_dict()).items():
            wanted = expected.state_dict()[name]
            torch.testing.assert_close(value, wanted, rtol=EXACT, atol=EXACT)
    logits = trainer.predict(events.inputs)
    wanted = on_whole_tables(*reference, events).detach()
    torch.testing.assert_close(logits, wanted, rtol=EXACT, atol=EXACT)


def no_controller():
    return None


def logits():
    controller = PerIdLogits(TABLES, [40, 30], 2)
    for parameter in controller.parameters():
        nn.init.normal_(parameter)
    return controller


@pytest.mark.parametrize(
    ("model", "controller"),
    [(Dense, no_controller), (Rows, no_controller), (Rows, Scaled), (Rows, logits)],
)
def test_any_module_trains_as_on_whole_tables(model, controller):
    torch.manual_seed(0)
    check_like_whole_tables(model(), controller())


def test_a_plain_embedding_beside_rows_of_the_same_table_gets_the_right_ids():
    torch.manual_seed(0)
    check_like_whole_tables(Mixed(), Scaled())


def test_a_controller_with_a_plain_embedding_gets_the_right_ids():
    torch.manual_seed(0)
    check_like_whole_tables(Rows(), PlainLogits())


@pytest.mark.parametrize("model", [Rows, Mixed])
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
            row_rate=1.0,
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
        def forward(self, inputs, mix=None):
            return torch.zeros(len(inputs.ids["user_id"]), 1)

    outcome = BilevelTrainer(Constant(), Scaled(), loss=LOSS).step(batch(0))
    assert outcome.logits.tolist() == [[0.0]] * 8


def test_predict_puts_the_controller_in_eval_mode_too():
    torch.manual_seed(0)

    class Dropping(Scaled):
        def forward(self, rows, features):
            mix = super().forward(rows, features)
            return {t: functional.dropout(w, 0.5, self.training) for t, w in mix.items()}

    trainer = BilevelTrainer(Rows(), Dropping(), loss=LOSS)
    random = torch.random.get_rng_state()
    first, second = trainer.predict(batch(0).inputs), trainer.predict(batch(0).inputs)
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), random)
