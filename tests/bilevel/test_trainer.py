"""Algorithm 1: what each step changes, what it leaves, and what it costs."""

import copy

import pytest
import torch
from torch import nn

from autoemb import BilevelTrainer, task_for
from autoemb.bilevel.hypergradient import KINDS
from autoemb.nn.rows import grow
from autoemb.optim import OPTIMIZERS
from autoemb.schema import STARS
from tests.bilevel.small import TABLES, example_of

LOSS = task_for("regression", STARS).loss
BILEVEL = ("darts", "autoemb")


# What a step changes


@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", BILEVEL)
def test_controller_step_changes_the_controller_alone(
    build, batch, cycle, method, hypergradient, flat, assert_same
):
    model, controller, trainer = build(method, hypergradient=hypergradient)
    cycle(trainer)
    before, parameters = copy.deepcopy(trainer.state_dict()), flat(controller.state_dict())
    random, training = torch.random.get_rng_state(), model.training
    trainer.controller_step(batch(5), batch(6))
    assert_same(trainer.state_dict()["model"], before["model"])
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.training is training
    after = flat(controller.state_dict())
    assert all(not torch.equal(value, after[path]) for path, value in parameters.items())
    assert all(p.grad is None for p in [*model.parameters(), *controller.parameters()])


@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", BILEVEL)
def test_step_changes_the_model_alone(
    build, batch, cycle, method, hypergradient, flat, assert_same
):
    model, controller, trainer = build(method, hypergradient=hypergradient)
    cycle(trainer)
    before, values = copy.deepcopy(trainer.state_dict()), flat(model.state_dict())
    trainer.step(batch(5))
    assert_same(trainer.state_dict()["controller"], before["controller"])
    after = flat(model.state_dict())
    same = {path for path, value in values.items() if torch.equal(value, after[path])}
    # The op's own bias cancels in batch statistics, so its gradient is zero.
    assert same == {path for path in values if "projections" in path and path.endswith("bias")}
    assert all(p.grad is None for p in [*model.parameters(), *controller.parameters()])


def test_joint_step_changes_model_and_controller(build, batch, flat):
    model, controller, trainer = build("sam")
    before = [flat(module.state_dict()) for module in (model, controller)]
    trainer.step(batch(0))
    for module, values in zip((model, controller), before, strict=True):
        after = flat(module.state_dict())
        same = {path for path, value in values.items() if torch.equal(value, after[path])}
        assert all("projections" in path and path.endswith("bias") for path in same)


@pytest.mark.parametrize("method", ["fse", "sam"])
def test_only_a_bilevel_trainer_takes_controller_steps(build, batch, method):
    _, _, trainer = build(method)
    assert not trainer.bilevel
    with pytest.raises(RuntimeError, match="no controller that learns from past events"):
        trainer.controller_step(batch(0), batch(1))


@pytest.mark.parametrize("hypergradient", ["finite-difference", "exact"])
def test_a_virtual_step_needs_a_training_batch(build, batch, hypergradient):
    _, _, trainer = build("autoemb", hypergradient=hypergradient)
    with pytest.raises(ValueError, match=f"'{hypergradient}' needs a training batch"):
        trainer.controller_step(batch(0))


def test_first_does_without_a_training_batch(build, batch, assert_same):
    states = []
    for training in (None, batch(1)):
        _, controller, trainer = build("autoemb", hypergradient="first")
        trainer.controller_step(batch(0), training)
        states.append(controller.state_dict())
    assert_same(*states)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("hypergradient", "second", "first, finite-difference, exact; got 'second'"),
        ("optimizer", "lion", "adagrad, adam, ftrl, rowwise-adagrad, sgd; got 'lion'"),
    ],
)
def test_unknown_options_are_named(option, value, message):
    with pytest.raises(ValueError, match=f"{option} must be one of {message}"):
        BilevelTrainer(nn.Linear(1, 1), loss=LOSS, **{option: value})


