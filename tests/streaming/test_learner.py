"""The loop of Algorithm 1: its order, its tables, its resumption."""

import copy

import numpy as np
import pytest
import torch
from autoemb.lab.methods import METHODS

from autoemb.bilevel import Batch
from autoemb.bilevel.hypergradient import KINDS
from autoemb.nn.controller import select_hard
from autoemb.optim import OPTIMIZERS
from autoemb.streaming import Events, Reservoir, checkpoint
from autoemb.streaming.learner import VALIDATION_SOURCES, StreamLearner

SIZE = 6
WITH_WEIGHTS = [name for name, method in METHODS.items() if method.controller]


def events_of(users, items, label=None):
    users, items = np.asarray(users), np.asarray(items)
    label = torch.linspace(0, 1, len(users)) if label is None else label
    return Events([users, items], label, np.zeros(len(users), dtype=np.int64))


# Order


def spy_on(trainer, monkeypatch):
    """Return a list that collects the trainer's steps, with the ids and labels they were given."""
    calls = []
    for name in ("controller_step", "step"):
        inner = getattr(trainer, name)

        def spy(*batches, name=name, inner=inner, **options):
            calls.append((name, *(batch.target.tolist() for batch in batches)))
            return inner(*batches, **options)

        monkeypatch.setattr(trainer, name, spy)
    return calls


@pytest.mark.parametrize("method", ["darts", "autoemb"])
def test_the_controller_learns_from_the_past_before_a_batch_is_taken(
    make_learner, make_batches, monkeypatch, method
):
    learner, batches = make_learner(method, validation="reservoir"), make_batches(6)
    calls = spy_on(learner.trainer, monkeypatch)
    for events in batches:
        learner.learn(events)
    labels = [events.label.tolist() for events in batches]
    assert [name for name, *_ in calls] == ["step", *["controller_step", "step"] * 5]
    assert [call[1] for call in calls if call[0] == "step"] == labels
    for number, (validation, training) in enumerate(
        [call[1:] for call in calls if call[0] == "controller_step"], start=1
    ):
        past = [label for batch in labels[:number] for label in batch]
        assert len(validation) == SIZE
        assert {*validation} <= {*past}
        assert training == labels[number - 1]  # the previous training batch


@pytest.mark.parametrize("method", ["darts", "autoemb"])
def test_the_last_batch_may_be_the_validation_batch(
    make_learner, make_batches, monkeypatch, method
):
    learner, batches = make_learner(method, validation="last-batch"), make_batches(5)
    calls = spy_on(learner.trainer, monkeypatch)
    for events in batches:
        learner.learn(events)
    labels = [events.label.tolist() for events in batches]
    assert [name for name, *_ in calls] == ["step"] * 2 + ["controller_step", "step"] * 3
    steps = [call[1:] for call in calls if call[0] == "controller_step"]
    assert steps == [(labels[i + 1], labels[i]) for i in range(3)]


def test_first_order_on_new_events_is_joint_training(make_learner, make_batches, changes):
    ends = []
    for method in ("sam", "autoemb"):  # in turn: new rows are drawn from the global generator
        learner = make_learner(method, validation="new-events")
        logits = [learner.learn(events).outcome.logits for events in make_batches(6)]
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
    for events in [*batches, last]:
        learner.learn(events)
    other = make_learner("autoemb", **options)
    for events in batches:
        other.learn(events)
    new, previous = Batch(other._host_rows(last.ids), last.label), other._recent[0]
    assert torch.equal(previous.target, batches[-1].label)
    # The controller's step alone, from the same weights.
    other.trainer.controller_step(new, previous)
    controllers = [one.trainer.state_dict()["controller"] for one in (learner, other)]
    assert not changes(*controllers)


@pytest.mark.parametrize("method", ["fse", "sam"])
def test_methods_of_one_level_take_no_past_events(make_learner, make_batches, monkeypatch, method):
    learner, batches = make_learner(method), make_batches(4)
    calls = spy_on(learner.trainer, monkeypatch)
    for events in batches:
        learner.learn(events)
    assert [name for name, *_ in calls] == ["step"] * 4
    assert learner.reservoir.seen == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reports_the_batch_and_its_past(make_learner, make_batches, method):
    learner, seen = make_learner(method), [{}, {}]
    for events in make_batches(6):
        step = learner.learn(events)
        assert torch.equal(step.target, events.label)
        assert step.outcome.logits.shape == (SIZE, 1)
        assert step.outcome.losses.shape == (SIZE,)
        for field, ids in enumerate(events.ids):
            counts = seen[field]
            # Strictly before the batch: its own events do not count, not even earlier ones.
            assert step.popularity[field].tolist() == [counts.get(i, 0) for i in ids.tolist()]
        for field, ids in enumerate(events.ids):
            for i in ids.tolist():
                seen[field][i] = seen[field].get(i, 0) + 1
    for field, table in enumerate(learner.id_tables):
        assert table.ids().tolist() == [*seen[field]]  # rows in order of first sight
        rows = torch.arange(len(table))
        assert learner.state.count(field, rows).tolist() == [*seen[field].values()]


