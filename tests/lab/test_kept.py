"""The state that a finished run keeps, and runs that go on from it."""

import dataclasses
import json
import os
import signal

import pytest

from autoemb.errors import UserError
from autoemb.lab import Interrupted, RunConfig, compare, run
from autoemb.lab.config import PRESETS
from autoemb.lab.trained import OF_THE_STREAM, going_on, load_trained
from tests.lab.test_resume import OTHER_OPTIONS


def test_a_finished_run_keeps_its_final_state_unless_told(make_config, stream, numbers, tmp_path):
    kept, dropped = (
        run(make_config(), stream, tmp_path / name, keep=name == "kept")
        for name in ("kept", "dropped")
    )
    assert numbers(kept) == numbers(dropped)
    assert load_trained(tmp_path / "kept").about["position"] == 300
    assert not (tmp_path / "dropped" / "trained.safetensors").exists()
    with pytest.raises(UserError, match="holds no trained state") as caught:
        load_trained(tmp_path / "dropped")
    assert "--no-keep" in str(caught.value)
    before = (tmp_path / "kept" / "trained.safetensors").read_bytes()
    run(make_config(), stream, tmp_path / "kept", resume=True)
    assert (tmp_path / "kept" / "trained.safetensors").read_bytes() == before


@pytest.mark.parametrize("keep", [False, True])
def test_a_comparison_keeps_states_where_told(make_config, stream, tmp_path, keep):
    compare(make_config(), stream, tmp_path, methods=["fse"], seeds=[0], keep=keep)
    assert (tmp_path / "fse-seed0" / "trained.safetensors").exists() == keep


# Going on


def parts(stream, at):
    """Return a stream in two."""
    return stream.head(at), dataclasses.replace(stream, name="the rest", frame=stream.frame[at:])


@pytest.mark.parametrize("method", ["autoemb", "fse"])
def test_going_on_with_new_events_is_as_if_they_had_come_at_once(
    make_config, stream, read_metrics, tmp_path, method
):
    config = make_config(method=method, window=20, offline_fraction=0)
    first, rest = parts(stream, 160)
    run(config, stream, tmp_path / "whole")
    run(config, first, tmp_path / "first")
    summary = run(config, rest, tmp_path / "rest", origin=tmp_path / "first")
    whole, of_first, of_rest = (
        read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "first", "rest")
    )
    wanted = [line | {"interactions": line["interactions"] - 160} for line in whole[8:]]
    assert of_rest == wanted
    assert of_first == whole[:8]
    began = summary["from"]
    assert (began["run"], began["position"]) == (str(tmp_path / "first/trained.safetensors"), 160)
    assert began["data"] == json.loads((tmp_path / "first/summary.json").read_text())["data"]
    assert load_trained(tmp_path / "rest").about["position"] == 140
    # New ids have got rows beside the old ones.
    known = load_trained(tmp_path / "rest").learner.num_ids()
    assert known["user_id"] == stream.frame["user_id"].n_unique()


def test_a_run_that_goes_on_is_resumed_with_the_same_state_alone(
    make_config, stream, numbers, tmp_path
):
    first, rest = parts(stream, 160)
    for seed in (0, 1):
        run(make_config(seed=seed), first, tmp_path / f"first{seed}")
    origin, out = tmp_path / "first0", tmp_path / "rest"

    def stop(done, total):
        if done == 60:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(make_config(), rest, out, origin=origin, progress=stop)
    for others in ({}, {"origin": out}):
        with pytest.raises(UserError, match="began with another state; give the same --from"):
            run(make_config(), rest, out, resume=True, **others)
    summary = run(make_config(), rest, out, resume=True, origin=origin)
    assert numbers(summary) == numbers(run(make_config(), rest, origin=origin))
    assert run(make_config(), rest, out, resume=True, origin=origin) == summary
    with pytest.raises(UserError, match="began with another state"):
        run(make_config(), rest, out, resume=True)


@pytest.mark.parametrize("name", sorted({*OTHER_OPTIONS} - {*OF_THE_STREAM}))
def test_options_that_would_change_the_learner_are_refused_by_name(
    make_config, stream, tmp_path, name
):
    run(make_config(), stream, tmp_path / "first")
    flags = {name, *PRESETS["paper"]} if name == "preset" else {name}
    if name in ("norm", "mix", "projection", "rows"):
        flags |= {"rows", "start"}  # which follow
    if name == "optimizer":
        flags |= {"learning_rate", "controller_learning_rate", "row_rate"}
    with pytest.raises(UserError, match=r"--[a-z-]+ is .*; the learner of .* has .*") as caught:
        run(
            make_config(**{name: OTHER_OPTIONS[name]}),
            stream,
            tmp_path / "rest",
            origin=tmp_path / "first",
        )
    assert str(caught.value).split()[0].removeprefix("--").replace("-", "_") in flags
    assert not (tmp_path / "rest").exists()


def test_options_of_the_learner_are_taken_over_and_those_of_the_stream_are_not(
    make_config, stream, tmp_path
):
    config = make_config(method="darts", order="shuffled", limit=200, optimizer="sgd")
    run(config, stream, tmp_path / "first")
    plain = RunConfig()
    found = going_on(tmp_path / "first", {"window": 7})
    assert (found.method, found.dims, found.optimizer) == ("darts", (1, 2), "sgd")
    assert (found.order, found.limit, found.window) == (plain.order, plain.limit, 7)
    run(found, stream, tmp_path / "rest", origin=tmp_path / "first")
    with pytest.raises(UserError, match="--dims is 3,4; the learner of"):
        going_on(tmp_path / "first", {"dims": (3, 4)})
