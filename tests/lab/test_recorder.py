"""Sums over windows, stages and popularity, against a loop over events."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.bilevel import Outcome
from autoemb.lab.recorder import STAGES, Recorder
from autoemb.ops import distinct_columns
from autoemb.schema import STARS
from autoemb.streaming import Step
from autoemb.streaming.transfer import Download
from autoemb.tasks import task_for

FEATURES, SIZES = {"user_id": "user_id", "item_id": "item_id"}, 2
TASK = task_for("regression", STARS)

# Sums in float64 of numbers given in float32: 1e-15 seen; 1e-12 leaves room for other orders.
NEAR = {"rel": 1e-12, "abs": 1e-12}


def make_step(size, seed, sizes=SIZES, losses=None):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 5, (size, len(FEATURES)), generator=random)
    plans = dict(zip(FEATURES, distinct_columns(ids), strict=True))
    mix = {t: torch.rand(len(plan.rows), sizes, generator=random) for t, plan in plans.items()}
    if losses is None:
        losses = torch.rand(size, generator=random)
    outcome = Outcome(
        torch.randn(size, 1, generator=random),
        losses,
        mix if sizes else None,
        plans,
        {name: plans[table].inverse for name, table in FEATURES.items()},
    )
    popularity = {n: torch.randint(0, 40, (size,), generator=random) for n in FEATURES}
    return Step(outcome, torch.rand(size, generator=random).round(), None, popularity)


def make_recorder(offline, window, path=None, sizes=SIZES):
    return Recorder(TASK, FEATURES, sizes, offline, window, path)


def events_of(steps):
    """One dict an event: a second way to read a step."""
    for step in steps:
        outcome = step.outcome
        for i, loss in enumerate(outcome.losses.tolist()):
            yield {
                "loss": loss,
                "accuracy": float(
                    (outcome.logits[i, 0].item() > 0) == (step.label[i].item() > 0.5)
                ),
                "popularity": {n: counts[i].item() for n, counts in step.popularity.items()},
                "weights": None
                if outcome.mix is None
                else {
                    n: outcome.mix[n][places[i]].tolist() for n, places in outcome.places.items()
                },
            }


def mean(events, name):
    return math.fsum(event[name] for event in events) / len(events)


def mean_weights(events, feature):
    columns = zip(*(event["weights"][feature] for event in events), strict=True)
    return [math.fsum(column) / len(events) for column in columns]


def check_figures(found, events):
    assert found["loss"] == pytest.approx(mean(events, "loss"), **NEAR)
    assert found["accuracy"] == pytest.approx(mean(events, "accuracy"), **NEAR)


def windows_of(sizes, offline, window):
    """Where lines end, as the specification has it: [(first event, last event + 1, stage)]."""
    ends, done, begin = [], 0, 0
    for size in sizes:
        stops = {done + size}
        if done < offline < done + size:
            stops.add(offline)
        for done in sorted(stops):
            if done - begin >= window or done == offline:
                ends.append((begin, done))
                begin = done
    if done > begin:
        ends.append((begin, done))
    return [(b, e, STAGES[e > offline]) for b, e in ends]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(0, 40),
    st.integers(1, 15),
    st.sampled_from([0, SIZES]),
)
def test_lines_and_stages_are_sums_over_events(tmp_path_factory, read, sizes, offline, window, n):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    recorder = make_recorder(offline, window, path, n)
    steps = [make_step(size, seed, n) for seed, size in enumerate(sizes)]
    events = [*events_of(steps)]
    for step in steps:
        recorder.add(step)
    recorder.close_window()
    lines, expected = read(path), windows_of(sizes, offline, window)
    assert len(lines) == len(expected)
    for line, (begin, end, stage) in zip(lines, expected, strict=True):
        part = events[begin:end]
        assert (line["interactions"], line["window"]) == (end, end - begin)
        assert line["stage"] == stage
        check_figures(line, part)
        if n == 0:
            assert line["weights"] is None
        else:
            assert [*line["weights"]] == [*FEATURES]
            for name in FEATURES:
                wanted = mean_weights(part, name)
                assert line["weights"][name] == pytest.approx(wanted, **NEAR)
    for stage, part in zip(STAGES, (events[:offline], events[offline:]), strict=True):
        found = recorder.stage(stage)
        assert found["interactions"] == len(part)
        if not part:
            assert (found["loss"], found["accuracy"]) == (None, None)
            assert recorder.by_popularity(stage) == []
            continue
        check_figures(found, part)
        check_windows_add_up([line for line in lines if line["stage"] == stage], found)
        check_popularity(recorder.by_popularity(stage), part, n)


def check_windows_add_up(lines, stage):
    assert sum(line["window"] for line in lines) == stage["interactions"]
    for name in ("loss", "accuracy"):
        total = math.fsum(line[name] * line["window"] for line in lines)
        assert total / stage["interactions"] == pytest.approx(stage[name], **NEAR)


def check_popularity(rows, events, sizes):
    for name in FEATURES:
        mine = [row for row in rows if row["feature"] == name]
        assert sum(row["interactions"] for row in mine) == len(events)
        assert [row["low"] for row in mine] == sorted({row["low"] for row in mine})
        for row in mine:
            part = [e for e in events if row["low"] <= e["popularity"][name] <= row["high"]]
            assert row["interactions"] == len(part) > 0
            check_figures(row, part)
            if sizes:
                assert row["weights"] == pytest.approx(mean_weights(part, name), **NEAR)
            else:
                assert row["weights"] is None


@pytest.fixture(scope="module")
def read(read_metrics):
    return read_metrics


def test_a_batch_across_the_boundary_is_split_at_the_event(tmp_path, read):
    path = tmp_path / "metrics.jsonl"
    recorder = make_recorder(offline=3, window=100, path=path)
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    recorder.add(make_step(5, 0, losses=losses))
    offline = recorder.stage("offline")
    assert (offline["loss"], offline["interactions"]) == (7 / 3, 3)
    assert recorder.stage("online")["loss"] == 12
    recorder.close_window()
    lines = [(x["stage"], x["interactions"], x["window"], x["loss"]) for x in read(path)]
    assert lines == [("offline", 3, 3, 7 / 3), ("online", 5, 2, 12.0)]


@pytest.mark.parametrize(("offline", "stage"), [(0, "online"), (6, "offline"), (100, "offline")])
def test_a_stream_of_one_stage(tmp_path, read, offline, stage):
    path = tmp_path / "metrics.jsonl"
    recorder = make_recorder(offline, window=4, path=path)
    for seed in range(3):
        recorder.add(make_step(2, seed))
    recorder.close_window()
    recorder.close_window()  # an empty window is no line
    assert [(line["stage"], line["window"]) for line in read(path)] == [(stage, 4), (stage, 2)]
    other = STAGES[1 - STAGES.index(stage)]
    assert recorder.stage(other) == {"loss": None, "accuracy": None, "auc": None, "interactions": 0}
    assert recorder.stage(stage)["interactions"] == 6


def test_popularity_goes_by_octaves():
    recorder = make_recorder(offline=0, window=100)
    step = make_step(7, 0)
    counts = torch.tensor([0, 1, 2, 3, 6, 7, 2**31])
    recorder.add(step._replace(popularity=dict.fromkeys(FEATURES, counts)))
    rows = [row for row in recorder.by_popularity("online") if row["feature"] == "item_id"]
    assert [(row["low"], row["interactions"]) for row in rows] == [
        (0, 1),
        (1, 2),
        (3, 2),
        (7, 1),
        (2**31 - 1, 1),
    ]
    for row, following in pairwise(rows[:-1]):
        assert row["high"] == following["low"] - 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_becomes_null_where_it_counts(tmp_path, read, bad):
    path = tmp_path / "metrics.jsonl"
    recorder = make_recorder(offline=4, window=2, path=path)
    for seed, losses in enumerate([[1.0, 3.0], [1.0, bad], [5.0, 7.0]]):
        recorder.add(make_step(2, seed, losses=torch.tensor(losses)))
    lines = read(path)
    assert [line["loss"] for line in lines] == [2.0, None, 6.0]
    assert None not in [line["accuracy"] for line in lines]
    assert not math.isfinite(recorder.stage("offline")["loss"])
    assert recorder.stage("online")["loss"] == 6.0


def test_sums_keep_small_losses_beside_millions_of_events():
    recorder = make_recorder(offline=0, window=10**9, sizes=0)
    step = make_step(1000, 0, sizes=0, losses=torch.full((1000,), 0.1))
    for _ in range(300):
        recorder.add(step)
    # In float32 the sum of 300,000 terms would be off by 1e-5 or more.
    expected = torch.tensor(0.1, dtype=torch.float32).double().item()
    assert recorder.stage("online")["loss"] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("beyond", [0, 1, 2])
def test_resumption_cuts_the_file_and_repeats_to_the_last_byte(tmp_path, stop, beyond):
    steps = [make_step(size, seed) for seed, size in enumerate([3, 4, 2, 5, 6, 3, 4, 2])]
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    recorder = make_recorder(11, 4, whole)
    for step in steps:
        recorder.add(step)
    recorder.close_window()

    stopped = make_recorder(11, 4, resumed)
    for step in steps[:stop]:
        stopped.add(step)
    saved = stopped.state_dict()
    saved = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in saved.items()}
    for step in steps[stop : stop + beyond]:  # what a kill after the checkpoint leaves
        stopped.add(step)
    again = make_recorder(11, 4, resumed)
    again.load_state_dict(saved)
    for step in steps[stop:]:
        again.add(step)
    again.close_window()
    assert resumed.read_bytes() == whole.read_bytes()
    for stage in STAGES:
        assert again.stage(stage) == recorder.stage(stage)
        assert again.by_popularity(stage) == recorder.by_popularity(stage)


class Late(Download):
    """What arrives three steps late, as from a GPU."""

    def arrived(self, wait=False):
        while len(self._queue) > (0 if wait else 3):
            yield self._queue.popleft()


@pytest.mark.parametrize("read_out", ["close_window", "stage", "by_popularity", "state_dict"])
def test_steps_that_arrive_late_are_recorded_alike(tmp_path, monkeypatch, read_out):
    steps = [make_step(7, seed) for seed in range(10)]
    prompt = make_recorder(offline=24, window=10, path=tmp_path / "prompt")
    monkeypatch.setattr("autoemb.lab.recorder.Download", Late)
    late = make_recorder(offline=24, window=10, path=tmp_path / "late")
    for recorder in (prompt, late):
        for step in steps:
            recorder.add(step)
    assert late.events == 7 * 7
    arguments = {"stage": ["online"], "by_popularity": ["online"]}.get(read_out, [])
    one, other = (getattr(recorder, read_out)(*arguments) for recorder in (prompt, late))
    assert repr(one) == repr(other)
    assert late.events == 7 * 10
    assert (tmp_path / "late").read_bytes() == (tmp_path / "prompt").read_bytes()


def test_nothing_is_written_without_a_path():
    recorder = make_recorder(2, 1)
    recorder.add(make_step(4, 0))
    recorder.close_window()
    assert recorder.stage("offline")["interactions"] == 2
    assert recorder.state_dict()["file_size"] == 0


def test_weights_of_events_weigh_every_mean():
    step = make_step(6, 0)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 3.0])
    recorder = make_recorder(offline=0, window=100)
    recorder.add(step._replace(weight=weight))
    stage, events = recorder.stage("online"), [*events_of([step])]
    for name in ("loss", "accuracy"):
        total = math.fsum(w * e[name] for w, e in zip(weight.tolist(), events, strict=True))
        assert stage[name] == pytest.approx(total / 7.5, **NEAR)
    assert stage["interactions"] == 6
    rows = [row for row in recorder.by_popularity("online") if row["feature"] == "user_id"]
    assert sum(row["interactions"] for row in rows) == 6


def test_an_auc_is_that_of_all_windows_of_a_stage():
    sklearn = pytest.importorskip("sklearn.metrics", reason="what it is compared with")
    steps = [make_step(40, seed) for seed in range(5)]
    recorder = make_recorder(offline=0, window=30)
    for step in steps:
        recorder.add(step)
    labels = torch.cat([step.label for step in steps])
    logits = torch.cat([step.outcome.logits.squeeze(1) for step in steps])
    # Logits of one bucket count as ties: 1e-3 of the pairs at most here.
    expected = sklearn.roc_auc_score(labels.numpy(), logits.numpy())
    assert recorder.stage("online")["auc"] == pytest.approx(expected, abs=1e-3)
