"""One run: its numbers, its files, its order and stages."""

import dataclasses
import importlib
import json
import math
import re

import polars as pl
import pytest
import torch

from autoemb.errors import UserError
from autoemb.lab import run
from autoemb.lab.events import ordered
from autoemb.learners import METHODS
from autoemb.nn import MODELS
from autoemb.schema import STARS

#: Methods that draw no random numbers.
UNSEEDED = ("mean", "bias")


module = importlib.import_module("autoemb.lab.run")  # the package names the function alike


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_its_summary_and_its_windows(
    make_config, stream, read_metrics, tmp_path, method
):
    out = tmp_path / "run"
    config = make_config(method=method, window=60)
    summary = run(config, stream, out)
    assert sorted(file.name for file in out.iterdir()) == [
        "metrics.jsonl", "summary.json", "trained.safetensors"
    ]  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["method"], summary["task"], summary["seed"]) == (method, "regression", 0)
    assert re.fullmatch("[0-9a-f]{16}", summary["data"].pop("digest"))
    assert summary["data"] == {
        "name": "synthetic",
        "format": "synthetic",
        "interactions": 300,
        "users": stream.frame["user_id"].n_unique(),
        "items": stream.frame["item_id"].n_unique(),
        "features": {name: stream.frame[name].n_unique() for name in ("user_id", "item_id")},
        "skipped_rows": 0,
    }
    resolved = {"task": "regression", "schema": stream.schema.model_dump(mode="json")}
    assert summary["config"] == config.as_dict() | resolved
    assert {"autoemb", "torch", "python", "platform"} <= {*summary["versions"]}
    assert summary["seconds"] > 0
    expected_rate = 300 / summary["seconds"]
    assert summary["interactions_per_second"] == pytest.approx(expected_rate)

    lines = read_metrics(out / "metrics.jsonl")
    stages = [(line["interactions"], line["stage"]) for line in lines]
    assert stages == [(60, "offline"), (120, "offline"), (180, "offline"), (210, "offline"),
                      (280, "online"), (300, "online")]  # fmt: skip
    for line in lines:
        if METHODS[method].controller is None:
            assert line["weights"] is None
        else:
            assert {len(weights) for weights in line["weights"].values()} == {2}
            for weights in line["weights"].values():
                assert sum(weights) == pytest.approx(1, abs=1e-6)  # a softmax in float32
    for stage, events in (("offline", 210), ("online", 90)):
        figures = summary[stage]
        assert figures["interactions"] == events
        mine = [line for line in lines if line["stage"] == stage]
        for name in ("loss", "accuracy"):
            total = math.fsum(line[name] * line["window"] for line in mine)
            # Sums in float64 in another order.
            assert total / events == pytest.approx(figures[name], rel=1e-12)
        for feature in ("user_id", "item_id"):
            rows = [r for r in summary["by_popularity"][stage] if r["feature"] == feature]
            assert sum(row["interactions"] for row in rows) == events


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_losses_are_those_of_the_learner(make_config, stream, task):
    config = make_config(method="fse", task=task)
    summary = run(config, stream)
    start = {"regression": 0.25, "classification": math.log(5)}[task]
    for stage in ("offline", "online"):  # an untrained model is near the loss of knowing nothing
        assert 0.3 * start < summary[stage]["loss"] < 3 * start
        assert 0 <= summary[stage]["accuracy"] <= 1


def test_a_run_learns(make_config, make_stream):
    # Five items, each with a rating of its own.
    config = make_config(method="autoemb", learning_rate=0.05)
    summary = run(config, make_stream(600))
    assert summary["online"]["loss"] < 0.05
    assert summary["online"]["accuracy"] > 0.95