def test_state_records_what_was_given_and_lost(make_learner, make_batches):
    learner = make_learner("autoemb")
    for events in make_batches(4):
        outcome = learner.learn(events).outcome
    for field, rows in enumerate(outcome.rows):
        features = learner.state.features(field, rows)
        assert torch.equal(features[:, 32:-3], outcome.weights[field])
        inverse = outcome.plans[field].inverse.tolist()
        last = dict(zip(inverse, outcome.losses.tolist(), strict=True))
        assert features[:, -3].tolist() == [last[row] for row in range(len(rows))]


def test_an_unknown_source_of_validation_is_named(make_learner):
    learner = make_learner()
    with pytest.raises(ValueError, match="last-batch, new-events; got 'future'"):
        StreamLearner(learner.trainer, [], learner.state, Reservoir(), validation="future")


# Tables


@pytest.mark.parametrize("method", METHODS)
def test_tables_double_as_ids_appear(make_learner, flat, method):
    learner = make_learner(method)
    row_modules = [
        module for owner in learner.modules for module in owner.modules()
        if hasattr(module, "num_rows")
    ]  # fmt: skip
    assert len(row_modules) == (2 if method == "darts" else 1)

    def rows():
        (found,) = {tuple(module.num_rows(field) for field in range(2)) for module in row_modules}
        for field, count in enumerate(found):  # the history has as many rows
            assert len(learner.state.count(field, torch.arange(count))) == count
            with pytest.raises(IndexError):
                learner.state.count(field, torch.tensor([count]))
        return found

    learner.learn(events_of([10, 11], [1, 1]))
    assert rows() == (4, 4)
    learner.learn(events_of([12, 13], [1, 2]))  # fills the first table to the last row
    assert rows() == (4, 4)
    before = flat(learner.state_dict())
    learner.rows([np.arange(14, 50), np.full(36, 2)])  # 40 users: past 8, 16 and 32 at once
    assert rows() == (64, 4)
    after = flat(learner.state_dict())
    for path, value in before.items():  # growth keeps every old row to the last bit
        if isinstance(value, torch.Tensor) and not path.startswith("/random"):
            kept = after[path][: len(value)] if value.dim() else after[path]
            assert torch.equal(kept, value), path
    step = learner.learn(events_of(np.arange(10, 50), np.ones(40, dtype=int)))
    assert step.popularity[0].tolist() == [1] * 4 + [0] * 36
    assert step.outcome.logits.isfinite().all()
    learner.learn(events_of([50, 51], [1, 1]))
    assert rows() == (64, 4)
    learner.learn(events_of(np.arange(52, 75), np.arange(23)))
    assert rows() == (128, 32)


def test_ids_keep_their_rows(make_learner):
    learner = make_learner("fse")
    first = learner.rows([np.array([9, 7, 9]), np.array([1, 2, 3])])
    assert first.tolist() == [[0, 0], [1, 1], [0, 2]]
    learner.rows([np.arange(100, 200), np.arange(100, 200)])
    assert learner.rows([np.array([7, 9]), np.array([3, 1])]).tolist() == [[1, 2], [0, 0]]


def test_string_and_integer_ids_learn_alike(make_learner, make_batches):
    logits = []
    for convert in (lambda ids: ids, lambda ids: [f"id {i}" for i in ids]):
        learner = make_learner("autoemb")
        for events in make_batches(4):
            step = learner.learn(events._replace(ids=[convert(ids) for ids in events.ids]))
        logits.append(step.outcome.logits)
    assert torch.equal(*logits)


# Prediction


@pytest.mark.parametrize("method", METHODS)
def test_predict_changes_nothing(make_learner, make_batches, changes, method):
    learner, batches = make_learner(method), make_batches(5)
    for events in batches[:4]:
        learner.learn(events)
    before = copy.deepcopy(learner.state_dict())
    for hard in (False, True):
        first = learner.predict(batches[1].ids, hard=hard)
        assert torch.equal(learner.predict(batches[1].ids, hard=hard), first)
    assert changes(before, learner.state_dict()) == []


