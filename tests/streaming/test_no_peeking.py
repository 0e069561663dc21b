"""A prediction knows no label of its own batch or a later one, and no id to come."""

import numpy as np
import pytest
import torch

from autoemb.bilevel.hypergradient import KINDS
from autoemb.lab.methods import METHODS
from autoemb.streaming.learner import VALIDATION_SOURCES

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
        return [learner.learn(events).outcome.logits for events in batches]

    return run


def first_change(before, after):
    """Return the first batch whose predictions differ in any bit."""
    return next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.equal(a, b)),
        None,
    )


def relabelled(batches, event, change):
    """Return the stream with ``change`` applied to the labels from ``event`` on."""
    labels = torch.cat([events.label for events in batches])
    labels[event:] = change(labels[event:])
    assert not torch.equal(labels[event:], torch.cat([e.label for e in batches])[event:])
    pieces = labels.split([len(events.label) for events in batches])
    return [e._replace(label=label) for e, label in zip(batches, pieces, strict=True)]


def permuted(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("offset", "change"),
    [(0, permuted), (3, permuted), (SIZE - 1, lambda labels: 1 - labels)],
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


def test_ids_to_come_change_nothing_before(predictions, make_batches):
    batches = make_batches(BATCHES, SIZE)
    others = [
        events
        if i < MIDDLE
        else events._replace(ids=[np.arange(SIZE) + 10**6 + 50 * i for _ in events.ids])
        for i, events in enumerate(batches)
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
        steps.append([learner.learn(events) for events in stream][-1])
    first, second = steps
    assert not torch.equal(first.outcome.losses, second.outcome.losses)
    for a, b in zip(first.popularity, second.popularity, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.outcome.weights or [], second.outcome.weights or [], strict=True):
        assert torch.equal(a, b)
