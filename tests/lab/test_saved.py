"""Checkpoints of a run that somebody changed: refused in one line, before anything is built."""

import math
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.errors import UserError
from autoemb.lab import Interrupted, run
from autoemb.lab.trained import load_trained
from autoemb.streaming import checkpoint


@pytest.fixture
def interrupted(make_config, stream, tmp_path):
    """Folder of a run that was stopped after 100 events."""

    def stop(done, total):
        if done == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(make_config(), stream, tmp_path / "run", progress=stop)
    return tmp_path / "run"


NOT_COUNTS = (-5, math.inf, math.nan, 10**30, 1.0, "7", None, True, [1])

CHANGES = {
    **{f"position {v!r}": (lambda s, v=v: s["stream"].update(position=v)) for v in NOT_COUNTS},
    **{f"events {v!r}": (lambda s, v=v: s["recorder"].update(events=v)) for v in NOT_COUNTS},
    **{f"rows {v!r}": (lambda s, v=v: s["learner"].update(rows=[v, 1024])) for v in NOT_COUNTS},
    "rows beyond the file": lambda s: s["learner"].update(rows=[10_000_000, 10_000_000]),
    **{
        f"seconds {v!r}": (lambda s, v=v: s.update(seconds=v))
        for v in (-1.0, math.nan, math.inf, "1", None)
    },
    **{
        f"file size {v!r}": (lambda s, v=v: s["recorder"].update(file_size=v))
        for v in (-5, math.inf, math.nan, 10**30, "7", None)
    },
    "a window of another shape": lambda s: s["recorder"].update(window=torch.zeros(2, 4)),
    "stages that are text": lambda s: s["recorder"].update(stages="all"),
    "no recorder": lambda s: s.pop("recorder"),
    "a recorder that is a list": lambda s: s.update(recorder=[]),
    "no learner": lambda s: s.pop("learner"),
    "a learner that is a number": lambda s: s.update(learner=3),
    "an empty learner": lambda s: s.update(learner={}),
    "a part more": lambda s: s.update(more=1),
    "predictions of other events": lambda s: s.update(predictions=7),
    "a position past the stream": lambda s: (
        s["stream"].update(position=301), s["recorder"].update(events=301)
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_state_that_no_run_wrote_is_refused_in_one_line_that_names_the_file(
    make_config, stream, interrupted, change
):
    file = interrupted / "checkpoint.safetensors"
    state = checkpoint.load(file)
    change(state)
    checkpoint.save(state, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    with pytest.raises(UserError) as caught:
        run(make_config(), stream, interrupted, resume=True)
    said = str(caught.value)
    assert "\n" not in said
    assert str(interrupted) in said
    assert time.perf_counter() - begin < 5  # 0.05 s here
    # Of kB; tables of so many rows would be 1 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    "change", [c for name, c in CHANGES.items() if "rows" in name or "learner" in name]
)
def test_an_export_refuses_it_too(interrupted, change):
    file = interrupted / "checkpoint.safetensors"
    state = checkpoint.load(file)
    change(state)
    checkpoint.save(state, file)
    with pytest.raises(UserError) as caught:
        load_trained(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def places_of(value, place=()):
    """Yield where the parts of a state are."""
    if place:
        yield place
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in pairs:
        if isinstance(entry, dict | list):
            yield from places_of(entry, (*place, key))
        else:
            yield (*place, key)


def test_no_other_value_anywhere_is_more_than_a_users_error(make_config, stream, interrupted):
    file = interrupted / "checkpoint.safetensors"
    content, metrics = file.read_bytes(), (interrupted / "metrics.jsonl").read_bytes()
    places = [*places_of(checkpoint.load(file))]
    others = [None, True, -1, 2**70, math.nan, math.inf, "x", [], {}, [[1]], {"a": 1},
              torch.zeros(3), torch.zeros(0, 2), np.arange(2)]  # fmt: skip

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.sampled_from(places), st.sampled_from(others))
    def check(place, other):
        file.write_bytes(content)
        state = part = checkpoint.load(file)
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = other
        checkpoint.save(state, file)
        (interrupted / "metrics.jsonl").write_bytes(metrics)
        try:
            load_trained(file)
        except UserError as error:
            said = str(error)
            assert str(file) in said
            assert "\n" not in said

    check()


@pytest.mark.parametrize("options", [{"dims": [65536]}, {"dims": [1, 65536]}])
def test_options_that_ask_for_more_than_the_file_holds_build_nothing(interrupted, options):
    file = interrupted / "checkpoint.safetensors"
    state = checkpoint.load(file)
    state["config"].update(options)
    checkpoint.save(state, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="does not hold the model that its options ask for"):
        load_trained(file)
    # Of kB: what is allowed, and not the 17 GB of projections between 65,536 numbers.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