@pytest.mark.parametrize("method", METHODS)
def test_predicting_an_unknown_id_gives_it_the_row_that_it_keeps(
    make_learner, make_batches, flat, method
):
    learner = make_learner(method)
    for events in make_batches(3):
        learner.learn(events)
    before = flat(learner.state_dict())
    strangers = [np.array([-1, -2]), np.array([-1, -1])]
    logits = learner.predict(strangers)
    assert logits.isfinite().all()
    assert torch.equal(learner.predict(strangers), logits)
    for path, value in flat(learner.state_dict()).items():
        if isinstance(value, torch.Tensor) and not path.startswith("/random"):
            old = before[path]
            assert torch.equal(value[: len(old)] if old.dim() else value, old), path
    counted = [learner.state.count(f, learner.rows(strangers)[:, f]) for f in range(2)]
    assert [count.tolist() for count in counted] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("method", WITH_WEIGHTS)
def test_hard_prediction_takes_each_ids_largest_size(make_learner, make_batches, method):
    learner = make_learner(method)
    for events in make_batches(4):
        learner.learn(events)
    model, controller = learner.modules
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.normal_()
    ids = make_batches(1, seed=1)[0].ids
    rows = learner.rows(ids)
    columns = rows.unbind(1)
    features = [learner.state.features(field, column) for field, column in enumerate(columns)]
    weights = torch.stack(controller(columns, features), 1)
    model.eval()
    expected = model(rows, select_hard(weights.detach()))
    model.train()
    torch.testing.assert_close(learner.predict(ids, hard=True), expected.detach())
    assert not torch.allclose(learner.predict(ids), expected)


def test_hard_selection_scores_differently_and_trains_alike(make_learner, make_batches, changes):
    finals, losses = {}, {}
    for selection in ("soft", "hard"):
        learner = make_learner("darts", selection=selection)  # reads no history of losses
        with torch.no_grad():
            for parameter in learner.modules[1].parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        losses[selection] = [learner.learn(events).outcome.losses for events in make_batches(5)]
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
        logits = [learner.learn(events).outcome.logits for events in make_batches(5)]
        finals.append({"logits": logits, "learner": learner.state_dict()})
    assert changes(finals[0], finals[1]) == []
    assert {f"/logits/{i}" for i in range(5)} <= {*changes(finals[0], finals[2])}


@pytest.mark.parametrize("validation", VALIDATION_SOURCES)
@pytest.mark.parametrize("hypergradient", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_learner_from_a_file_continues_to_the_last_bit(
    make_learner, make_batches, changes, tmp_path, method, hypergradient, validation
):
    options = {"hypergradient": hypergradient, "validation": validation}
    learner, batches = make_learner(method, **options), make_batches(9)
    for events in batches[:4]:
        learner.learn(events)
    checkpoint.save({"learner": learner.state_dict()}, tmp_path / "state")
    expected = [learner.learn(events) for events in batches[4:]]

    restored = make_learner(method, seed=1, **options)  # whatever is not restored shows
    restored.load_state_dict(checkpoint.load(tmp_path / "state")["learner"])
    for events, step in zip(batches[4:], expected, strict=True):
        assert changes(restored.learn(events)._asdict(), step._asdict()) == []
    assert changes(restored.state_dict(), learner.state_dict()) == []
    tables = restored.state_dict()["rows"]
    assert tables[0] > 16  # the tables grew after the resumption, with random numbers


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_other_optimisers_continue_to_the_last_bit_too(
    make_learner, make_batches, changes, tmp_path, method, optimizer
):
    learner, batches = make_learner(method, optimizer=optimizer), make_batches(6)
    for events in batches[:3]:
        learner.learn(events)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    for events in batches[3:]:
        learner.learn(events)
    restored = make_learner(method, optimizer=optimizer, seed=1)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for events in batches[3:]:
        restored.learn(events)
    assert changes(restored.state_dict(), learner.state_dict()) == []


def test_a_learner_of_strings_continues_to_the_last_bit(
    make_learner, make_batches, changes, tmp_path
):
    learner = make_learner("autoemb")
    batches = [
        events._replace(ids=[[f"id {i}" for i in ids] for ids in events.ids])
        for events in make_batches(4)
    ]
    for events in batches[:2]:
        learner.learn(events)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    expected = [learner.learn(events) for events in batches[2:]]
    restored = make_learner("autoemb", seed=1)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for events, step in zip(batches[2:], expected, strict=True):
        assert changes(restored.learn(events)._asdict(), step._asdict()) == []


def test_a_learner_can_be_saved_before_its_first_batch(
    make_learner, make_batches, changes, tmp_path
):
    learner, restored = make_learner("autoemb"), make_learner("autoemb", seed=1)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    expected = [learner.learn(events) for events in make_batches(3)]
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for events, step in zip(make_batches(3), expected, strict=True):
        assert changes(restored.learn(events)._asdict(), step._asdict()) == []