def test_rows_of_no_event_and_their_optimiser_state_stay(build, batch, cycle, method, flat):
    rows = 40, 30
    _, _, trainer = build(method, rows)
    # Every row has optimiser state that a pass over the table would change.
    for start in (0, 10, 20, 30):
        ids = torch.stack([torch.arange(start, start + 10).clamp_max(n - 1) for n in rows], 1)
        events = example_of(ids, torch.rand(10))
        if trainer.bilevel:
            trainer.controller_step(events, events)
        trainer.step(events)
    before = flat(trainer.state_dict())
    used = {table: set() for table in TABLES}
    for seed in range(10, 13):
        for table, column in batch(seed).inputs.ids.items():
            used[table] |= {*column.tolist()}
    cycle(trainer, seed=10)
    after, tables = flat(trainer.state_dict()), 0
    for path, value in before.items():
        if not isinstance(value, torch.Tensor) or value.shape[:1] not in ((40,), (30,)):
            continue
        table = TABLES[rows.index(len(value))]
        other = [row for row in range(len(value)) if row not in used[table]]
        assert other
        assert torch.equal(value[other], after[path][other]), path
        assert not torch.equal(value, after[path]), path
        tables += 1
    # Two tables: the rows and Adagrad's sums; of the soft ones, two sizes.
    assert tables == {"fse": 4, "sam": 6, "darts": 10, "autoemb": 6}[method]


def test_frozen_parameters_stay_and_a_frozen_table_is_refused(build, batch):
    model, controller, trainer = build("autoemb")
    frozen = [model.hidden[0].weight, controller.networks[0][0].weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen]
    moving = model.hidden[0].bias.detach().clone()
    trainer.controller_step(batch(0), batch(1))
    trainer.step(batch(1))
    assert all(map(torch.equal, frozen, before))
    assert not torch.equal(model.hidden[0].bias, moving)
    model.embedding.table_0.requires_grad_(False)
    with pytest.raises(ValueError, match=r"embedding\.table_0 is frozen"):
        BilevelTrainer(model, loss=LOSS)


# Growth and state


def test_tables_may_grow_between_steps(build, cycle, method, flat):
    model, controller, trainer = build(method)
    cycle(trainer)
    before = flat(trainer.state_dict())
    for module in (model, controller):
        if module is not None:
            grow(module, {"user_id": 80})
    after = flat(trainer.state_dict())
    for path, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(after[path][: len(value)] if value.dim() else after[path], value)
    newcomers = example_of(torch.tensor([[79, 3], [60, 3], [2, 0]]), torch.ones(3))
    if trainer.bilevel:
        trainer.controller_step(newcomers, newcomers)
    assert trainer.step(newcomers).logits.isfinite().all()
    tables = {n: p for n, p in model.named_parameters() if n.endswith("table_0")}
    assert all(len(parameter) == 80 for parameter in tables.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hypergradient", KINDS)
def test_a_restored_trainer_continues_to_the_last_bit(
    build, cycle, method, hypergradient, optimizer, assert_same
):
    options = {"hypergradient": hypergradient, "optimizer": optimizer}
    _, _, trainer = build(method, **options)
    for seed in range(0, 9, 3):
        cycle(trainer, seed)
    _, _, restored = build(method, **options)
    restored.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for seed in range(9, 18, 3):
        first, second = cycle(trainer, seed), cycle(restored, seed)
        assert torch.equal(first.logits, second.logits)
    assert_same(trainer.state_dict(), restored.state_dict())


# Cost

VOCABULARY = 100_003


def largest_allocation(work):
    """Return the bytes of the largest block that ``work`` allocates on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_the_largest_allocation_is_seen_inside_an_op():
    table = torch.zeros(VOCABULARY, 2, dtype=torch.bool)
    assert largest_allocation(lambda: table[:, 0].clone()) == VOCABULARY
    assert largest_allocation(lambda: (~table[:, 0]).sum()) >= VOCABULARY


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hypergradient", KINDS)
def test_a_step_allocates_nothing_as_long_as_a_table(
    build, batch, cycle, method, hypergradient, optimizer
):
    rows = VOCABULARY, VOCABULARY
    _, _, trainer = build(method, rows, hypergradient=hypergradient, optimizer=optimizer)
    cycle(trainer, rows=rows)  # makes the optimiser's state, once for a size of the tables
    # One byte a row would already be the sign of a tensor with as many rows.
    assert largest_allocation(lambda: cycle(trainer, seed=5, rows=rows)) < VOCABULARY
    inputs = batch(9, rows=rows).inputs
    assert largest_allocation(lambda: trainer.predict(inputs, hard=True)) < VOCABULARY