def test_a_run_needs_no_folder(make_config, stream, numbers, tmp_path):
    config = make_config()
    summary = run(config, stream, tmp_path / "run")
    assert numbers(run(config, stream)) == numbers(summary)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(
    make_config, stream, numbers, tmp_path, method
):
    summaries = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(summaries))
        summaries.append(run(make_config(method=method, seed=seed), stream, tmp_path / name))
    first, again, other = (
        (tmp_path / name / "metrics.jsonl").read_bytes() for name in ("a", "b", "c")
    )
    assert first == again
    assert numbers(summaries[0]) == numbers(summaries[1])
    assert (first == other) == (method in UNSEEDED)


@pytest.mark.parametrize("options", [{}, {"validation": "reservoir"}])
def test_sam_is_autoemb_where_the_controller_learns_from_new_events(
    make_config, stream, tmp_path, options
):
    # First order, by events that the weights have not learnt: the gradient of joint training.
    for method in ("sam", "autoemb"):
        run(make_config(method=method, **options), stream, tmp_path / method)
    sam, autoemb = ((tmp_path / m / "metrics.jsonl").read_bytes() for m in ("sam", "autoemb"))
    assert (sam == autoemb) == (not options)


def test_ids_may_be_strings_of_any_kind(make_config, stream, numbers):
    named = dataclasses.replace(
        stream,
        frame=stream.frame.with_columns(
            pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String) + " ü"
        ),
    )
    # Rows are drawn from the ids as they came, so the numbers are others, and near.
    text, whole = (run(make_config(), events)["online"] for events in (named, stream))
    assert text["interactions"] == whole["interactions"]
    assert text["loss"] == pytest.approx(whole["loss"], rel=0.2)


def test_ratings_of_another_scale_are_stars_of_five(make_config, stream, numbers):
    label = STARS.model_copy(update={"scale": (0.0, 10.0)})
    tens = dataclasses.replace(
        stream,
        frame=stream.frame.with_columns(pl.col("rating") * 2),
        schema=stream.schema.model_copy(update={"label": label}),
    )
    known = {"data": None, "config": None}  # of which the scale is one
    both = [numbers(run(make_config(), events)) | known for events in (tens, stream)]
    assert both[0] == both[1]


def test_progress_counts_events(make_config, make_stream):
    seen = []
    run(make_config(method="fse"), make_stream(50), progress=lambda *x: seen.append(x))
    assert seen == [(0, 50), (20, 50), (40, 50), (50, 50)]


# Order, limits, stages


def test_shuffled_order_is_the_seeds_alone(stream, make_config):
    def events(**options):
        return ordered(stream, make_config(**options)).frame.rows()

    chronological = events()
    assert chronological == stream.frame.rows()
    shuffled = events(order="shuffled", seed=3)
    assert shuffled == events(order="shuffled", seed=3, method="fse")
    assert sorted(shuffled) == sorted(chronological)
    assert shuffled != chronological
    assert shuffled != events(order="shuffled", seed=4)
    # A limit cuts the ordered stream: a sample of all events, not a permutation of the first.
    assert events(order="shuffled", seed=3, limit=40) == shuffled[:40]
    assert events(limit=40) == chronological[:40]
    assert events(limit=10_000) == chronological


def test_a_limited_run_is_that_of_the_first_events(make_config, stream, numbers):
    limited, head = (
        run(make_config(limit=120), stream),
        run(make_config(), stream.head(120)),
    )
    assert limited["data"]["interactions"] == 120
    assert limited["offline"] == head["offline"]
    assert limited["online"] == head["online"]
    assert limited["data"] == head["data"]


def test_a_shuffled_run_differs_and_is_recorded(make_config, stream):
    shuffled = run(make_config(order="shuffled"), stream)
    assert shuffled["config"]["order"] == "shuffled"
    assert shuffled["online"]["loss"] != run(make_config(), stream)["online"]["loss"]


