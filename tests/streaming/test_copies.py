"""Learners and id tables travel: copied, pickled, saved, sent to other processes."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from autoemb import IdTable, UserError
from autoemb.learners import METHODS
from tests.streaming.conftest import NESTED

OPTIONS = {
    "default": {},
    "reservoir": {"validation": "reservoir", "hypergradient": "exact", "norm": "running"},
    "adam": {"optimizer": "adam"},
    "budget": {"budget": 0.06},
    "nested": NESTED,
}


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": through_torch}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_goes_on_to_the_same_bits_and_shares_nothing(
    make_learner, make_batches, knowledge, changes, way, method, options
):
    if METHODS[method].controller is None:
        options = {name: value for name, value in options.items() if name != "budget"}
    learner = make_learner(method, kind="shapes", **options)
    batches = make_batches(8, kind="shapes")
    for batch in batches[:4]:
        learner.learn(batch)
    learner.predict(batches[5])  # after which it keeps modules for readers
    other = way(learner)
    assert changes(knowledge(other), knowledge(learner)) == []
    before, random = knowledge(learner), torch.random.get_rng_state()
    steps = [other.learn(batch) for batch in batches[4:]]
    prediction = other.predict(batches[5])
    torch.random.set_rng_state(random)
    assert changes(knowledge(learner), before) == []
    assert [learner.learn(batch).losses.tolist() for batch in batches[4:]] == [
        step.losses.tolist() for step in steps
    ]
    assert torch.equal(learner.predict(batches[5]), prediction)
    assert changes(knowledge(other), knowledge(learner)) == []


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_saved_state_is_read_without_running_code(
    make_learner, make_batches, with_strings, changes, options, strings
):
    batches = make_batches(6, kind="shapes")
    if strings:
        batches = [*map(with_strings, batches)]
    learner = make_learner(kind="shapes", **options)
    for batch in batches[:4]:
        learner.learn(batch)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    restored = make_learner(kind="shapes", seed=1, **options)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for batch in batches[4:]:
        assert changes(restored.learn(batch), learner.learn(batch)) == []


# States that cannot be


def spoiled(state, path, value):
    state = copy.deepcopy(state)
    *places, last = path.split("/")
    inner = state
    for place in places:
        inner = inner[int(place) if isinstance(inner, list) else place]
    inner[int(last) if isinstance(inner, list) else last] = value
    return state


HUGE = torch.zeros(1).expand(2**40)

WRONG_STATES = {
    "rows/user": [-1, 0, 7, 10**12, 8.0, None, "8"],
    "history/item/count": [torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)],
    "history/item/mix": [torch.zeros(0, 2), torch.zeros(16, 3)],
    "encoder/ids/user": [{"ids": torch.arange(99)}, {"ids": torch.zeros(3).long()}, {}],
    "reservoir/seen": [-5, 19, None],
    "reservoir/events/sparse/user": [torch.arange(20) + 10**6, torch.arange(19)],
    "reservoir/events/label": [torch.full((20,), float("nan")), torch.zeros(3)],
    "reservoir/events/bags/words/1": [torch.arange(21), torch.zeros(21, dtype=torch.int64)],
    "recent/0/sparse/item": [torch.arange(6) + 10**6, torch.zeros(5, dtype=torch.int64)],
    "recent/0/label": [None, torch.zeros(6, 1)],
    "trainer/model/module/embedding.tables.0.0": [torch.zeros(9, 1), HUGE],
}  # fmt: skip


WRONG_STATES_OF_TOLD = {
    "recent/0/known": [None],
    "recent/0/known/told": [torch.zeros(6, 2, 3), torch.zeros(5, 2, 11)],
    "waiting/chunks/0/known/sums": [torch.zeros(6, 2, 3)],
    "waiting/chunks/0/sparse/user": [torch.arange(2) + 10**6],
    "statistics/tables/user": [torch.zeros(3, 14), torch.zeros(16, 9)],
    "statistics/waiting/rows/0": [torch.full((5,), 99)],
    "statistics/waiting/label": [torch.zeros(2, 2)],
}


@pytest.mark.parametrize("path", WRONG_STATES_OF_TOLD)
def test_a_state_that_was_told_otherwise_is_refused(make_learner, make_batches, path):
    options = {"history": "full", "label_delay": 4.0, "learn_chunk": 2, "freshness": "event"}
    learner = make_learner(**options)
    for batch in make_batches(6):
        learner.learn(batch)
    state = learner.state_dict()
    assert len(state["statistics"]["waiting"]["label"]) == 5
    for value in WRONG_STATES_OF_TOLD[path]:
        with pytest.raises((UserError, ValueError, RuntimeError, LookupError, TypeError)):
            make_learner(**options).load_state_dict(spoiled(state, path, value))
    make_learner(**options).load_state_dict(copy.deepcopy(state))


@pytest.mark.parametrize("path", WRONG_STATES)
def test_a_state_whose_parts_do_not_fit_is_refused(make_learner, make_batches, path):
    options = {"kind": "shapes", "validation": "reservoir"}
    learner = make_learner(**options)
    for batch in make_batches(6, kind="shapes"):
        learner.learn(batch)
    state = learner.state_dict()
    assert len(state["reservoir"]["events"]["label"]) == 20
    for value in WRONG_STATES[path]:
        fresh = make_learner(**options)
        with pytest.raises((UserError, ValueError, RuntimeError, LookupError, TypeError)):
            fresh.load_state_dict(spoiled(state, path, value))
        assert fresh._rows["user"] <= 64  # nothing was allocated for it
    make_learner(**options).load_state_dict(copy.deepcopy(state))  # which was right


WRONG_STATES_OF_GRANTED = {
    "history/item/count": [torch.zeros(16, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)],
    "statistics/tables/user": [torch.zeros(16, 21), torch.zeros(16, 9, dtype=torch.uint8)],
    "trainer/model/module/model.embedding.slots.0": [
        torch.full((16,), 999, dtype=torch.int32), torch.full((16,), 2, dtype=torch.int32),
        torch.full((16,), -2, dtype=torch.int32), torch.zeros(3, dtype=torch.int32),
    ],
    "trainer/model/module/model.embedding.arenas.1.0": [torch.zeros(64, 2), torch.zeros(0, 1)],
}  # fmt: skip


@pytest.mark.parametrize("path", WRONG_STATES_OF_GRANTED)
def test_a_state_of_rows_that_nobody_can_own_is_refused(make_learner, make_batches, path):
    learner = make_learner(**NESTED)
    for batch in make_batches(5):
        learner.learn(batch)
    state = learner.state_dict()
    for value in WRONG_STATES_OF_GRANTED[path]:
        with pytest.raises((UserError, ValueError, RuntimeError, LookupError)):
            make_learner(**NESTED).load_state_dict(spoiled(state, path, value))
    make_learner(**NESTED).load_state_dict(copy.deepcopy(state))


# Id tables


@pytest.mark.parametrize("ids", [[7, -3, 2**62], ["ann", "", "é"], []], ids=str)
def test_a_copied_id_table_goes_on(way, ids):
    table = IdTable()
    table.rows(ids)
    other = way(table)
    assert [*other.ids()] == ids
    assert other.kind == table.kind
    more = ["new"] if ids and isinstance(ids[0], str) else [99]
    assert other.rows(more).tolist() == [len(ids)]
    assert len(table) == len(ids)


class Rows(Dataset):
    """Rows of ids, looked up by whichever process is asked."""

    def __init__(self, table, ids):
        self.table, self.ids = table, ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return int(self.table.rows(self.ids[index : index + 1], insert=False)[0])


def test_workers_of_a_data_loader_look_up_ids():
    table, ids = IdTable(), np.arange(40) * 10**9
    table.rows(ids)
    loader = DataLoader(Rows(table, ids), 10, num_workers=1, multiprocessing_context="spawn")
    assert torch.cat([*loader]).tolist() == [*range(40)]
