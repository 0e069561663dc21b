"""Algorithm 1: what each step changes, what it leaves, and what it costs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import (
    TASKS,
    BilevelTrainer,
    Controller,
    FixedEmbedding,
    PerIdLogits,
    RatingModel,
    SoftEmbedding,
)
from autoemb.bilevel import Batch
from autoemb.bilevel.hypergradient import KINDS
from autoemb.controller import select_hard
from autoemb.rows import grow

METHODS = ("fse", "sam", "darts", "autoemb")
BILEVEL = ("darts", "autoemb")
LOSS = TASKS["regression"].loss
DIMS, FEATURES = (1, 2), 5
EXACT = 1e-12  # float64, the same sums in another order


def build(method, rows=(40, 30), *, hypergradient="exact", dtype=None, **options):
    """Return model, controller and trainer of one of the paper's methods."""
    torch.manual_seed(0)
    controller, inputs = None, [torch.randn(n, FEATURES, dtype=dtype) for n in rows]
    if method == "fse":
        model = RatingModel(FixedEmbedding(rows, sum(DIMS)), hidden=(4,))
    else:
        model = RatingModel(SoftEmbedding(rows, DIMS), hidden=(4,))
    if method == "darts":
        controller = PerIdLogits(rows, len(DIMS))
    elif method != "fse":
        controller = Controller(len(rows), len(DIMS), FEATURES, hidden=(4,))
    modules = [model] if controller is None else [model, controller]
    for module in modules:
        module.to(dtype)
        with torch.no_grad():  # a controller's zeros would hide what depends on them
            for parameter in module.parameters():
                parameter.normal_()
    trainer = BilevelTrainer(
        model,
        controller,
        loss=LOSS,
        features=lambda field, ids: inputs[field][ids % rows[field]],  # rows may be added
        joint=method == "sam",
        hypergradient=hypergradient,
        **options,
    )
    return model, controller, trainer


def batch(seed, rows=(40, 30), size=8, dtype=None):
    """Events of the first half of each table, most ids twice or more."""
    random = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, n // 4, (size,), generator=random) * 2 for n in rows]
    return Batch(torch.stack(ids, 1), torch.rand(size, generator=random, dtype=dtype))


def cycle(trainer, seed=0, **options):
    """One turn of Algorithm 1."""
    if trainer.bilevel:
        trainer.controller_step(batch(seed, **options), batch(seed + 1, **options))
    return trainer.step(batch(seed + 2, **options))


def dense_forward(model, controller, trainer, events):
    """Logits of real modules on whole tables."""
    if controller is None:
        return model(events.ids, None)
    columns = events.ids.unbind(1)
    features = [trainer.features(field, ids) for field, ids in enumerate(columns)]
    return model(events.ids, torch.stack(controller(columns, features), 1))


# What a step changes


@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", BILEVEL)
def test_controller_step_changes_the_controller_alone(method, hypergradient, flat, assert_same):
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
def test_step_changes_the_model_alone(method, hypergradient, flat, assert_same):
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


def test_joint_step_changes_model_and_controller(flat):
    model, controller, trainer = build("sam")
    before = [flat(module.state_dict()) for module in (model, controller)]
    trainer.step(batch(0))
    for module, values in zip((model, controller), before, strict=True):
        after = flat(module.state_dict())
        same = {path for path, value in values.items() if torch.equal(value, after[path])}
        assert all("projections" in path and path.endswith("bias") for path in same)


@pytest.mark.parametrize("method", ["fse", "sam"])
def test_only_a_bilevel_trainer_takes_controller_steps(method):
    _, _, trainer = build(method)
    assert not trainer.bilevel
    with pytest.raises(RuntimeError, match="no controller that learns from past events"):
        trainer.controller_step(batch(0), batch(1))


@pytest.mark.parametrize("hypergradient", ["finite-difference", "exact"])
def test_a_virtual_step_needs_a_training_batch(hypergradient):
    _, _, trainer = build("autoemb", hypergradient=hypergradient)
    with pytest.raises(ValueError, match=f"'{hypergradient}' needs a training batch"):
        trainer.controller_step(batch(0))


