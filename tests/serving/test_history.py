"""Served models that go on learning what labels say of ids."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from autoemb import Batch
from autoemb.errors import UserError
from autoemb.lab.events import stream_of
from autoemb.serving import Exporter, load_model
from autoemb.streaming.queue import Clock
from tests.serving.by_hand import EVENTS, make_model

pytestmark = pytest.mark.usefixtures("few_steps")

#: A network that stands still: what changes a prediction is what is known of ids.
FROZEN = {"learning_rate": 1e-30, "controller_learning_rate": 1e-30}


def exported(run, budget=1.0):
    exporter = Exporter(run.learner, run.schema, run.task, about=run.about)
    return exporter.export(budget)[0]


def rest_of(run, dataset):
    stream = stream_of(dataset, run.config)
    stream.position = run.about["position"]
    return [*stream]


def statistics_by_id(statistics, id_tables):
    """Return the row of every id, by table and id."""
    return {
        table: {
            id: statistics.tables[table].packed[row].tolist() for row, id in enumerate(ids.ids())
        }
        for table, ids in id_tables.items()
    }


@pytest.mark.parametrize("data", ["ratings", "rich"])
@pytest.mark.parametrize("budget", [1.0, 0.1])
def test_observing_knows_what_learning_knows(trained, request, data, budget):
    dataset = request.getfixturevalue(data)
    run = trained(dataset, **FROZEN)
    model, learner = exported(run, budget), run.learner
    for batch in rest_of(run, dataset):
        learner.learn(batch)
        model.observe(batch)
    # New factors are drawn from the raw ids: here and there the same.
    assert statistics_by_id(model.history.statistics, model._encoder.id_tables) == (
        statistics_by_id(learner.statistics, learner.encoder.id_tables)
    )
    for name, value in learner.statistics.totals.items():
        np.testing.assert_array_equal(model.history.statistics.totals[name], value)


@pytest.mark.parametrize("history", ["full", "counts"])
def test_a_model_that_observes_predicts_like_a_learner_that_stands_still(trained, ratings, history):
    run = trained(ratings, method="fse", history=history, **FROZEN)
    learner, model = run.learner, exported(run)
    known = {name: set(ids.ids()) for name, ids in learner.encoder.id_tables.items()}
    for batch in rest_of(run, ratings):
        old = torch.tensor([
            user in known["user_id"] and item in known["item_id"]
            for user, item in zip(batch.sparse["user_id"].tolist(),
                                  batch.sparse["item_id"].tolist(), strict=True)
        ])  # fmt: skip
        # Rows of newcomers are drawn there and zeros here.
        found, wanted = model.logits(batch), learner.predict(batch)
        torch.testing.assert_close(found[old], wanted[old], rtol=1e-5, atol=2e-6)
        learner.learn(batch)
        model.observe(batch)


def test_a_newcomer_becomes_known(trained, ratings):
    model = exported(trained(ratings), 0.1)
    events = {"user_id": [10**9] * 8, "item_id": list(range(8))}
    before, others = model.predict(events), model.predict({"user_id": [5], "item_id": [10**9]})
    model.observe(events | {"rating": [5] * 8})
    assert bool((model.predict(events) > before).all())
    model.observe(events | {"rating": [1] * 20} | {"user_id": [5] * 20, "item_id": [10**9] * 20})
    assert model.predict({"user_id": [5], "item_id": [10**9]}) < others


def test_what_was_observed_is_saved(trained, ratings, tmp_path):
    run = trained(ratings, freshness="event")
    model = exported(run, 0.2)
    assert model.history.statistics.clock == Clock(by_event=True)
    first, second, *_ = rest_of(run, ratings)
    model.observe(first)
    model.save(tmp_path / "model")
    copies = [
        load_model(tmp_path / "model"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    ]  # fmt: skip
    # The weights of a mapped file begin elsewhere in memory: products may add up in another order.
    close = {"rtol": 1e-6, "atol": 1e-6}
    for own in copies:
        torch.testing.assert_close(own.logits(second), model.logits(second), **close)
        own.observe(second)
    model.observe(second)
    for own in copies:
        torch.testing.assert_close(own.logits(second), model.logits(second), **close)


def test_events_that_cannot_be_observed_leave_no_trace(trained, ratings):
    model = exported(trained(ratings))
    before = model.bytes()
    new = {"user_id": [10**9], "item_id": [10**9]}
    with pytest.raises(UserError, match="'rating' is missing; there are user_id, item_id"):
        model.observe(new)
    with pytest.raises(UserError, match="event 0: label is 99; expected a number from"):
        model.observe(new | {"rating": [99]})
    with pytest.raises(UserError, match="the batch has no labels"):
        model.observe(Batch({name: np.array(ids) for name, ids in new.items()}))
    assert model.bytes() == before
    with pytest.raises(UserError, match="the model has no history"):
        make_model(False).observe(EVENTS)


def test_predictions_meanwhile_know_all_of_a_batch_or_none(trained, ratings):
    model = exported(trained(ratings), 0.2)
    user = {"user_id": [10**9], "item_id": [3]}
    events = {"user_id": [10**9] * 500, "item_id": [3] * 500, "rating": [5] * 500}
    ends = copy.deepcopy(model)
    allowed = [ends.predict(user).item()]
    for _ in range(20):
        ends.observe(events)
        allowed.append(ends.predict(user).item())
    found, done = [], threading.Event()

    def predict():
        while not done.is_set():
            found.append(model.predict(user).item())

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        model.observe(events)
    done.set()
    for thread in threads:
        thread.join()
    assert found
    assert {*found} <= {*allowed}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["history"]["tables"].pop("user_id"),
        lambda s: s["history"]["tables"]["user_id"].__setitem__(0, 255),  # NaN in any width
        lambda s: s["history"]["tables"]["user_id"].__setitem__((0, slice(2, 4)), (128, 127)),
        lambda s: s["history"]["tables"].update(user_id=s["history"]["tables"]["user_id"][:-1]),
        lambda s: s["history"]["totals"].update(events=np.ones(3)),
        lambda s: s["history"].update(wide=None),
        lambda s: s["history"].update(wide=[torch.ones(1, 3), torch.ones(1)]),
        lambda s: s.update(history=None),
        lambda s: s["history"].update(seed="7"),
    ],
)
def test_a_file_whose_history_does_not_fit_is_refused(trained, ratings, tmp_path, change):
    from autoemb.streaming import checkpoint

    exported(trained(ratings)).save(tmp_path / "model")
    state = checkpoint.load(tmp_path / "model")
    change(state)
    checkpoint.save(state, tmp_path / "model")
    with pytest.raises(UserError) as raised:
        load_model(tmp_path / "model")
    assert "\n" not in str(raised.value)
