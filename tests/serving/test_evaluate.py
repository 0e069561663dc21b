"""Scores of a served model on the events that follow."""

import dataclasses
import math

import polars as pl
import pytest
import torch

from autoemb.data import synthetic
from autoemb.errors import UserError
from autoemb.lab.evaluate import evaluate
from autoemb.schema import RATINGS, Label
from autoemb.serving import Exporter
from tests.serving.conftest import RICH, rich_events

pytestmark = pytest.mark.usefixtures("few_steps")


def exported(run, budget=0.3):
    return Exporter(run.learner, run.schema, run.task, about=run.about).export(budget)[0]


@pytest.mark.parametrize("order", ["chronological", "shuffled"])
@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_scores_are_those_of_the_events_after_the_runs(trained, request, data, order, monkeypatch):
    monkeypatch.setattr("autoemb.lab.evaluate.BATCH", 40)
    stream = request.getfixturevalue(data)
    run = trained(stream, order=order, seed=2)
    model, task = exported(run), run.task
    events = stream.shuffled(2) if order == "shuffled" else stream
    rest = events.events().batch(450, 600)
    logits = model.logits(rest)
    scores = evaluate(model, stream)
    assert scores["interactions"] == 150
    target = task.target(rest.label)
    assert scores["loss"] == pytest.approx(task.loss(logits, target).mean().item())
    right = task.correct(logits, target).float().mean().item()
    assert scores["accuracy"] == pytest.approx(right)


def test_the_whole_budget_scores_as_the_frozen_run(trained, rich):
    run = trained(rich, method="darts")
    model = exported(run, 1.0)
    known = run.learner.encoder.id_tables
    users = rich.frame["user_id"][450:].is_in(known["user_id"].ids().tolist())
    items = rich.frame["item_id"][450:].is_in(known["item_id"].ids().tolist())
    before = rich.frame["prev_item"][450:].is_in(known["item_id"].ids().tolist())
    old = users & items & before  # newcomers are tested elsewhere
    assert old.sum() > 10
    part = dataclasses.replace(rich, frame=rich.frame[450:].filter(old))
    batch = part.events().batch(0, len(part))
    torch.testing.assert_close(
        model.logits(batch), run.learner.predict(batch), rtol=1e-5, atol=2e-6
    )


def test_scores_are_the_tasks_metrics_with_the_weights_of_events(trained, rich):
    scores = evaluate(exported(trained(rich)), rich)
    assert {*scores} == {"loss", "accuracy", "auc", "normalised_entropy", "calibration",
                         "interactions", "seconds", "interactions_per_second"}  # fmt: skip
    label = Label(column="click", kind="value")
    schema = RICH.model_copy(update={"label": label, "weight": "weight"})
    weights = pl.Series("weight", range(600), dtype=pl.Float32) % 3
    frame = rich.frame.with_columns(weights).select(schema.columns)
    stream = dataclasses.replace(rich, name="rich values", schema=schema, frame=frame)
    run = trained(stream)
    model, rest = exported(run), stream.events().batch(450, 600)
    scores = evaluate(model, stream)
    assert [*scores][:2] == ["loss", "mae"]
    error = model.predict(rest) - rest.label
    expected = float((error.square() * rest.weight).sum() / rest.weight.sum())
    assert scores["loss"] == pytest.approx(expected)


def test_other_events_are_refused_unless_all_are_wanted(trained):
    model = exported(trained())
    other = synthetic(700)
    with pytest.raises(UserError, match="not the events that the model was trained on; --all"):
        evaluate(model, other)
    assert evaluate(model, other, every=True)["interactions"] == 700


def test_labels_of_another_scale_are_scored_by_it(trained, ratings):
    model = exported(trained())
    stars = pl.col("rating") * 2
    schema = RATINGS.model_copy(
        update={"label": Label(column="rating", kind="rating", scale=(0, 10))}
    )
    ten = dataclasses.replace(ratings, schema=schema, frame=ratings.frame.with_columns(stars))
    scores = [evaluate(model, stream, every=True)["loss"] for stream in (ratings, ten)]
    assert scores[0] == scores[1]


def test_data_without_the_models_features_are_refused(trained, ratings, rich):
    model = exported(trained(rich))
    with pytest.raises(UserError, match="the sparse features are user_id, item_id; the model reads "
                                        "user_id, item_id, prev_item"):  # fmt: skip
        evaluate(model, ratings, every=True)
    with pytest.raises(UserError, match="task regression does not fit the label 'click'"):
        evaluate(exported(trained()), rich, every=True)
    values = RICH.model_copy(update={"label": Label(column="click", kind="value")})
    with pytest.raises(UserError, match="task click does not fit the label 'click' of kind value"):
        evaluate(model, dataclasses.replace(rich, schema=values), every=True)
    swapped = RICH.model_copy(update={"dense": RICH.dense[::-1]})
    other = dataclasses.replace(rich, schema=swapped, frame=rich.frame.select(swapped.columns))
    with pytest.raises(UserError, match="the dense features are step, price; the model reads "
                                        "price, step"):  # fmt: skip
        evaluate(model, other, every=True)
    assert evaluate(model, rich_events(80, seed=1), every=True)["interactions"] == 80


def test_a_model_that_tells_of_no_run_scores_all_events_alone(trained, ratings):
    model = exported(trained())
    expected = evaluate(model, ratings, every=True)["loss"]
    positions = (-1, 1.5, math.nan, math.inf, 10**30, None, "1", True)
    for about in ({}, {"config": 3}, *(model.about | {"position": p} for p in positions)):
        model.about = about
        with pytest.raises(UserError, match=r"does not tell which events .* --all"):
            evaluate(model, ratings)
        assert evaluate(model, ratings, every=True)["loss"] == expected


def test_a_model_of_the_whole_stream_has_nothing_to_be_scored_on(trained, ratings):
    model = exported(trained())
    model.about["position"] = len(ratings)
    with pytest.raises(UserError, match="no events follow"):
        evaluate(model, ratings)
