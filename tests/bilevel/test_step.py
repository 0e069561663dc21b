"""What a step computes: gradient descent on whole tables, and with which random numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import BilevelTrainer, PerIdLogits, SoftEmbedding, task_for
from autoemb.optim import OPTIMIZERS
from autoemb.schema import STARS
from tests.bilevel.small import TABLES
from tests.nn.small import PAPER

LOSS = task_for("regression", STARS).loss


def test_step_is_gradient_descent_on_whole_tables(
    build, batch, dense_forward, assert_exact, method
):
    model, controller, trainer = build(
        method,
        dtype=torch.float64,
        optimizer="sgd",
        learning_rate=0.3,
        controller_learning_rate=2,
        row_rate=1,
    )
    reference = copy.deepcopy((model, controller))
    modules = [module for module in reference if module is not None]
    parameters = [{"params": modules[0].parameters(), "lr": 0.3}]
    if method == "sam":  # the only one whose step moves the controller too
        parameters.append({"params": modules[1].parameters(), "lr": 2})
    optimizer = torch.optim.SGD(parameters)
    for seed in range(3):
        events = batch(seed, dtype=torch.float64)
        logits = dense_forward(*reference, trainer, events)
        losses = LOSS(logits, events.label)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        outcome = trainer.step(events)
        assert_exact(outcome.logits, logits.detach())
        assert_exact(outcome.losses, losses.detach())
    for module, expected in zip((model, controller), reference, strict=True):
        if module is not None:
            for name, value in module.state_dict().items():
                assert_exact(value, expected.state_dict()[name])


def test_first_step_of_adam_is_that_on_whole_tables(build, batch, dense_forward):
    model, controller, trainer = build(
        "autoemb", dtype=torch.float64, optimizer="adam", learning_rate=0.1, row_rate=1
    )
    reference = copy.deepcopy(model)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.1)
    events = batch(0, dtype=torch.float64)
    LOSS(dense_forward(reference, controller, trainer, events), events.label).mean().backward()
    # A generic backward leaves rounding noise in the bias that cancels, and Adam would amplify it.
    reference.embedding.bias.grad.zero_()
    optimizer.step()
    trainer.step(events)
    for name, value in model.state_dict().items():
        # 1e-7: Adam divides by a gradient's size plus 1e-8, which lifts the rounding of small ones.
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_rows_step_by_the_row_rate(build, batch, optimizer):
    rates, moved = OPTIMIZERS[optimizer].rates, {}
    for row_rate in (None, 1, 30):
        model, _, trainer = build(
            "fse", optimizer=optimizer, learning_rate=0.001, row_rate=row_rate
        )
        before = model.embedding.table_0.detach().clone()
        trainer.step(batch(0))
        moved[row_rate] = (model.embedding.table_0.detach() - before).abs().max().item()
    # The first step of either is the learning rate.
    assert moved[1] == pytest.approx(0.001, rel=1e-2)
    assert moved[30] == pytest.approx(0.03, rel=1e-2)
    assert moved[None] == pytest.approx(0.001 * rates.row_rate, rel=1e-2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rates_are_by_default_those_of_the_optimizer(build, optimizer):
    _, _, trainer = build("darts", optimizer=optimizer)
    rates = OPTIMIZERS[optimizer].rates
    assert trainer.xi == rates.learning_rate
    slow = rates.controller_learning_rate
    assert trainer.model.dense_optimizer.param_groups[0]["lr"] == rates.learning_rate
    for part, rate in ((trainer.model, rates.learning_rate), (trainer.controller, slow)):
        assert part.row_optimizer.param_groups[0]["lr"] == rate * rates.row_rate


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
def test_outcome_tells_each_id_its_mix(build, batch, method):
    _, controller, trainer = build(method)
    events = batch(0)
    ids = events.inputs.ids
    expected = {
        table: mix.detach() for table, mix in controller(ids, trainer.features(ids)).items()
    }
    outcome = trainer.step(events)
    assert not any(mix.requires_grad for mix in outcome.mix.values())
    assert not outcome.logits.requires_grad
    assert not outcome.losses.requires_grad
    for table, own in ids.items():
        plan, places = outcome.plans[table], outcome.places[table]
        assert torch.equal(plan.rows[plan.inverse], own)
        assert torch.equal(plan.rows[places], own)
        assert plan.rows.unique().tolist() == plan.rows.tolist()
        each = outcome.mix[table][places]
        torch.testing.assert_close(each, expected[table])  # another shape, another order of sums


def test_a_fixed_width_has_no_mix(build, batch):
    assert build("fse")[2].step(batch(0)).mix is None


def test_running_statistics_follow_training_batches_alone(build, batch, cycle, assert_exact):
    model, _, trainer = build("autoemb", dtype=torch.float64)
    reference = copy.deepcopy(model)
    cycle(trainer, dtype=torch.float64)
    trainer.predict(batch(7).inputs)
    events = batch(2, dtype=torch.float64)  # the batch that the cycle trained on
    reference(events.inputs, None)
    assert model.embedding.num_batches_tracked.tolist() == [[1, 1], [1, 1]]
    for name in ("running_mean", "running_var"):
        actual, expected = (getattr(m.embedding, name) for m in (model, reference))
        assert_exact(actual, expected)


# Random numbers


class Dropped(nn.Module):
    """A model with dropout that remembers each pass's mask."""

    def __init__(self):
        super().__init__()
        self.embedding = SoftEmbedding([40, 30], (1, 2), features=TABLES, **PAPER)
        self.masks = []

    def forward(self, inputs, mix):
        x = self.embedding(inputs, mix).flatten(1)
        mask = functional.dropout(torch.ones_like(x), 0.5, self.training)
        self.masks.append(mask)
        return (x * mask).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("hypergradient", "passes"), [("first", 1), ("finite-difference", 4), ("exact", 2)]
)
def test_virtual_passes_draw_the_mask_of_the_next_real_one(batch, hypergradient, passes):
    torch.manual_seed(0)
    model = Dropped()
    trainer = BilevelTrainer(
        model, PerIdLogits(TABLES, [40, 30], 2), loss=LOSS, hypergradient=hypergradient, hard=True
    )
    before = torch.random.get_rng_state()
    trainer.controller_step(batch(0), batch(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    trainer.step(batch(2))
    assert not torch.equal(torch.random.get_rng_state(), before)
    assert len(model.masks) == passes + 2  # and the pass that scores the hard selection
    assert 0 < model.masks[0].count_nonzero() < model.masks[0].numel()
    assert all(torch.equal(mask, model.masks[0]) for mask in model.masks)
    trainer.step(batch(3))
    assert not torch.equal(model.masks[-1], model.masks[0])


@pytest.mark.parametrize("hard", [False, True])
def test_training_draws_no_random_numbers(build, batch, cycle, method, hard):
    _, _, trainer = build(method, hard=hard)
    before = torch.random.get_rng_state()
    cycle(trainer)
    trainer.predict(batch(3).inputs, hard=hard)
    assert torch.equal(torch.random.get_rng_state(), before)