@pytest.mark.parametrize(
    ("fraction", "offline"), [(0, 0), (1, 300), (0.5, 150), (0.7, 210), (1e-9, 0), (0.999999, 299)]
)
def test_the_stages_share_the_stream(
    make_config, stream, read_metrics, tmp_path, fraction, offline
):
    out = tmp_path / "run"
    summary = run(make_config(method="fse", offline_fraction=fraction), stream, out)
    assert summary["offline"]["interactions"] == offline
    assert summary["online"]["interactions"] == 300 - offline
    for stage in ("offline", "online"):
        events = summary[stage]["interactions"]
        assert (summary[stage]["loss"] is None) == (events == 0)
        assert (summary[stage]["accuracy"] is None) == (events == 0)
        assert (summary["by_popularity"][stage] == []) == (events == 0)
        lines = read_metrics(out / "metrics.jsonl")
        assert sum(x["window"] for x in lines if x["stage"] == stage) == events


@pytest.mark.parametrize("events", [10, 90, 300, 1000, 170_000])
def test_seventy_percent_are_seven_tenths(make_config, make_stream, monkeypatch, events):
    found = []

    class Stop(Exception):
        pass

    def recorder(*args, offline, **options):
        found.append(offline)
        raise Stop

    monkeypatch.setattr(module, "Recorder", recorder)
    with pytest.raises(Stop):
        run(make_config(method="fse"), make_stream(events))
    assert found == [events * 7 // 10]


def test_stages_do_not_change_what_is_learnt(make_config, stream):
    losses = []
    for fraction in (0, 0.3, 1):
        summary = run(make_config(offline_fraction=fraction), stream)
        stages = [summary[stage] for stage in ("offline", "online")]
        losses.append(sum((s["loss"] or 0) * s["interactions"] for s in stages) / 300)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)  # sums in another order


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("events", [2, 3, 5])
def test_a_very_short_stream_runs(make_config, make_stream, read_metrics, tmp_path, method, events):
    summary = run(make_config(method=method, batch_size=2), make_stream(events), tmp_path / "run")
    assert summary["offline"]["interactions"] == int(0.7 * events)
    assert summary["online"]["interactions"] == events - int(0.7 * events)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(line["window"] for line in lines) == events


def test_a_batch_may_be_larger_than_the_stream(make_config, make_stream):
    summary = run(make_config(batch_size=10_000), make_stream(30))
    assert summary["online"]["interactions"] == 9


@pytest.mark.parametrize("events", [0, 1])
def test_a_stream_too_short_for_batch_statistics_is_refused_and_leaves_nothing(
    make_config, make_stream, tmp_path, events
):
    with pytest.raises(UserError, match=f"the stream has {events} events"):
        run(make_config(norm="batch"), make_stream(events), tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


def test_a_stream_of_one_event_is_learnt_without_batch_statistics(make_config, make_stream):
    summary = run(make_config(offline_fraction=0), make_stream(1))
    assert summary["online"]["interactions"] == 1
    assert math.isfinite(summary["online"]["loss"])


@pytest.mark.parametrize("options", [{"dims": (3,)}, {"dims": (2, 2)}, {"dims": (1, 2, 3, 4)}])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_sizes_runs(make_config, make_stream, method, options):
    summary = run(make_config(method=method, **options), make_stream(60))
    assert math.isfinite(summary["online"]["loss"])


def test_a_run_that_diverges_records_null(make_config, stream, read_metrics, tmp_path, monkeypatch):
    def undefined(*options, **others):  # whatever the machine rounds, and from the first event on
        model = make_model(*options, **others)
        torch.nn.init.constant_(model.hidden[0].bias, math.nan)
        return model

    make_model = MODELS["dcn"]
    monkeypatch.setitem(MODELS, "dcn", undefined)
    out = tmp_path / "run"
    run(make_config(method="fse"), stream, out)
    lines = read_metrics(out / "metrics.jsonl")  # strict JSON
    assert {line["loss"] for line in lines} == {None}
    assert json.loads((out / "summary.json").read_text())["online"]["loss"] is None
