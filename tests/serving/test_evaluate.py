"""Scores of a served model on the events that follow."""

import numpy as np
import pytest
import torch

from autoemb.data import synthetic
from autoemb.errors import UserError
from autoemb.lab.evaluate import evaluate
from autoemb.schema import STARS
from autoemb.serving.export import Exporter
from autoemb.tasks import task_for


@pytest.mark.parametrize("order", ["chronological", "shuffled"])
def test_scores_are_those_of_the_events_after_the_runs(trained, stream, order, monkeypatch):
    monkeypatch.setattr("autoemb.lab.evaluate.BATCH", 40)
    run = trained(order=order, seed=2)
    model, _ = Exporter(run).export(0.3)
    events = stream.shuffled(2) if order == "shuffled" else stream
    rest = slice(450, 600)
    ids = [events.frame[name].to_numpy()[rest] for name in ("user_id", "item_id")]
    stars = torch.from_numpy(events.frame["rating"].to_numpy()[rest].copy())
    task = task_for("regression", STARS)
    logits = model.logits(ids)
    scores = evaluate(model, stream)
    assert scores["interactions"] == 150
    assert scores["loss"] == pytest.approx(task.loss(logits, task.target(stars)).mean().item())
    assert scores["accuracy"] == pytest.approx(
        task.correct(logits, task.target(stars)).float().mean().item()
    )


def test_the_whole_budget_scores_as_the_frozen_run(trained, stream):
    run = trained(method="darts", task="classification")
    known = [set(np.asarray(table.ids())) for table in run.learner.id_tables]
    model, _ = Exporter(run).export(1.0)
    users, items = (stream.frame[name].to_numpy()[450:] for name in ("user_id", "item_id"))
    old = np.array([u in known[0] and i in known[1] for u, i in zip(users, items, strict=True)])
    assert 10 < old.sum() < len(old)  # newcomers are tested elsewhere
    expected = run.learner.predict([users[old], items[old]])
    torch.testing.assert_close(
        model.logits([users[old], items[old]]), expected, rtol=1e-5, atol=1e-6
    )


def test_other_events_are_refused_unless_all_are_wanted(trained):
    model, _ = Exporter(trained()).export(0.3)
    other = synthetic(700)
    with pytest.raises(UserError, match="not the events that the model was trained on; --all"):
        evaluate(model, other)
    assert evaluate(model, other, every=True)["interactions"] == 700


def test_a_model_that_tells_of_no_run_scores_all_events_alone(trained, stream):
    model, _ = Exporter(trained()).export(0.3)
    expected = evaluate(model, stream, every=True)["loss"]
    for about in ({}, {"config": 3}, model.about | {"position": -1}):
        model.about = about
        with pytest.raises(UserError, match=r"does not tell which events .* --all"):
            evaluate(model, stream)
        assert evaluate(model, stream, every=True)["loss"] == expected


def test_a_model_of_the_whole_stream_has_nothing_to_be_scored_on(trained, stream):
    model, _ = Exporter(trained()).export(0.3)
    model.about["position"] = len(stream)
    with pytest.raises(UserError, match="no events follow"):
        evaluate(model, stream)
