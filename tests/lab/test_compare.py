"""Methods x seeds on the same events, and the intervals of their differences."""

import json
import math
import os
import signal

import numpy as np
import pytest

from autoemb.errors import UserError
from autoemb.lab import Interrupted, compare, run
from autoemb.lab.differences import CONFIDENCE, block_bootstrap

METHODS, SEEDS = ("fse", "darts", "autoemb"), (0, 3)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr("autoemb.lab.differences.RESAMPLES", 300)  # 4,000 take a second


def interrupt_in(method, seed, position):
    """Return what ``compare`` takes as progress; one run of it sends SIGINT at a position."""

    def progress_of(one, other):
        def progress(done, total):
            if (one, other, done) == (method, seed, position):
                os.kill(os.getpid(), signal.SIGINT)

        return progress

    return progress_of


def without_times(comparison):
    rows = [{k: v for k, v in r.items() if k != "seconds"} for r in comparison["results"]]
    return comparison | {"results": rows}


# Files


@pytest.fixture
def config(make_config):
    return make_config(window=20)


def test_every_method_runs_with_every_seed_in_its_own_folder(
    config, stream, numbers, make_config, tmp_path
):
    comparison = compare(config, stream, tmp_path, methods=METHODS, seeds=SEEDS)
    assert json.loads((tmp_path / "compare.json").read_text()) == comparison
    wanted = [(method, seed) for method in METHODS for seed in SEEDS]
    assert [(row["method"], row["seed"]) for row in comparison["results"]] == wanted
    for row in comparison["results"]:
        folder = tmp_path / row["run"]
        assert sorted(file.name for file in folder.iterdir()) == ["metrics.jsonl", "summary.json"]
        summary = json.loads((folder / "summary.json").read_text())
        alone = run(make_config(window=20, method=row["method"], seed=row["seed"]), stream)
        assert numbers(summary) == numbers(alone)
        for name in ("offline", "online", "seconds"):
            assert row[name] == summary[name]
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "compare.json",
        *(row["run"] for row in comparison["results"]),
    }
    assert comparison["task"] == "regression"
    assert comparison["data"] == summary["data"]
    options = comparison["config"]
    assert (options["methods"], options["seeds"]) == ([*METHODS], [*SEEDS])
    assert not {"method", "seed"} & {*options}
    assert options["dims"] == [1, 2]


def test_the_last_method_is_compared_with_each_other_one(config, stream, tmp_path):
    rows = compare(config, stream, tmp_path, methods=METHODS, seeds=SEEDS)["differences"]
    wanted = {
        ("autoemb", baseline, stage, metric)
        for baseline in ("fse", "darts")
        for stage in ("offline", "online")
        for metric in ("loss", "accuracy")
    }
    names = [(r["method"], r["baseline"], r["stage"], r["metric"]) for r in rows]
    assert len(names) == len(wanted)
    assert {*names} == wanted
    for row in rows:
        assert row["low"] <= row["mean"] <= row["high"]
        assert (row["confidence"], row["seeds"]) == (CONFIDENCE, 2)
        lines = (tmp_path / "fse-seed0" / "metrics.jsonl").read_text().splitlines()
        stages = [json.loads(line)["stage"] for line in lines]
        assert row["windows"] == stages.count(row["stage"])


