"""A prediction knows no label of its own batch or a later one, and no id to come."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Bag
from autoemb.bilevel.hypergradient import KINDS
from autoemb.learners import METHODS
from autoemb.streaming.learner import VALIDATION_SOURCES
from tests.streaming.conftest import NESTED

BATCHES, SIZE = 9, 6
MIDDLE = 4  # the batch in which something changes: controller steps come before and after it


@pytest.fixture(params=VALIDATION_SOURCES)
def validation(request):
    return request.param


@pytest.fixture(params=KINDS)
def hypergradient(request):
    return request.param


@pytest.fixture(params=METHODS)
def predictions(request, make_learner, hypergradient, validation):
    """Return a function that runs a stream and returns each batch's logits."""

    def run(batches, **options):
        options = {"hypergradient": hypergradient, "validation": validation} | options
        learner = make_learner(request.param, **options)
        return [learner.learn(batch).outcome.logits for batch in batches]

    return run


def first_change(before, after):
    """Return the first batch whose predictions differ in any bit."""
    return next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.equal(a, b)),
        None,
    )


def relabelled(batches, event, change):
    """Return the stream with ``change`` applied to the labels from ``event`` on."""
    before = torch.cat([batch.label for batch in batches])
    labels = before.clone()
    labels[event:] = change(labels[event:])
    assert not torch.equal(labels[event:], before[event:])
    pieces = labels.split([len(batch) for batch in batches])
    return [replace(b, label=label) for b, label in zip(batches, pieces, strict=True)]


def unlike_the_first(labels):
    """Return ratings that are all positive, or none, whichever the first is not."""
    return torch.zeros_like(labels) if labels[0] > 3.5 else torch.full_like(labels, 5)


def permuted(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("offset", "change"),
    [(0, permuted), (3, permuted), (SIZE - 1, lambda labels: 5 - labels)],
    ids=["first", "middle", "last"],
)
def test_labels_from_an_event_on_change_only_later_batches(
    predictions, make_batches, offset, change
):
    batches = make_batches(BATCHES, SIZE)
    altered = relabelled(batches, MIDDLE * SIZE + offset, change)
    # The next batch shows that the labels were learnt, so that this test can fail.
    assert first_change(predictions(batches), predictions(altered)) == MIDDLE + 1


def test_labels_of_the_first_batch_reach_the_second(predictions, make_batches):
    batches = make_batches(2, SIZE)
    before = predictions(batches)
    assert first_change(before, predictions(relabelled(batches, 0, permuted))) == 1


@pytest.mark.parametrize("predictions", [m for m in METHODS if m != "mean"], indirect=True)
def test_ids_to_come_change_nothing_before(predictions, make_batches):
    batches = make_batches(BATCHES, SIZE)
    others = [
        batch
        if i < MIDDLE
        else replace(batch, sparse={n: np.arange(SIZE) + 10**6 + 50 * i for n in batch.sparse})
        for i, batch in enumerate(batches)
    ]
    assert first_change(predictions(batches), predictions(others)) == MIDDLE


@pytest.mark.parametrize("predictions", ["darts", "autoemb", "sam"], indirect=True)
def test_hard_scores_know_no_later_label_either(predictions, make_batches):
    batches = make_batches(BATCHES, SIZE)
    before = predictions(batches, selection="hard")
    altered = relabelled(batches, MIDDLE * SIZE, permuted)
    assert first_change(before, predictions(altered, selection="hard")) == MIDDLE + 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hypergradient", KINDS, indirect=True)
def test_labels_of_a_batch_change_neither_its_weights_nor_its_popularity(
    make_learner, make_batches, method, hypergradient, validation
):
    batches = make_batches(MIDDLE + 1, SIZE)
    steps = []
    for stream in (batches, relabelled(batches, MIDDLE * SIZE, permuted)):
        learner = make_learner(method, hypergradient=hypergradient, validation=validation)
        steps.append([learner.learn(batch) for batch in stream][-1])
    first, second = steps
    assert not torch.equal(first.outcome.losses, second.outcome.losses)
    for name, popularity in first.popularity.items():
        assert torch.equal(popularity, second.popularity[name])
    for table, mix in (first.outcome.mix or {}).items():
        assert torch.equal(mix, second.outcome.mix[table])


@pytest.fixture
def shaped(make_learner, make_batches):
    """Return a function that runs a stream of all kinds of features of a task."""

    def run(change=lambda batches: batches, method="autoemb", task="regression", **options):
        batches = make_batches(BATCHES, SIZE, kind="shapes")
        learner = make_learner(method, kind="shapes", task=task, **options)
        return [learner.learn(batch).outcome.logits for batch in change(batches)]

    return run


@pytest.mark.parametrize("offset", [0, SIZE - 1])
@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("method", METHODS)
def test_labels_reach_only_later_batches_through_any_feature(
    shaped, method, task, offset, validation
):
    options = {"method": method, "task": task, "validation": validation, "hypergradient": "exact"}

    def other_labels(batches):
        return relabelled(batches, MIDDLE * SIZE + offset, unlike_the_first)

    assert first_change(shaped(**options), shaped(other_labels, **options)) == MIDDLE + 1