def test_first_does_without_a_training_batch(assert_same):
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
        ("optimizer", "lion", "adam, adagrad, sgd; got 'lion'"),
    ],
)
def test_unknown_options_are_named(option, value, message):
    with pytest.raises(ValueError, match=f"{option} must be one of {message}"):
        BilevelTrainer(nn.Linear(1, 1), loss=LOSS, **{option: value})


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_no_event_and_their_optimiser_state_stay(method, flat):
    rows = 40, 30
    _, _, trainer = build(method, rows)
    # Every row has optimiser state that a pass over the table would change.
    for start in (0, 10, 20, 30):
        ids = torch.stack([torch.arange(start, start + 10).clamp_max(n - 1) for n in rows], 1)
        events = Batch(ids, torch.rand(10))
        if trainer.bilevel:
            trainer.controller_step(events, events)
        trainer.step(events)
    before = flat(trainer.state_dict())
    used = [set(), set()]
    for seed in range(10, 13):
        for field, column in enumerate(batch(seed).ids.unbind(1)):
            used[field] |= {*column.tolist()}
    cycle(trainer, seed=10)
    after, tables = flat(trainer.state_dict()), 0
    for path, value in before.items():
        if not isinstance(value, torch.Tensor) or value.shape[:1] not in ((40,), (30,)):
            continue
        field = rows.index(len(value))
        other = [row for row in range(len(value)) if row not in used[field]]
        assert other
        assert torch.equal(value[other], after[path][other]), path
        assert not torch.equal(value, after[path]), path
        tables += 1
    # Two fields: the tables and three numbers of Adam; of the soft ones, two sizes.
    assert tables == {"fse": 8, "sam": 10, "darts": 18, "autoemb": 10}[method]


# What a step computes


@pytest.mark.parametrize("method", METHODS)
def test_step_is_gradient_descent_on_whole_tables(method):
    model, controller, trainer = build(
        method, dtype=torch.float64, optimizer="sgd", learning_rate=0.3, controller_learning_rate=2
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
        losses = LOSS(logits, events.target)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        outcome = trainer.step(events)
        torch.testing.assert_close(outcome.logits, logits.detach(), rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(outcome.losses, losses.detach(), rtol=EXACT, atol=EXACT)
    for module, expected in zip((model, controller), reference, strict=True):
        if module is not None:
            for name, value in module.state_dict().items():
                wanted = expected.state_dict()[name]
                torch.testing.assert_close(value, wanted, rtol=EXACT, atol=EXACT)


def test_first_step_of_adam_is_that_on_whole_tables():
    model, controller, trainer = build(
        "autoemb", dtype=torch.float64, learning_rate=0.1, row_rate=1
    )
    reference = copy.deepcopy(model)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.1)
    events = batch(0, dtype=torch.float64)
    LOSS(dense_forward(reference, controller, trainer, events), events.target).mean().backward()
    # A generic backward leaves rounding noise in the bias that cancels, and Adam would amplify it.
    reference.embedding.bias.grad.zero_()
    optimizer.step()
    trainer.step(events)
    for name, value in model.state_dict().items():
        # 1e-7: Adam divides by a gradient's size plus 1e-8, which lifts the rounding of small ones.
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-7, atol=1e-7)


def test_rows_step_by_the_row_rate():
    moved = {}
    for row_rate in (None, 1, 30):
        torch.manual_seed(0)
        model, _, trainer = build("fse", learning_rate=0.001, row_rate=row_rate)
        before = model.embedding.table_0.detach().clone()
        trainer.step(batch(0))
        moved[row_rate] = (model.embedding.table_0.detach() - before).abs().max().item()
    # Adam's first step is the learning rate.
    assert moved[1] == pytest.approx(0.001, rel=1e-2)
    assert moved[None] == moved[30] == pytest.approx(0.03, rel=1e-2)