@pytest.mark.parametrize("seeds", [[0], [0, 1, 5]])
def test_a_difference_is_that_of_the_stages_over_paired_seeds(config, stream, tmp_path, seeds):
    comparison = compare(config, stream, tmp_path, methods=["sam", "autoemb"], seeds=seeds)
    for row in comparison["differences"]:
        ours, theirs = (
            [r[row["stage"]][row["metric"]] for r in comparison["results"] if r["method"] == method]
            for method in ("autoemb", "sam")
        )
        expected = np.mean(np.array(ours) - np.array(theirs))
        # Windows weighed by their events make up the stage, in float64.
        assert row["mean"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_methods_of_one_seed_see_the_same_events(config, stream, tmp_path):
    config = config.but(order="shuffled")
    rows = compare(config, stream, tmp_path, methods=["fse", "sam"], seeds=SEEDS)["results"]
    seen = {}
    for row in rows:
        lines = (tmp_path / row["run"] / "summary.json").read_text()
        buckets = json.loads(lines)["by_popularity"]["offline"]
        seen[row["method"], row["seed"]] = [(b["feature"], b["interactions"]) for b in buckets]
    for seed in SEEDS:  # how many events of which popularity came tells the order
        assert seen["fse", seed] == seen["sam", seed]
    assert seen["fse", 0] != seen["fse", 3]


def test_one_method_has_no_differences(config, stream, tmp_path):
    comparison = compare(config, stream, tmp_path, methods=["fse"], seeds=[0])
    assert comparison["differences"] == []
    assert len(comparison["results"]) == 1


@pytest.mark.parametrize(("fraction", "stages"), [(0, {"online"}), (1, {"offline"})])
def test_a_stage_without_events_has_no_differences(make_config, stream, tmp_path, fraction, stages):
    config = make_config(offline_fraction=fraction)
    comparison = compare(config, stream, tmp_path, methods=["fse", "sam"], seeds=[0])
    assert {row["stage"] for row in comparison["differences"]} == stages


@pytest.mark.parametrize("events", [2, 3])
def test_a_very_short_stream_is_compared(make_config, make_stream, tmp_path, events):
    config = make_config(batch_size=2)
    comparison = compare(config, make_stream(events), tmp_path, methods=["fse", "sam"], seeds=[0])
    assert all(row["windows"] == 1 for row in comparison["differences"])
    assert len(comparison["differences"]) == 4


def test_a_run_that_diverges_is_compared(make_config, stream, tmp_path):
    # Infinite in float32: whatever a CPU rounds to, the first step leaves no finite weight.
    config = make_config(optimizer="sgd", learning_rate=1e300)
    comparison = compare(config, stream, tmp_path, methods=["fse", "darts"], seeds=[0])
    losses = [row for row in comparison["differences"] if row["metric"] == "loss"]
    assert any(not math.isfinite(row["mean"]) for row in losses)
    text = (tmp_path / "compare.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


# Interruption


def test_an_interrupted_comparison_continues_to_the_last_bit(config, stream, tmp_path):
    whole, parts = tmp_path / "a", tmp_path / "b"
    expected = compare(config, stream, whole, methods=METHODS, seeds=SEEDS)
    stops = [("fse", 3, 100), ("darts", 0, 240), ("autoemb", 3, 20)]
    done = ["fse-seed0", "fse-seed3", "darts-seed0", "darts-seed3", "autoemb-seed0"]
    for (method, seed, position), complete in zip(stops, (1, 2, 5), strict=True):
        with pytest.raises(Interrupted):
            compare(
                config,
                stream,
                parts,
                methods=METHODS,
                seeds=SEEDS,
                resume=True,
                progress=interrupt_in(method, seed, position),
            )
        assert not (parts / "compare.json").exists()
        found = {folder.parent.name for folder in parts.glob("*/summary.json")}
        assert found == {*done[:complete]}
    comparison = compare(config, stream, parts, methods=METHODS, seeds=SEEDS, resume=True)
    assert without_times(comparison) == without_times(expected)
    for run_folder in whole.glob("*/metrics.jsonl"):
        other = parts / run_folder.relative_to(whole)
        assert other.read_bytes() == run_folder.read_bytes()


def test_a_complete_comparison_is_computed_again_from_its_files(config, stream, tmp_path):
    first = compare(config, stream, tmp_path, methods=["fse", "sam"], seeds=[0])
    done = []

    def progress_of(method, seed):
        return lambda *position: done.append((method, seed, *position))

    again = compare(
        config, stream, tmp_path, methods=["fse", "sam"], seeds=[0], resume=True,
        progress=progress_of,
    )  # fmt: skip
    assert again == first
    assert done == [("fse", 0, 300, 300), ("sam", 0, 300, 300)]


def test_a_comparison_can_be_widened(config, stream, tmp_path):
    compare(config, stream, tmp_path / "a", methods=["fse", "autoemb"], seeds=[0])
    wide = compare(
        config, stream, tmp_path / "a", methods=["fse", "sam", "autoemb"], seeds=[0, 1], resume=True
    )
    fresh = compare(config, stream, tmp_path / "b", methods=["fse", "sam", "autoemb"], seeds=[0, 1])
    assert without_times(wide) == without_times(fresh)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": []}, "--methods is ''; expected different values separated by commas"),
        ({"methods": ["fse", "fse"]}, "--methods is 'fse,fse'; expected different"),
        (
            {"methods": ["fse", "bogus"]},
            "--methods names bogus; expected some of mean, bias, logistic, fm, fse, sam, "
            "darts, autoemb",
        ),
        ({"seeds": []}, "--seeds is ''; expected different"),
        ({"seeds": [0, 1, 0]}, "--seeds is '0,1,0'; expected different"),
        ({"seeds": [-1]}, "seed is -1; expected at least 0"),
    ],
)
def test_bad_methods_and_seeds_are_refused_before_anything_runs(
    config, stream, tmp_path, options, message
):
    with pytest.raises(UserError, match=message):
        compare(config, stream, tmp_path / "out", **{"methods": ["fse"], "seeds": [0]} | options)
    assert not (tmp_path / "out").exists()


