"""Rows are private to their table: neither their number nor their order changes anything."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch, IdTable
from autoemb.learners import METHODS
from autoemb.streaming import checkpoint
from tests.streaming.conftest import NESTED

OPTIONS = [
    {},
    {"validation": "reservoir", "hypergradient": "exact"},
    {"norm": "running", "optimizer": "adam"},
    {"budget": 0.06},
    NESTED | {"optimizer": "adam"},
]


def rows_of(learner):
    """Return what every id of every table owns, by the name of the parameter and the id."""
    found = {}
    tables = learner.encoder.id_tables
    for part in filter(None, (learner.trainer.model, learner.trainer.controller)):
        rows = {table: torch.arange(len(ids)) for table, ids in tables.items()}
        for name, values in part.function.gather(rows).items():
            ids = tables[part.function.rows[name].table].ids()
            found |= {(name, i): row.tolist() for i, row in zip([*ids], values, strict=True)}
    return found


def begun(learner, batch):
    """Give the ids of a batch rows, and learn nothing."""
    learner._inserted(learner.encoder.checked(batch, labelled=True))
    return learner


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("method", ["autoemb", "darts"])
def test_learners_of_other_room_know_the_same(
    make_learner, make_batches, with_strings, knowledge, changes, method, options, strings
):
    batches = make_batches(9, kind="shapes")
    if strings:
        batches = [*map(with_strings, batches)]
    few = make_learner(method, kind="shapes", initial_rows=1, **options)
    many = make_learner(method, kind="shapes", initial_rows=300, **options)
    jumpy = make_learner(method, kind="shapes", initial_rows=7, **options)
    for number, batch in enumerate(batches):
        steps = [learner.learn(batch) for learner in (few, many)]
        if number % 2:
            jumpy._grow({table: rows + 5 for table, rows in jumpy._rows.items()})
        steps.append(jumpy.learn(batch))
        assert changes(steps[0], steps[1]) == []
        assert changes(steps[0], steps[2]) == []
    assert changes(knowledge(few), knowledge(many)) == []
    assert changes(knowledge(few), knowledge(jumpy)) == []
    assert few._rows != many._rows != jumpy._rows
    predictions = [learner.predict(batches[-1]) for learner in (few, many, jumpy)]
    assert torch.equal(predictions[0], predictions[1])
    assert torch.equal(predictions[0], predictions[2])


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_arrival_changes_no_initial_row(make_learner, make_batches, method):
    batches = make_batches(6, kind="shapes")
    first, other = (make_learner(method, kind="shapes") for _ in range(2))
    for batch in batches:
        begun(first, batch)
    torch.manual_seed(99)
    for batch in reversed(batches):
        backwards = {name: ids[::-1].copy() for name, ids in batch.sparse.items()}
        begun(other, replace(batch, sparse=backwards))
    assert first.encoder.id_tables["user"].ids().tolist() != (
        other.encoder.id_tables["user"].ids().tolist()
    )
    assert rows_of(first) == rows_of(other)


@pytest.mark.parametrize("method", ["autoemb", "fse"])
def test_seed_table_and_id_decide_what_an_id_starts_with(make_learner, method):
    (name,) = [n for n in make_learner(method).trainer.model.function.rows if n.endswith("_0")]
    one, other = "embedding.table_0", "embedding.table_1"
    assert name == one
    rows = {}
    for seed, shift in ((0, 0), (0, 1), (1, 0)):
        learner = make_learner(method, seed=seed)
        ids = np.array([3, 9]) + shift
        begun(learner, Batch({"user": ids, "item": ids}, label=torch.zeros(2)))
        rows |= {(seed, *key): row for key, row in rows_of(learner).items()}
    assert len({tuple(row) for row in rows.values()}) == len(rows)  # no two alike
    assert {key[1] for key in rows} == {one, other}


def test_ids_of_learning_leave_rows_of_others_as_they_began(make_learner, make_batches):
    learner = make_learner("autoemb", optimizer="sgd")
    batches = make_batches(3)
    for batch in batches:
        begun(learner, batch)
    before = rows_of(learner)
    learner.learn(batches[0])
    after = rows_of(learner)
    seen = {("embedding.table_0", i) for i in batches[0].sparse["user"].tolist()}
    seen |= {("embedding.table_1", i) for i in batches[0].sparse["item"].tolist()}
    changed = {key for key in before if before[key] != after[key]}
    assert changed == seen


# Where rows do not appear


def raw_ids(batches):
    """Return all ids of some batches by feature."""
    found = {}
    for batch in batches:
        for name, ids in batch.sparse.items():
            found.setdefault(name, set()).update(np.asarray(ids).tolist())
        for name, bag in batch.bags.items():
            found.setdefault(name, set()).update(np.asarray(bag.values).tolist())
    return found


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
def test_what_is_kept_of_the_past_holds_raw_ids(
    make_learner, make_batches, with_strings, tmp_path, strings
):
    batches = make_batches(6, kind="shapes")
    # Ids beyond any number of rows.
    batches = [
        replace(
            batch,
            sparse={name: ids + 10**6 for name, ids in batch.sparse.items()},
            bags={n: b._replace(values=b.values + 10**6) for n, b in batch.bags.items()},
        )
        for batch in batches
    ]
    if strings:
        batches = [*map(with_strings, batches)]
    learner = make_learner(kind="shapes", validation="reservoir", reservoir=1000)
    for batch in batches:
        learner.learn(batch)
    kept = learner.reservoir.all()
    assert raw_ids([kept]) == raw_ids(batches)
    assert raw_ids([learner._recent[0]]) == raw_ids(batches[-1:])
    assert torch.equal(kept.label, torch.cat([batch.label for batch in batches]))
    assert torch.equal(kept.weight, torch.cat([batch.weight for batch in batches]))
    dense = torch.cat([batch.dense for batch in batches])
    torch.testing.assert_close(kept.dense, dense, rtol=0, atol=0, equal_nan=True)
    for name in ("words", "basket"):
        lengths = np.concatenate([np.diff(batch.bags[name].offsets) for batch in batches])
        assert np.diff(kept.bags[name].offsets).tolist() == lengths.tolist()
    weights = np.concatenate([batch.bags["words"].weights for batch in batches])
    assert kept.bags["words"].weights.tolist() == weights.tolist()

    checkpoint.save(learner.state_dict(), tmp_path / "state")
    state = checkpoint.load(tmp_path / "state")
    of_reservoir, recent = state["reservoir"]["events"], state["recent"]
    for saved, own in ((of_reservoir, batches), (recent[0], batches[-1:])):
        assert raw_ids([Batch(saved["sparse"])]) == {
            name: ids for name, ids in raw_ids(own).items() if name in saved["sparse"]
        }
        for name, (values, *_) in saved["bags"].items():
            assert {*np.asarray(values).tolist()} == raw_ids(own)[name]
    for table, ids in state["encoder"]["ids"].items():
        known = IdTable.from_state({name: values.numpy() for name, values in ids.items()}).ids()
        assert [*known] == [*learner.encoder.id_tables[table].ids()]


def test_a_batch_may_be_changed_once_it_was_learnt(make_learner, make_batches, changes):
    whole, reused = (
        make_learner(kind="shapes", validation="reservoir", hypergradient="exact") for _ in range(2)
    )
    batches = make_batches(5, kind="shapes")
    expected = [whole.learn(batch).losses for batch in batches]
    for batch, losses in zip(make_batches(5, kind="shapes"), expected, strict=True):
        assert torch.equal(reused.learn(batch).losses, losses)
        for ids in batch.sparse.values():
            ids[:] = -1
        for bag in batch.bags.values():
            bag.values[:] = -1
        for tensor in (batch.label, batch.weight, batch.dense):
            tensor.fill_(7)