def test_frozen_parameters_stay_and_a_frozen_table_is_refused():
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


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
def test_outcome_tells_each_id_its_weights(method):
    _, controller, trainer = build(method)
    events = batch(0)
    columns = events.ids.unbind(1)
    features = [trainer.features(field, ids) for field, ids in enumerate(columns)]
    expected = [weights.detach() for weights in controller(columns, features)]
    outcome = trainer.step(events)
    assert not any(weights.requires_grad for weights in outcome.weights)
    assert not outcome.logits.requires_grad
    assert not outcome.losses.requires_grad
    for field, ids in enumerate(columns):
        plan, rows = outcome.plans[field], outcome.rows[field]
        assert torch.equal(rows[plan.inverse], ids)
        assert rows.unique().tolist() == rows.tolist()
        spread = outcome.weights[field][plan.inverse]
        torch.testing.assert_close(spread, expected[field])  # another shape, another order of sums


def test_a_fixed_width_has_no_weights():
    assert build("fse")[2].step(batch(0)).weights is None


def test_running_statistics_follow_training_batches_alone():
    model, _, trainer = build("autoemb", dtype=torch.float64)
    reference = copy.deepcopy(model)
    cycle(trainer, dtype=torch.float64)
    trainer.predict(batch(7).ids)
    events = batch(2, dtype=torch.float64)  # the batch that the cycle trained on
    reference(events.ids, torch.full((8, 2, 2), 0.5, dtype=torch.float64))
    assert model.embedding.num_batches_tracked.tolist() == [[1, 1], [1, 1]]
    for name in ("running_mean", "running_var"):
        actual, expected = (getattr(m.embedding, name) for m in (model, reference))
        torch.testing.assert_close(actual, expected, rtol=EXACT, atol=EXACT)


# Random numbers