def test_a_comparison_is_not_overwritten(config, stream, tmp_path):
    compare(config, stream, tmp_path, methods=["fse"], seeds=[0])
    before = (tmp_path / "compare.json").read_bytes()
    with pytest.raises(UserError, match="already holds a comparison; pass --resume"):
        compare(config, stream, tmp_path, methods=["sam"], seeds=[0])
    assert (tmp_path / "compare.json").read_bytes() == before
    assert not (tmp_path / "sam-seed0").exists()


def test_other_options_are_refused_and_the_runs_stay(make_config, config, stream, tmp_path):
    compare(config, stream, tmp_path, methods=["fse"], seeds=[0])
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.json*")}
    for other, data in ((make_config(window=21), stream), (config, stream.head(200))):
        with pytest.raises(UserError, match="holds a run with"):
            compare(other, data, tmp_path, methods=["fse"], seeds=[0], resume=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json*")} == files


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_for_a_folder_is_refused_and_stays(config, stream, tmp_path, resume):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written|is a file"):
        compare(config, stream, file, methods=["fse"], seeds=[0], resume=resume)
    assert file.read_text() == "mine"


def test_broken_metrics_of_a_complete_run_are_named(config, stream, tmp_path):
    compare(config, stream, tmp_path, methods=["fse", "sam"], seeds=[0])
    metrics = tmp_path / "sam-seed0" / "metrics.jsonl"
    whole = metrics.read_text()
    lines = whole.splitlines(keepends=True)
    for text in (whole[:-20], "".join(lines[:-1]), ""):
        metrics.write_text(text)
        with pytest.raises(UserError, match=r"sam-seed0"):
            compare(config, stream, tmp_path, methods=["fse", "sam"], seeds=[0], resume=True)


# Intervals


@pytest.mark.parametrize("windows", [1, 2, 30])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_constant_series_has_no_spread(windows, seeds):
    values = np.full((seeds, windows), -0.125)
    assert block_bootstrap(values, np.arange(1.0, windows + 1)) == (-0.125, -0.125, -0.125)


def test_the_mean_is_weighed_by_events():
    values, weights = np.array([[1.0, 4.0, 7.0], [3.0, 6.0, 9.0]]), np.array([1.0, 1.0, 2.0])
    mean, low, high = block_bootstrap(values, weights)
    assert mean == pytest.approx((2 + 5 + 2 * 8) / 4)
    assert low <= mean <= high


def test_the_interval_is_weighed_by_events_too():
    values, weights = np.zeros((1, 25)), np.ones(25)
    values[0, 0], weights[0] = 1, 1000  # nearly all events are in one window
    mean, low, high = block_bootstrap(values, weights)
    assert mean == 1000 / 1024
    assert low == 0  # the window was not drawn
    assert high > mean  # or more than once


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    random, hits, widths = np.random.default_rng(1), 0, []
    for _ in range(200):
        values = 0.3 + random.normal(size=(1, 100))
        mean, low, high = block_bootstrap(values, np.ones(100))
        assert mean == pytest.approx(values.mean())
        hits += low <= 0.3 <= high
        widths.append(high - low)
    # 95 % of 200 are 190. Blocks of 10 leave 10 of them, which costs some points of coverage;
    # below 165 the interval would be too narrow, above 199 too wide.
    assert 165 <= hits <= 199
    exact = 2 * 1.96 / 100**0.5
    assert np.mean(widths) == pytest.approx(exact, rel=0.15)


def test_neighbours_that_resemble_each_other_widen_the_interval():
    random = np.random.default_rng(2)
    noise, series = random.normal(size=400), np.empty(400)
    series[0] = noise[0]
    for i in range(1, 400):
        series[i] = 0.9 * series[i - 1] + noise[i]
    mixed = random.permutation(series)
    widths = []
    for values in (series, mixed):
        _, low, high = block_bootstrap(values[None], np.ones(400))
        widths.append(high - low)
    # Drawn one by one, the two would be alike; the truth for 0.9 is a factor of 4.4.
    assert widths[0] > 2.5 * widths[1]


def test_seeds_that_disagree_widen_the_interval():
    values = np.stack([np.full(50, level) for level in (0.0, 0.5, 1.0)])
    mean, low, high = block_bootstrap(values, np.ones(50))
    assert (mean, low, high) == (0.5, 0.0, 1.0)  # three times the same seed: 1 draw in 27 each
    _, low, high = block_bootstrap(values[1:2], np.ones(50))
    assert (low, high) == (0.5, 0.5)


def test_the_interval_is_the_same_every_time():
    values = np.random.default_rng(3).normal(size=(2, 40))
    assert block_bootstrap(values, np.ones(40)) == block_bootstrap(values, np.ones(40))
