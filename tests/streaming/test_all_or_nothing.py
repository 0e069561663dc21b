"""A batch that cannot be learnt is told in one line, and leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoemb import Batch, UserError
from autoemb.learners import METHODS
from tests.streaming.conftest import NESTED

OPTIONS = {
    "new-events": {},
    "reservoir": {"validation": "reservoir", "hypergradient": "exact"},
    "last-batch": {"validation": "last-batch", "optimizer": "adam"},
    "running": {"norm": "running", "optimizer": "adam", "validation": "reservoir"},
    "budget": {"budget": 0.06},
    "nested": NESTED,
    "told": {"history": "full", "freshness": "event"},
}
GOOD = 5  # batches that are learnt before


def with_sparse(batch, **columns):
    return replace(batch, sparse={**batch.sparse, **columns})


def with_bag(batch, **changes):
    bags = {**batch.bags, "words": batch.bags["words"]._replace(**changes)}
    return replace(batch, bags=bags)


def put(values, place, value):
    values = values.clone() if isinstance(values, torch.Tensor) else values.copy()
    values[place] = value
    return values


NAN, INF = float("nan"), float("inf")

#: A change of a batch of six events, and what must be said.
WRONG = {
    "NaN label": (
        lambda b: replace(b, label=put(b.label, 4, NAN)),
        "event 4: label is nan; expected a finite number",
    ),
    "infinite label": (
        lambda b: replace(b, label=put(b.label, 0, -INF)),
        "event 0: label is -inf; expected a finite number",
    ),
    "no label": (lambda b: replace(b, label=None), "the batch has no labels to learn from"),
    "too few labels": (
        lambda b: replace(b, label=b.label[:5]),
        r"label is \[5\]; expected a tensor \[6\], one an event",
    ),
    "labels in a column": (
        lambda b: replace(b, label=b.label[:, None]),
        r"label is \[6, 1\]; expected a tensor \[6\]",
    ),
    "labels in a list": (
        lambda b: replace(b, label=b.label.tolist()),
        r"label is of list; expected a tensor \[6\]",
    ),
    "NaN weight": (
        lambda b: replace(b, weight=put(b.weight, 2, NAN)),
        "event 2: weight is nan; expected a finite number",
    ),
    "infinite weight": (
        lambda b: replace(b, weight=put(b.weight, 5, INF)),
        "event 5: weight is inf; expected a finite number",
    ),
    "negative weight": (
        lambda b: replace(b, weight=put(b.weight, 3, -0.5)),
        "event 3: weight is -0.5; expected 0 or more",
    ),
    "weights of other events": (
        lambda b: replace(b, weight=torch.ones(7)),
        r"weight is \[7\]; expected a tensor \[6\]",
    ),
    "times that are no integers": (
        lambda b: replace(b, timestamp=np.full(6, 0.5)),
        r"timestamp is float64 \[6\]; expected integers \[6\], one an event",
    ),
    "a column too short": (
        lambda b: with_sparse(b, item=b.sparse["item"][:4]),
        "item has 4 values for 6 events",
    ),
    "text in a table of integers": (
        lambda b: with_sparse(b, other_item=[f"id {i}" for i in range(6)]),
        "feature 'other_item': ids are strings; those of table 'item' are integers",
    ),
    "numbers that are no ids": (
        lambda b: with_sparse(b, item=b.sparse["item"].astype(float)),
        r"feature 'item': ids are float64 \[6\]; expected integers or strings",
    ),
    "ids beyond int64": (
        lambda b: with_sparse(b, item=[1, 2, 3, 4, 5, 2**70]),
        "feature 'item': ids are object .*expected integers or strings",
    ),
    "half a surrogate": (
        lambda b: with_sparse(b, item=["a", "b", "\ud800", "c", "d", "e"]),
        "feature 'item': an id is no text: .*surrogates not allowed",
    ),
    "a bag for one id": (
        lambda b: replace(
            b,
            sparse={n: ids for n, ids in b.sparse.items() if n != "item"},
            bags={**b.bags, "item": b.bags["words"]},
        ),
        "feature 'item' is not a sparse feature in this batch; expected a sparse feature",
    ),
    "a bag among the sparse": (
        lambda b: with_sparse(b, item=b.bags["words"]),
        "feature 'item': expected an array or list of ids",
    ),
    "one id for a bag": (
        lambda b: replace(
            b,
            sparse={**b.sparse, "words": b.sparse["item"]},
            bags={"basket": b.bags["basket"]},
        ),
        "feature 'words' is not a bag in this batch; expected a bag",
    ),
    "ids in the place of a bag": (
        lambda b: replace(b, bags={**b.bags, "words": b.sparse["item"]}),
        "bag 'words' is a ndarray; expected a Bag",
    ),
    "a missing feature": (
        lambda b: replace(b, sparse={"user": b.sparse["user"], "item": b.sparse["item"]}),
        "feature 'other_item' is missing; the batch has user, item, words, basket",
    ),
    "nothing at all": (lambda b: Batch(label=b.label), "feature 'user' is missing; .* has none"),
    "offsets that descend": (
        lambda b: with_bag(b, offsets=b.bags["words"].offsets[[0, 2, 1, 3, 4, 5, 6]]),
        r"bag 'words': expected 7 offsets that ascend from 0 to \d+",
    ),
    "offsets that end early": (
        lambda b: with_bag(b, offsets=np.minimum(b.bags["words"].offsets, 1)),
        r"bag 'words': expected 7 offsets that ascend from 0 to \d+",
    ),
    "offsets of other events": (
        lambda b: with_bag(b, offsets=b.bags["words"].offsets[:-1]),
        r"bag 'words': expected 7 offsets that ascend from 0 to \d+",
    ),
    "offsets that are no integers": (
        lambda b: with_bag(b, offsets=b.bags["words"].offsets.astype(float)),
        r"bag 'words': expected 7 offsets that ascend from 0 to \d+",
    ),
    "NaN weight in a bag": (
        lambda b: with_bag(b, weights=put(b.bags["words"].weights, -1, NAN)),
        r"event \d: a weight of words is nan; expected 0 or more",
    ),
    "negative weight in a bag": (
        lambda b: with_bag(b, weights=put(b.bags["words"].weights, 0, -1)),
        r"event \d: a weight of words is -1.0; expected 0 or more",
    ),
    "weights of another bag": (
        lambda b: with_bag(b, weights=np.ones(99, np.float32)),
        r"bag 'words' has weights \[99\] for \d+ ids; expected one an id",
    ),
    "infinite number": (
        lambda b: replace(b, dense=put(b.dense, (2, 1), INF)),
        "event 2: age is infinite; expected a number, or NaN for none",
    ),
    "a number beyond float32": (
        lambda b: replace(b, dense=put(b.dense.double(), (5, 0), 1e300)),
        "event 5: price is infinite; expected a number",
    ),
    "too few numbers": (
        lambda b: replace(b, dense=b.dense[:, :2]),
        r"dense features are \[6, 2\]; expected a tensor \[6, 3\]",
    ),
    "no numbers": (
        lambda b: replace(b, dense=None),
        r"dense features are of NoneType; expected a tensor \[6, 3\]",
    ),
}


@pytest.fixture(params=OPTIONS)
def pair(request, make_learner, make_batches):
    """Two learners that learnt the same, and batches that they did not: all ids are new."""
    learners = [make_learner(kind="shapes", **OPTIONS[request.param]) for _ in range(2)]
    for learner in learners:
        for batch in make_batches(GOOD, kind="shapes"):
            learner.learn(batch)
    strangers = make_batches(12, seed=7, kind="shapes")[-2:]
    strangers = [
        replace(
            batch,
            sparse={name: ids + 10**7 for name, ids in batch.sparse.items()},
            bags={
                name: bag._replace(values=bag.values + 10**7) for name, bag in batch.bags.items()
            },
        )
        for batch in strangers
    ]
    return *learners, strangers


def refused(learner, batch, error, message):
    with pytest.raises(error, match=message) as raised:
        learner.learn(batch)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def check_no_trace(learner, never, batches, knowledge, changes):
    """Compare with a learner that never saw a bad batch, now and on the right batches."""
    assert changes(knowledge(learner), knowledge(never)) == []
    for batch in batches:
        assert changes(learner.learn(batch), never.learn(batch)) == []
    assert changes(knowledge(learner), knowledge(never)) == []


def test_a_wrong_batch_is_named_and_leaves_no_trace(pair, knowledge, changes):
    learner, never, batches = pair
    before = knowledge(learner)
    for name, (spoil, message) in WRONG.items():
        refused(learner, spoil(batches[0]), UserError, message)
        assert changes(knowledge(learner), before) == [], name
    check_no_trace(learner, never, batches, knowledge, changes)


def test_an_empty_batch_is_named(make_learner):
    batch = Batch({"user": [], "item": []}, label=torch.zeros(0))
    with pytest.raises(UserError, match="the batch holds no events; expected one at least"):
        make_learner().learn(batch)


def test_a_first_batch_that_is_refused_decides_no_kind(make_learner, make_batches, with_strings):
    learner, (batch,) = make_learner(kind="shapes"), make_batches(1, kind="shapes")
    refused(learner, replace(batch, label=batch.label * NAN), UserError, "event 0: label is nan")
    learner.learn(with_strings(batch))
    assert learner.encoder.id_tables["item"].kind == "strings"


class Broken(Exception):
    """What a model of somebody else raises."""


def spoil_model(learner, monkeypatch):
    """Let the model raise in its last pass over a batch, when random numbers were drawn."""
    inner = learner.trainer.compute

    def compute(example, **options):
        model = learner.trainer.model.function.module

        def forward(x):
            torch.rand(3)
            raise Broken("in forward")

        monkeypatch.setattr(getattr(model, "model", model).hidden, "forward", forward)
        return inner(example, **options)

    monkeypatch.setattr(learner.trainer, "compute", compute)


def spoil_loss(learner, monkeypatch):
    inner = learner.trainer.loss
    monkeypatch.setattr(learner.trainer, "loss", lambda logits, label: inner(logits, label).mean())


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (spoil_loss, ValueError, r"the loss of 6 events has shape \[\]; expected .* \[6\]"),
        (spoil_model, Broken, "in forward"),
    ],
)
def test_a_step_that_fails_half_way_leaves_no_trace(
    pair, knowledge, changes, monkeypatch, spoil, error, message
):
    learner, never, batches = pair
    with monkeypatch.context() as patch:
        spoil(learner, patch)
        refused(learner, batches[0], error, message)
    check_no_trace(learner, never, batches, knowledge, changes)


@pytest.mark.parametrize("validation", ["reservoir", "last-batch"])
@pytest.mark.parametrize("method", ["darts", "autoemb"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "ftrl", "sgd"])
def test_a_controllers_update_is_taken_back_when_the_batch_fails(
    make_learner, make_batches, knowledge, changes, monkeypatch, method, validation, optimizer
):
    options = {"validation": validation, "optimizer": optimizer}
    learner, never = (make_learner(method, **options) for _ in range(2))
    *batches, bad, last = make_batches(6)
    for one in (learner, never):
        for batch in batches:
            one.learn(batch)
    applied = []
    with monkeypatch.context() as patch:
        inner = learner.trainer.apply_controller

        def apply_controller(change):
            inner(change)
            applied.append(change)
            patch.setattr(learner.trainer, "loss", lambda logits, label: logits.sum())

        patch.setattr(learner.trainer, "apply_controller", apply_controller)
        refused(learner, bad, ValueError, "the loss of 6 events")
    assert applied
    check_no_trace(learner, never, [bad, last], knowledge, changes)


def test_two_failures_and_many_batches_later_it_is_as_if_there_were_none(
    make_learner, make_batches, knowledge, changes
):
    learner, never = (make_learner(kind="shapes", budget=0.06) for _ in range(2))
    for number, batch in enumerate(make_batches(14, kind="shapes")):
        if number % 3 == 1:
            refused(learner, replace(batch, label=batch.label[:2]), UserError, "label is")
        assert changes(learner.learn(batch), never.learn(batch)) == []
    assert changes(knowledge(learner), knowledge(never)) == []


# One event


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["pair", "shapes"], indirect=True)
def test_one_event_is_a_batch(make_learner, make_batches, method, kind):
    learner = make_learner(method, kind=kind, hypergradient="exact")
    for batch in make_batches(8, size=1, kind=kind):
        step = learner.learn(batch)
        assert step.losses.shape == (1,)
        assert step.losses.isfinite().all()


@pytest.mark.parametrize("method", ["sam", "autoemb"])
def test_one_event_has_no_batch_statistics(make_learner, make_batches, method):
    learner = make_learner(method, norm="batch")
    two, one = make_batches(2, size=2)[0], make_batches(1, size=1)[0]
    learner.learn(two)
    with pytest.raises(ValueError, match=r"Expected more than 1 value .* one event to take"):
        learner.learn(one)
    assert learner.num_ids()["user"] == len({*two.sparse["user"].tolist()})
    assert learner.predict(one).shape == (1, 1)


# Parts of one's own


def test_a_model_of_ones_own_that_fails_leaves_no_trace(make_learner, make_batches):
    class Moody(nn.Module):
        def __init__(self, embedding):
            super().__init__()
            self.embedding, self.norm = embedding, nn.BatchNorm1d(4)
            self.out = nn.Linear(4, 1)

        def forward(self, inputs, mix=None):
            x = self.norm(self.embedding(inputs, mix).flatten(1))
            if len(x) == 5:
                raise Broken("five")
            return self.out(x)

    learner = make_learner(model=lambda embedding, **_: Moody(embedding))
    for batch in make_batches(3):
        learner.learn(batch)
    norm = learner.modules[0].norm
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert int(before["num_batches_tracked"]) == 3
    with pytest.raises(Broken):
        learner.learn(make_batches(1, size=5, seed=3)[0])
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
