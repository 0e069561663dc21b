"""The loop of Algorithm 1: its order, its tables, its resumption."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch
from autoemb.bilevel.hypergradient import KINDS
from autoemb.learners import METHODS
from autoemb.nn import Inputs
from autoemb.nn.controller import select_hard
from autoemb.optim import OPTIMIZERS
from autoemb.recipe import OPPONENTS
from autoemb.schema import Label
from autoemb.streaming import History, Reservoir, checkpoint
from autoemb.streaming.learner import VALIDATION_SOURCES, StreamLearner
from autoemb.tasks import task_for

#: Of five batches, those whose predictions depend on the seed; of other methods all. The weights of
#: "logistic" start at zero, and the products of its factors tell late.
SEEDED = {"mean": 0, "bias": 0, "logistic": 1}


SIZE = 6
WITH_MIX = [name for name, method in METHODS.items() if method.controller]
TABLES = ("user", "item")
TASK = task_for("regression", Label(column="rating", kind="rating", scale=(0, 5)))


def batch_of(users, items, label=None):
    label = torch.linspace(0, 5, len(users)) if label is None else label
    return Batch({"user": np.asarray(users), "item": np.asarray(items)}, label=label)


# Order


def spy_on(trainer, monkeypatch):
    """Return a list that collects what the trainer computes, with the grades it was given."""
    calls = []
    for name in ("compute_controller", "compute"):
        inner = getattr(trainer, name)

        def spy(*examples, name=name, inner=inner, **options):
            calls.append((name, *(example.grade.tolist() for example in examples)))
            return inner(*examples, **options)

        monkeypatch.setattr(trainer, name, spy)
    return calls


@pytest.mark.parametrize("method", ["darts", "autoemb"])
def test_the_controller_learns_from_the_past_before_a_batch_is_taken(
    make_learner, make_batches, monkeypatch, method
):
    learner, batches = make_learner(method, validation="reservoir"), make_batches(6)
    calls = spy_on(learner.trainer, monkeypatch)
    for batch in batches:
        learner.learn(batch)
    labels = [TASK.grade(batch.label).tolist() for batch in batches]
    assert [name for name, *_ in calls] == ["compute", *["compute_controller", "compute"] * 5]
    assert [call[1] for call in calls if call[0] == "compute"] == labels
    for number, (validation, training) in enumerate(
        [call[1:] for call in calls if call[0] == "compute_controller"], start=1
    ):
        past = [label for one in labels[:number] for label in one]
        assert len(validation) == SIZE
        assert {*validation} <= {*past}
        assert training == labels[number - 1]  # the previous training batch


@pytest.mark.parametrize("method", ["darts", "autoemb"])
def test_the_last_batch_may_be_the_validation_batch(
    make_learner, make_batches, monkeypatch, method
):
    learner, batches = make_learner(method, validation="last-batch"), make_batches(5)
    calls = spy_on(learner.trainer, monkeypatch)
    for batch in batches:
        learner.learn(batch)
    labels = [TASK.grade(batch.label).tolist() for batch in batches]
    assert [name for name, *_ in calls] == ["compute"] * 2 + ["compute_controller", "compute"] * 3
    steps = [call[1:] for call in calls if call[0] == "compute_controller"]
    assert steps == [(labels[i + 1], labels[i]) for i in range(3)]


def test_first_order_on_new_events_is_joint_training(make_learner, make_batches, changes):
    ends = []
    for method in ("sam", "autoemb"):
        learner = make_learner(method, validation="new-events")
        logits = [learner.learn(batch).outcome.logits for batch in make_batches(6)]
        ends.append((logits, learner.trainer.state_dict()))
    assert not changes(*ends)
    assert learner.reservoir.seen == 0


@pytest.mark.parametrize("hypergradient", KINDS[1:])
def test_new_events_validate_as_they_were_before_they_were_learnt(
    make_learner, make_batches, changes, hypergradient
):
    options = {"validation": "new-events", "hypergradient": hypergradient}
    *batches, last = make_batches(4)
    learner = make_learner("autoemb", **options)
    for batch in [*batches, last]:
        learner.learn(batch)
    other = make_learner("autoemb", **options)
    for batch in batches:
        other.learn(batch)
    # The same rows, in the same order, as for the first learner.
    new, previous = other._inserted(last), other._seen(other._recent[0])
    assert torch.equal(previous.grade, TASK.grade(batches[-1].label))
    # The controller's step alone, from the same weights.
    other.trainer.controller_step(new, previous)
    controllers = [one.trainer.state_dict()["controller"] for one in (learner, other)]
    assert not changes(*controllers)


@pytest.mark.parametrize("method", ["fse", "sam"])
def test_methods_of_one_level_take_no_past_events(make_learner, make_batches, monkeypatch, method):
    learner, batches = make_learner(method), make_batches(4)
    calls = spy_on(learner.trainer, monkeypatch)
    for batch in batches:
        learner.learn(batch)
    assert [name for name, *_ in calls] == ["compute"] * 4
    assert learner.reservoir.seen == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reports_the_batch_and_its_past(make_learner, make_batches, method):
    learner, seen = make_learner(method), {"user": {}, "item": {}}
    for batch in make_batches(6):
        step = learner.learn(batch)
        assert torch.equal(step.label, TASK.target(batch.label))
        assert step.weight is None
        assert step.outcome.logits.shape == (SIZE, 1)
        assert step.losses is step.outcome.losses
        assert step.losses.shape == (SIZE,)
        for name, ids in batch.sparse.items():
            counts = seen[name]
            # Strictly before the batch: its own events do not count, not even earlier ones.
            assert step.popularity[name].tolist() == [counts.get(i, 0) for i in ids.tolist()]
        for name, ids in batch.sparse.items():
            for i in ids.tolist():
                seen[name][i] = seen[name].get(i, 0) + 1
    assert learner.num_ids() == {name: len(counts) for name, counts in seen.items()}
    for name, table in learner.encoder.id_tables.items():
        assert table.ids().tolist() == [*seen[name]]  # rows in order of first sight
        rows = torch.arange(len(table))
        assert learner.history.count(name, rows).tolist() == [*seen[name].values()]


def test_history_records_what_was_given_and_lost(make_learner, make_batches):
    learner = make_learner("autoemb")
    for batch in make_batches(4):
        outcome = learner.learn(batch).outcome
    rows = {table: plan.rows for table, plan in outcome.plans.items()}
    for table, features in learner.history.features(rows).items():
        assert torch.equal(features[:, 32:-3], outcome.mix[table])
        inverse = outcome.plans[table].inverse.tolist()
        last = dict(zip(inverse, outcome.losses.tolist(), strict=True))
        assert features[:, -3].tolist() == [last[row] for row in range(len(rows[table]))]


def test_weights_of_events_count_in_the_mean_loss_alone(make_learner, make_batches, changes):
    weighted, dropped = make_learner("fse", optimizer="sgd"), make_learner("fse", optimizer="sgd")
    (batch,) = make_batches(1)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 1.0])
    step = weighted.learn(replace(batch, weight=weight))
    assert torch.equal(step.weight, weight)
    # The same as an event that comes twice and others that do not, over as many events.
    kept = [0, 2, 2, 5]
    sparse = {name: ids[kept] for name, ids in batch.sparse.items()}
    part = Batch(sparse, label=batch.label[kept], weight=torch.full((4,), 4 / 6))
    assert torch.allclose(step.losses[kept], dropped.learn(part).losses)
    for one, other in zip(
        weighted.trainer.model.function.dense.values(),
        dropped.trainer.model.function.dense.values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


# Construction


def test_an_unknown_source_of_validation_is_named(make_learner):
    learner = make_learner()
    with pytest.raises(ValueError, match="reservoir, last-batch; got 'future'"):
        StreamLearner(learner.trainer, learner.history, Reservoir(), validation="future")


def test_parts_that_do_not_fit_are_named(make_learner):
    trainer = make_learner().trainer
    with pytest.raises(ValueError, match="the history has no table 'item'; it has user"):
        StreamLearner(trainer, History(["user"], 2))
    with pytest.raises(
        ValueError, match="the history keeps a mix of 3 sizes; the controller gives 2"
    ):
        StreamLearner(trainer, History(TABLES, 3))
    with pytest.raises(ValueError, match="needs a reservoir"):
        StreamLearner(trainer, History(TABLES, 2), validation="reservoir")
    with pytest.raises(ValueError, match="initial_rows must be positive; got 0"):
        StreamLearner(trainer, History(TABLES, 2), initial_rows=0)


# Tables


@pytest.mark.parametrize("method", [name for name in METHODS if name not in OPPONENTS])
def test_tables_double_as_ids_appear(make_learner, method):
    learner = make_learner(method)
    row_modules = [
        module for owner in learner.modules for module in owner.modules()
        if hasattr(module, "num_rows")
    ]  # fmt: skip
    assert len(row_modules) == (2 if method == "darts" else 1)

    def rows():
        (found,) = {tuple(module.num_rows(table) for table in TABLES) for module in row_modules}
        for table, count in zip(TABLES, found, strict=True):  # the history has as many rows
            assert len(learner.history.count(table, torch.arange(count))) == count
            with pytest.raises(IndexError):
                learner.history.count(table, torch.tensor([count]))
        return found

    learner.learn(batch_of([10, 11], [1, 1]))
    assert rows() == (4, 4)
    learner.learn(batch_of([12, 12], [1, 2]))  # all but the row that tells what is new
    assert rows() == (4, 4)
    learner.learn(batch_of([13, 13], [1, 2]))
    assert rows() == (8, 4)
    step = learner.learn(batch_of(np.arange(10, 50), np.ones(40, dtype=int)))
    assert rows() == (64, 4)  # past 8, 16 and 32 at once
    assert step.popularity["user"].tolist() == [1, 1, 2, 2] + [0] * 36
    assert step.outcome.logits.isfinite().all()
    learner.learn(batch_of([50, 51], [1, 1]))
    assert rows() == (64, 4)
    learner.learn(batch_of(np.arange(52, 75), np.arange(23)))
    assert rows() == (128, 32)


@pytest.mark.parametrize("method", METHODS)
def test_growth_keeps_every_row_to_the_last_bit(make_learner, make_batches, flat, method):
    learner = make_learner(method)
    for batch in make_batches(3):
        learner.learn(batch)
    before = flat(learner.state_dict())
    learner._grow({"user": 64, "item": 32})
    for path, value in flat(learner.state_dict()).items():
        if isinstance(value, torch.Tensor):
            old = before[path]
            assert torch.equal(value[: len(old)] if value.dim() else value, old), path


def test_ids_keep_their_rows(make_learner):
    learner = make_learner("fse")

    def rows(users, items, insert=True):
        batch = learner.encoder.checked(batch_of(users, items), labelled=False)
        return {n: r.tolist() for n, r in learner.encoder.numbers(batch, insert=insert).items()}

    assert rows([9, 7, 9], [1, 2, 3]) == {"user": [0, 1, 0], "item": [0, 1, 2]}
    rows(np.arange(100, 200), np.arange(100, 200))
    assert rows([7, 9], [3, 1], insert=False) == {"user": [1, 0], "item": [2, 0]}


# Prediction


@pytest.mark.parametrize("method", METHODS)
def test_predict_changes_nothing(make_learner, make_batches, changes, method):
    learner, batches = make_learner(method), make_batches(5)
    for batch in batches[:4]:
        learner.learn(batch)
    before = copy.deepcopy(learner.state_dict())
    for hard in (False, True):
        first = learner.predict(batches[1], hard=hard)
        assert torch.equal(learner.predict(batches[1], hard=hard), first)
    assert changes(before, learner.state_dict()) == []


@pytest.mark.parametrize("method", WITH_MIX)
def test_hard_prediction_takes_each_ids_largest_size(make_learner, make_batches, method):
    learner = make_learner(method)
    for batch in make_batches(4):
        learner.learn(batch)
    model, controller = learner.modules
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.normal_()
    batch = make_batches(4)[3]
    inputs = Inputs(learner._seen(batch).inputs.ids)
    rows = {name: ids.unique() for name, ids in inputs.ids.items()}
    mix = controller(rows, learner.history.features(rows))
    every = {
        name: torch.zeros(99, 2).index_copy_(0, own, select_hard(mix[name]).detach())
        for name, own in rows.items()
    }
    model.eval()
    expected = model(inputs, every)
    model.train()
    torch.testing.assert_close(learner.predict(batch, hard=True), expected.detach())
    assert not torch.allclose(learner.predict(batch), expected)


def test_hard_selection_scores_differently_and_trains_alike(make_learner, make_batches, changes):
    finals, losses = {}, {}
    for selection in ("soft", "hard"):
        learner = make_learner("darts", selection=selection)  # reads no history of losses
        with torch.no_grad():
            for parameter in learner.modules[1].parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        monkeyed = learner.modules[1].new_rows

        def new_rows(name, keys, inner=monkeyed):  # equal weights have no largest size
            return inner(name, keys) + torch.tensor([0.5, -0.5])

        learner.modules[1].new_rows = new_rows
        losses[selection] = [learner.learn(batch).losses for batch in make_batches(5)]
        finals[selection] = learner.trainer.state_dict()
    assert changes(finals["soft"], finals["hard"]) == []
    assert not any(torch.equal(a, b) for a, b in zip(losses["soft"], losses["hard"], strict=True))


# Repetition and resumption


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    make_learner, make_batches, changes, method
):
    finals = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(finals) + 7)  # must not matter
        learner = make_learner(method, seed=seed)
        logits = [learner.learn(batch).outcome.logits for batch in make_batches(5)]
        finals.append({"logits": logits, "learner": learner.state_dict()})
    assert changes(finals[0], finals[1]) == []
    changed = {f"/logits/{i}" for i in range(5)} & {*changes(finals[0], finals[2])}
    assert len(changed) == SEEDED.get(method, 5)


@pytest.mark.parametrize("validation", VALIDATION_SOURCES)
@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_learner_from_a_file_continues_to_the_last_bit(
    make_learner, make_batches, changes, tmp_path, method, hypergradient, validation
):
    options = {"hypergradient": hypergradient, "validation": validation}
    learner, batches = make_learner(method, **options), make_batches(9)
    for batch in batches[:4]:
        learner.learn(batch)
    checkpoint.save({"learner": learner.state_dict()}, tmp_path / "state")
    expected = [learner.learn(batch) for batch in batches[4:]]

    restored = make_learner(method, seed=1, **options)  # whatever is not restored shows
    restored.load_state_dict(checkpoint.load(tmp_path / "state")["learner"])
    for batch, step in zip(batches[4:], expected, strict=True):
        assert changes(restored.learn(batch), step) == []
    assert changes(restored.state_dict(), learner.state_dict()) == []
    assert restored.state_dict()["rows"]["user"] > 16  # the tables grew after the resumption


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_other_optimisers_continue_to_the_last_bit_too(
    make_learner, make_batches, changes, tmp_path, method, optimizer
):
    learner, batches = make_learner(method, optimizer=optimizer), make_batches(6)
    for batch in batches[:3]:
        learner.learn(batch)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    for batch in batches[3:]:
        learner.learn(batch)
    restored = make_learner(method, optimizer=optimizer, seed=1)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for batch in batches[3:]:
        restored.learn(batch)
    assert changes(restored.state_dict(), learner.state_dict()) == []


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
@pytest.mark.parametrize("method", METHODS)
def test_a_learner_of_all_kinds_of_features_continues_to_the_last_bit(
    make_learner, make_batches, with_strings, changes, tmp_path, method, strings
):
    options = {"kind": "shapes", "validation": "reservoir", "hypergradient": "exact"}
    learner, batches = make_learner(method, **options), make_batches(7, kind="shapes")
    if strings:
        batches = [*map(with_strings, batches)]
    for batch in batches[:4]:
        learner.learn(batch)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    expected = [learner.learn(batch) for batch in batches[4:]]
    restored = make_learner(method, seed=1, initial_rows=100, **options)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for batch, step in zip(batches[4:], expected, strict=True):
        assert changes(restored.learn(batch), step) == []
    assert changes(restored.predict(batches[-1]), learner.predict(batches[-1])) == []


def test_a_learner_can_be_saved_before_its_first_batch(
    make_learner, make_batches, changes, tmp_path
):
    learner, restored = make_learner("autoemb"), make_learner("autoemb", seed=1)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    expected = [learner.learn(batch) for batch in make_batches(3)]
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for batch, step in zip(make_batches(3), expected, strict=True):
        assert changes(restored.learn(batch), step) == []