@pytest.mark.parametrize(
    "options",
    [{"budget": 0.07}, {"norm": "running"}, {"history": "full"}, NESTED | {"budget": 0.0625}],
    ids=str,
)
def test_labels_reach_only_later_batches_within_a_budget_and_with_statistics(shaped, options):
    def other_labels(batches):
        return relabelled(batches, MIDDLE * SIZE + 2, permuted)

    assert first_change(shaped(**options), shaped(other_labels, **options)) == MIDDLE + 1


@pytest.mark.parametrize("column", [0, 1], ids=["log1p", "standardise"])
def test_numbers_of_a_batch_are_scaled_by_those_before_it(shaped, make_learner, column):
    def other_last(batches):
        dense = batches[MIDDLE].dense.clone()
        dense[-1, column] = 1000.0
        return [*batches[:MIDDLE], replace(batches[MIDDLE], dense=dense), *batches[MIDDLE + 1 :]]

    before, after = shaped(), shaped(other_last)
    changed = [(a != b).any(1).tolist() for a, b in zip(before, after, strict=True)]
    assert changed[MIDDLE] == [False] * (SIZE - 1) + [True]  # itself, not its neighbours
    assert not any(map(any, changed[:MIDDLE]))
    assert any(changed[MIDDLE + 1])  # the next batch is scaled by it


def test_weights_of_events_reach_only_later_batches(shaped):
    def other_weights(batches):
        weight = batches[MIDDLE].weight + 1
        return [*batches[:MIDDLE], replace(batches[MIDDLE], weight=weight), *batches[MIDDLE + 1 :]]

    assert first_change(shaped(), shaped(other_weights)) == MIDDLE + 1


# Ids of a batch's later events


RECIPES = {
    "default": NESTED | {"budget": 0.0625},
    "scarce": NESTED | {"budget": 0.054},
    "worth": NESTED | {"budget": 0.0625, "worth": "both"},
    "sizes": {"budget": 0.1, "optimizer": "rowwise-adagrad", "history": "counts"},
    "running": {"budget": 0.11, "norm": "running", "history": "full"},
    "fresh": NESTED | {"freshness": "event", "budget": 0.0625},
    "chunks": NESTED | {"learn_chunk": 3, "budget": 0.0625},
}


def replaced(batch, event, kind):
    """Return a batch whose events after ``event`` are others: other ids, labels and numbers."""
    random = np.random.default_rng(event)
    size, rest = len(batch), len(batch) - event - 1
    label = batch.label.clone()
    label[event + 1 :] = 5 - label[event + 1 :]
    sparse = {}
    for name, ids in batch.sparse.items():
        known = random.choice(ids[: event + 1], rest)
        new = np.arange(rest) + 10**6
        sparse[name] = np.concatenate([ids[: event + 1], np.where(kind == "new", new, known)])
    changes = {"sparse": sparse, "label": label}
    if batch.bags:
        changes["bags"] = {
            name: Bag(
                np.concatenate([bag.values[: bag.offsets[event + 1]], [10**6, 5, 10**6]]),
                np.append(bag.offsets[: event + 2], [bag.offsets[event + 1] + 3] * rest),
                None if bag.weights is None else np.append(
                    bag.weights[: bag.offsets[event + 1]], np.ones(3, np.float32)
                ),
            )
            for name, bag in batch.bags.items()
        }  # fmt: skip
        dense, weight = batch.dense.clone(), batch.weight.clone()
        dense[event + 1 :], weight[event + 1 :] = 99.0, 3.0
        changes |= {"dense": dense, "weight": weight}
    assert size == len(label) == len(sparse["user"])
    return replace(batch, **changes)


@pytest.mark.parametrize("kind", ["new", "known"])
@pytest.mark.parametrize("event", [0, 2, SIZE - 2])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("features", ["pair", "shapes"])
def test_who_else_is_in_a_batch_changes_no_prediction_before(
    make_learner, make_batches, features, recipe, event, kind
):
    options = RECIPES[recipe] | {"kind": features, "dims": (1, 2, 4)}
    batches = make_batches(MIDDLE + 3, SIZE, kind=features)
    for middle in (0, MIDDLE, MIDDLE + 1):
        runs = []
        for changed in (False, True):
            learner = make_learner(**options)
            stream = [*batches]
            if changed:
                stream[middle] = replaced(batches[middle], event, kind)
            runs.append([learner.learn(batch).outcome.logits for batch in stream])
        before, after = (run[middle] for run in runs)
        assert first_change(*[run[:middle] for run in runs]) is None
        # Sums over a batch of another make-up may be split otherwise: the last bits.
        torch.testing.assert_close(before[: event + 1], after[: event + 1], rtol=1e-6, atol=1e-6)
        assert not torch.equal(before, after) or middle == 0
        assert not torch.equal(runs[0][middle + 1], runs[1][middle + 1])


def test_an_id_that_is_new_is_predicted_for_alike_in_any_company(make_learner, make_batches):
    """It owns nothing yet, however often it comes in the batch."""
    *batches, last = make_batches(MIDDLE, SIZE)
    logits = []
    for times in (1, SIZE):
        learner = make_learner(**NESTED | {"budget": 0.0625})
        for batch in batches:
            learner.learn(batch)
        ids = {name: np.full(SIZE, 10**9) for name in last.sparse}
        for name, own in ids.items():
            own[times:] = last.sparse[name][times:]
        logits.append(learner.learn(replace(last, sparse=ids)).outcome.logits[0])
    torch.testing.assert_close(*logits, rtol=1e-6, atol=1e-6)