class Dropped(nn.Module):
    """A model with dropout that remembers each pass's mask."""

    def __init__(self):
        super().__init__()
        self.embedding = SoftEmbedding([40, 30], DIMS)
        self.masks = []

    def forward(self, ids, weights):
        x = self.embedding(ids, weights).flatten(1)
        mask = functional.dropout(torch.ones_like(x), 0.5, self.training)
        self.masks.append(mask)
        return (x * mask).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("hypergradient", "passes"), [("first", 1), ("finite-difference", 4), ("exact", 2)]
)
def test_virtual_passes_draw_the_mask_of_the_next_real_one(hypergradient, passes):
    torch.manual_seed(0)
    model = Dropped()
    trainer = BilevelTrainer(
        model, PerIdLogits([40, 30], 2), loss=LOSS, hypergradient=hypergradient, hard=True
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
@pytest.mark.parametrize("method", METHODS)
def test_training_draws_no_random_numbers(method, hard):
    _, _, trainer = build(method, hard=hard)
    before = torch.random.get_rng_state()
    cycle(trainer)
    trainer.predict(batch(3).ids, hard=hard)
    assert torch.equal(torch.random.get_rng_state(), before)


# Cost


def largest_allocation(work):
    """Return the bytes of the largest block that ``work`` allocates on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


VOCABULARY = 100_003


def test_the_largest_allocation_is_seen_inside_an_op():
    table = torch.zeros(VOCABULARY, 2, dtype=torch.bool)
    assert largest_allocation(lambda: table[:, 0].clone()) == VOCABULARY
    assert largest_allocation(lambda: (~table[:, 0]).sum()) >= VOCABULARY


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_allocates_nothing_as_long_as_a_table(method, hypergradient, optimizer):
    rows = VOCABULARY, VOCABULARY
    _, _, trainer = build(method, rows, hypergradient=hypergradient, optimizer=optimizer)
    cycle(trainer, rows=rows)  # makes the optimiser's state, once for a size of the tables
    # One byte a row would already be the sign of a tensor with as many rows.
    assert largest_allocation(lambda: cycle(trainer, seed=5, rows=rows)) < VOCABULARY
    ids = batch(9, rows=rows).ids
    assert largest_allocation(lambda: trainer.predict(ids, hard=True)) < VOCABULARY


# Serving


@pytest.mark.parametrize("method", METHODS)
def test_predict_is_the_model_in_eval_mode_and_changes_nothing(method, assert_same):
    model, controller, trainer = build(method, dtype=torch.float64)
    cycle(trainer, dtype=torch.float64)
    before, events = copy.deepcopy(trainer.state_dict()), batch(7, dtype=torch.float64)
    logits = trainer.predict(events.ids)
    assert_same(trainer.state_dict(), before)
    assert model.training
    assert not logits.requires_grad
    model.eval()
    expected = dense_forward(model, controller, trainer, events).detach()
    torch.testing.assert_close(logits, expected, rtol=EXACT, atol=EXACT)
    one = trainer.predict(events.ids[:1])
    torch.testing.assert_close(one, expected[:1], rtol=EXACT, atol=EXACT)
    assert not model.training


def test_predict_restores_the_mode_after_an_error(monkeypatch):
    model, _, trainer = build("fse")

    def broken(*args):
        assert not model.training
        raise ValueError("broken")

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(ValueError, match="broken"):
        trainer.predict(batch(0).ids)
    assert model.training


def test_an_id_beyond_the_tables_is_an_error():
    _, _, trainer = build("fse")
    with pytest.raises(IndexError):
        trainer.predict(torch.tensor([[0, 1000]]))


def test_predict_leaves_the_mode_of_every_part_of_the_model():
    model, _, trainer = build("autoemb")
    model.hidden.eval()
    trainer.predict(batch(0).ids)
    assert model.training
    assert not model.hidden.training


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
def test_hard_prediction_takes_the_largest_size_alone(method):
    model, controller, trainer = build(method, dtype=torch.float64)
    ids = batch(0).ids
    columns = ids.unbind(1)
    features = [trainer.features(field, rows) for field, rows in enumerate(columns)]
    weights = torch.stack(controller(columns, features), 1).detach()
    hard = select_hard(weights)
    assert hard.sum(2).unique().tolist() == [1.0]
    assert len(weights.argmax(2).unique()) == 2
    model.eval()
    expected = model(ids, hard).detach()
    model.train()
    torch.testing.assert_close(trainer.predict(ids, hard=True), expected, rtol=EXACT, atol=EXACT)
    assert not torch.allclose(trainer.predict(ids), expected, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_hard_scoring_trains_softly(method, assert_same):
    results = {}
    for hard in (False, True):
        _, _, trainer = build(method, hard=hard)
        results[hard] = [cycle(trainer, seed) for seed in range(3)], trainer.state_dict()
    (soft, soft_state), (scored, hard_state) = results[False], results[True]
    assert_same(soft_state, hard_state)
    for first, second in zip(soft, scored, strict=True):
        assert torch.equal(first.logits, second.logits) == (method == "fse")
        assert torch.equal(first.losses, second.losses) == (method == "fse")


def test_hard_scores_are_those_of_the_largest_size_before_the_step():
    model, controller, trainer = build("darts", dtype=torch.float64, hard=True)
    events = batch(0, dtype=torch.float64)
    columns = events.ids.unbind(1)
    weights = torch.stack(controller(columns, [None, None]), 1).detach()
    logits = copy.deepcopy(model)(events.ids, select_hard(weights)).detach()
    outcome = trainer.step(events)
    torch.testing.assert_close(outcome.logits, logits, rtol=EXACT, atol=EXACT)
    losses = LOSS(logits, events.target)
    torch.testing.assert_close(outcome.losses, losses, rtol=EXACT, atol=EXACT)


# Growth and state


@pytest.mark.parametrize("method", METHODS)
def test_tables_may_grow_between_steps(method, flat):
    model, controller, trainer = build(method)
    cycle(trainer)
    before = flat(trainer.state_dict())
    for module in (model, controller):
        if module is not None:
            grow(module, [80, 30])
    after = flat(trainer.state_dict())
    for path, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(after[path][: len(value)] if value.dim() else after[path], value)
    newcomers = Batch(torch.tensor([[79, 3], [60, 3], [2, 0]]), torch.ones(3))
    if trainer.bilevel:
        trainer.controller_step(newcomers, newcomers)
    assert trainer.step(newcomers).logits.isfinite().all()
    tables = {n: p for n, p in model.named_parameters() if n.endswith("table_0")}
    assert all(len(parameter) == 80 for parameter in tables.values())


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_restored_trainer_continues_to_the_last_bit(
    method, hypergradient, optimizer, assert_same
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
