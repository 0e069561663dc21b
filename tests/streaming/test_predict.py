"""Predictions: nothing is inserted, and nobody who learns meanwhile is disturbed or disturbs."""

import copy
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch, UserError
from autoemb.learners import METHODS
from tests.streaming.conftest import NESTED

OPTIONS = {
    "default": {},
    "reservoir": {"validation": "reservoir", "hypergradient": "exact"},
    "running": {"norm": "running", "mix": "mean", "optimizer": "adam"},
    "budget": {"budget": 0.06},
    "nested": NESTED,
}


def unknown(batch, shift=10**9):
    """Return a batch of which no id was seen."""
    return replace(
        batch,
        sparse={name: ids + shift for name, ids in batch.sparse.items()},
        bags={name: bag._replace(values=bag.values + shift) for name, bag in batch.bags.items()},
    )


def half_unknown(batch):
    """Return a batch of which every second id of each column was not seen."""
    sparse = {name: ids.copy() for name, ids in batch.sparse.items()}
    bags = {name: bag._replace(values=bag.values.copy()) for name, bag in batch.bags.items()}
    for ids in [*sparse.values(), *(bag.values for bag in bags.values())]:
        ids[::2] += 10**9
    return replace(batch, sparse=sparse, bags=bags)


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
@pytest.mark.parametrize("seen", [0, 4], ids=["nothing known", "some known"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_is_predicted_for_as_one_who_was_inserted_and_not_learnt(
    make_learner, make_batches, with_strings, knowledge, changes, method, seen, strings
):
    learner = make_learner(method, kind="shapes")
    convert = with_strings if strings else lambda batch: batch
    *batches, last = make_batches(5, kind="shapes")
    for batch in batches[:seen]:
        learner.learn(convert(batch))
    before, rows = knowledge(learner), learner._rows
    for batch in (last, unknown(last), half_unknown(last)):
        batch = convert(replace(batch, label=None))
        logits = learner.predict(batch)
        assert changes(knowledge(learner), before) == []
        assert learner._rows == rows
        known = learner.num_ids()
        learner._inserted(learner.encoder.checked(batch, labelled=False))
        assert learner.num_ids() != known
        assert torch.equal(learner.predict(batch), logits)
        learner._forget(known)
        assert torch.equal(learner.predict(batch), logits)
        rows = learner._rows


def test_within_a_budget_a_stranger_owns_nothing(make_learner, make_batches, knowledge, changes):
    learner = make_learner(kind="shapes", budget=0.06)
    for batch in make_batches(6, kind="shapes"):
        learner.learn(batch)
    batch, before = half_unknown(make_batches(6, kind="shapes")[-1]), knowledge(learner)
    logits = learner.predict(batch)
    assert changes(knowledge(learner), before) == []
    learner._inserted(learner.encoder.checked(batch, labelled=True))
    assert torch.equal(learner.predict(batch), logits)


def test_thousands_of_strangers_leave_tables_as_they_are(
    make_learner, make_batches, knowledge, changes, options
):
    learner = make_learner(**options)
    for batch in make_batches(4):
        learner.learn(batch)
    before, rows = knowledge(learner), learner._rows
    ids = np.arange(5000)
    logits = learner.predict(Batch({"user": ids + 10**9, "item": -ids - 1}))
    assert logits.shape == (5000, 1)
    assert logits.isfinite().all()
    # Each has a row of its own or, within a budget, none.
    assert (len(logits.unique()) > 1) == (learner.grants is None)
    assert changes(knowledge(learner), before) == []
    assert learner._rows == rows


def test_strangers_of_another_kind_are_refused(make_learner, make_batches):
    learner, (batch,) = make_learner(), make_batches(1)
    text = replace(batch, sparse={"user": ["a"] * 6, "item": ["b"] * 6})
    assert learner.predict(text).shape == (6, 1)  # nothing was seen yet that decides
    learner.learn(batch)
    with pytest.raises(UserError, match="'user': ids are strings; those of table 'user' are int"):
        learner.predict(text)


def test_labels_change_no_prediction_and_weights_are_not_needed(make_learner, make_batches):
    learner = make_learner(kind="shapes")
    *batches, last = make_batches(5, kind="shapes")
    for batch in batches:
        learner.learn(batch)
    logits = learner.predict(last)
    bare = Batch(last.sparse, last.bags, dense=last.dense)
    assert torch.equal(learner.predict(bare), logits)
    assert torch.equal(learner.predict(replace(last, label=last.label * float("nan"))), logits)


def test_a_prediction_is_the_one_that_learning_scores(make_learner, make_batches):
    """With the running statistics of none, both are the same pass."""
    learner = make_learner(kind="shapes")
    for batch in make_batches(6, kind="shapes"):
        logits = learner.predict(batch)
        # The passes order the rows of new ids alike, and sum alike.
        assert torch.equal(learner.learn(batch).outcome.logits, logits)


# While another thread learns


def read_while_learning(learner, batches, probes, readers=2):
    """Learn in this thread and predict in others; return what each reader saw, in order."""
    over, seen, errors = threading.Event(), [[] for _ in range(readers)], []

    def read(found):
        number = 0
        while not over.is_set():
            probe = number % len(probes)
            try:
                found.append((probe, learner.predict(probes[probe])))
            except BaseException as error:
                errors.append(error)
                return
            number += 1

    threads = [threading.Thread(target=read, args=[found]) for found in seen]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # 5 ms by default: threads would seldom meet within a step
    try:
        for thread in threads:
            thread.start()
        for batch in batches:
            learner.learn(batch)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert errors == []
    return seen


@pytest.mark.parametrize(
    ("method", "options"),
    [*(("autoemb", one) for one in OPTIONS.values()), ("darts", OPTIONS["reservoir"])],
    ids=[*OPTIONS, "darts"],
)
def test_readers_see_the_state_between_two_steps(
    make_learner, make_batches, knowledge, changes, options, method
):
    batches = make_batches(120, kind="shapes")
    # Known from the start, in between, never.
    probes = [batches[0], batches[60], half_unknown(batches[110])]
    learner, alone = (make_learner(method, kind="shapes", **options) for _ in range(2))
    states = [[alone.predict(probe) for probe in probes]]
    for batch in batches:
        alone.learn(batch)
        states.append([alone.predict(probe) for probe in probes])
    numbers = [{} for _ in probes]  # from the bits of a prediction to the states that give it
    for number, predictions in enumerate(states):
        for probe, logits in enumerate(predictions):
            numbers[probe].setdefault(logits.numpy().tobytes(), []).append(number)
    seen = read_while_learning(learner, batches, probes)
    for found in seen:
        reached, distinct = 0, set()
        assert len(found) > 20
        for probe, logits in found:
            places = numbers[probe].get(logits.numpy().tobytes())
            assert places is not None, "a prediction of no state between two steps"
            reached = min(number for number in places if number >= reached)  # never back in time
            distinct.add(reached)
        assert len(distinct) > 10
    # And whoever learns is not disturbed.
    assert changes(knowledge(learner), knowledge(alone)) == []


def test_many_first_readers_at_once(make_learner, make_batches):
    """Each needs modules of its own, copied while others are in use."""
    learner, batches = make_learner(), make_batches(60)
    learner.learn(batches[0])
    seen = read_while_learning(learner, batches[1:], batches[:1], readers=6)
    assert all(seen)


def test_a_state_saved_while_another_thread_learns_is_one_between_two_steps(
    make_learner, make_batches, changes
):
    learner, alone = (make_learner(validation="reservoir") for _ in range(2))
    batches, saved, over = make_batches(80), [], threading.Event()

    def save():
        while not over.is_set():
            with learner._stepping:
                saved.append(copy.deepcopy(learner.state_dict()))

    thread = threading.Thread(target=save)
    thread.start()
    for batch in batches:
        learner.learn(batch)
    over.set()
    thread.join()
    assert len(saved) > 3
    kept = {state["reservoir"]["seen"]: state for state in saved}
    random = torch.random.get_rng_state()
    for number, batch in enumerate(batches, start=1):
        alone.learn(batch)
        if (state := kept.get(6 * number)) is not None:
            assert [p for p in changes(state, alone.state_dict()) if p != "/random"] == []
    torch.random.set_rng_state(random)
