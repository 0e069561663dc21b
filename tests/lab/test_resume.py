"""A run that stops: what it leaves, and how it goes on to the last bit."""

import dataclasses
import importlib
import json
import os
import signal
import threading

import polars as pl
import pytest
import torch

from autoemb.data import Dataset
from autoemb.errors import UserError
from autoemb.lab import Interrupted, run
from autoemb.lab.config import OPTIONS
from autoemb.learners import METHODS
from autoemb.streaming import checkpoint

module = importlib.import_module("autoemb.lab.run")  # the package names the function alike


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


COMPLETE = ["metrics.jsonl", "summary.json", "trained.safetensors"]


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


def stop_at(position, action):
    """Return a progress callback that acts once, when so many events are done."""

    def progress(done, total):
        if done == position:
            action()

    return progress


def send(number):
    return lambda: os.kill(os.getpid(), number)


def kill():
    raise Killed


def files_of(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def options():
    # Batches do not end where windows and stages do.
    return {"batch_size": 23, "window": 31, "hypergradient": "exact"}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_continues_to_the_last_bit(
    make_config, stream, numbers, tmp_path, options, method, number, device
):
    config = make_config(method=method, device=device, **options)
    whole, parts = tmp_path / "a", tmp_path / "b"
    expected = run(config, stream, whole)
    for position in (23, 230):
        with pytest.raises(Interrupted) as caught:
            run(config, stream, parts, resume=True, progress=stop_at(position, send(number)))
        assert (caught.value.events, caught.value.saved) == (position, True)
        assert files_of(parts) == ["checkpoint.safetensors", "metrics.jsonl"]
    summary = run(config, stream, parts, resume=True)
    assert files_of(parts) == COMPLETE
    assert numbers(summary) == numbers(expected)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert numbers(json.loads((parts / "summary.json").read_text())) == numbers(expected)


def test_a_run_within_a_budget_continues_to_the_last_bit(
    make_config, stream, numbers, tmp_path, options
):
    config = make_config(**options | {"budget": 0.07, "norm": "running"})
    whole, parts = tmp_path / "a", tmp_path / "b"
    expected = run(config, stream, whole)
    for position in (23, 230):
        with pytest.raises(Interrupted):
            run(config, stream, parts, resume=True, progress=stop_at(position, send(signal.SIGINT)))
    assert numbers(run(config, stream, parts, resume=True)) == numbers(expected)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ids = expected["data"]["users"] + expected["data"]["items"]
    owned = expected["embeddings"]
    assert sum(expected["ids"].values()) == ids
    rows = owned["bytes"] - 4 * 2 * ids  # without slots
    assert 0 < rows <= 4 * 3 * ids
    assert owned["capacity_bytes"] >= owned["bytes"]
    parts = expected["owned"]
    assert parts["rows"] == owned["bytes"]
    assert rows / 2 <= parts["optimizer"] <= rows  # a sum a row
    assert parts["statistics"] == ids * (4 + 3 * 2 + 2 * (1 + 2 + 4))  # n; S; w, R, factors
    assert parts["history"] == parts["grants"] == 4 * ids  # count; traffic
    assert 12 * ids <= parts["ids"] <= 24 * ids
    assert sum(parts.values()) <= 0.07 * 8 * 146 * ids
    assert owned["mean_width"].keys() == owned["rank_correlation"].keys() == {"user_id", "item_id"}


def test_strings_as_ids_are_resumed_too(make_config, stream, numbers, tmp_path, options):
    named = dataclasses.replace(
        stream, frame=stream.frame.with_columns(pl.col("user_id").cast(pl.String))
    )
    config, out = make_config(**options), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(config, named, out, progress=stop_at(115, send(signal.SIGINT)))
    assert numbers(run(config, named, out, resume=True)) == numbers(run(config, named))


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_continues_from_its_last_checkpoint(
    make_config, stream, numbers, tmp_path, monkeypatch, options, method
):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0)  # after every batch
    config, whole, parts = make_config(method=method, **options), tmp_path / "a", tmp_path / "b"
    expected = run(config, stream, whole)
    for position in (46, 207, 300):
        with pytest.raises(Killed):
            run(config, stream, parts, resume=True, progress=stop_at(position, kill))
        assert files_of(parts) == ["checkpoint.safetensors", "metrics.jsonl"]
        done = checkpoint.load(parts / "checkpoint.safetensors")["stream"]["position"]
        assert done < position  # the batch of the kill was recorded, and not saved
    assert numbers(run(config, stream, parts, resume=True)) == numbers(expected)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    make_config, stream, numbers, tmp_path, options
):
    config, whole, parts = make_config(**options), tmp_path / "a", tmp_path / "b"
    expected = run(config, stream, whole)
    with pytest.raises(Killed):
        run(config, stream, parts, progress=stop_at(92, kill))
    assert files_of(parts) == ["metrics.jsonl"]
    assert (parts / "metrics.jsonl").stat().st_size > 0
    assert numbers(run(config, stream, parts, resume=True)) == numbers(expected)
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_checkpoints_are_not_made_after_every_batch(make_config, stream, tmp_path):
    with pytest.raises(Killed):
        run(make_config(), stream, tmp_path / "run", progress=stop_at(200, kill))
    assert files_of(tmp_path / "run") == ["metrics.jsonl"]


def test_time_spent_before_an_interruption_counts(make_config, stream, tmp_path):
    config, out = make_config(method="fse"), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(config, stream, out, progress=stop_at(100, send(signal.SIGINT)))
    saved = checkpoint.load(out / "checkpoint.safetensors")
    saved["seconds"] = 1000.0
    checkpoint.save(saved, out / "checkpoint.safetensors")
    assert 1000 < run(config, stream, out, resume=True)["seconds"] < 1100


def test_a_signal_during_the_last_batch_lets_the_run_complete(make_config, stream, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):  # what follows it, as in a comparison, must not begin
        run(make_config(), stream, out, progress=stop_at(300, send(signal.SIGINT)))
    assert files_of(out) == COMPLETE


def test_an_interrupted_run_without_a_folder_says_so(make_config, stream):
    with pytest.raises(Interrupted, match="after 100 events; nothing was saved") as caught:
        run(make_config(), stream, progress=stop_at(100, send(signal.SIGINT)))
    assert (caught.value.events, caught.value.saved) == (100, False)


def test_a_second_signal_stops_at_once(make_config, stream):
    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        run(make_config(), stream, progress=stop_at(100, twice))


def test_signals_mean_again_what_they_meant_before(make_config, stream):
    received = []
    interrupt = signal.getsignal(signal.SIGINT)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        run(make_config(method="fse"), stream)
        with pytest.raises(Interrupted):
            run(make_config(method="fse"), stream, progress=stop_at(40, send(signal.SIGTERM)))
        with pytest.raises(Killed):
            run(make_config(method="fse"), stream, progress=stop_at(40, kill))
        assert received == []
        send(signal.SIGTERM)()
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_a_run_in_another_thread_handles_no_signals(make_config, stream, numbers):
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(run(make_config(), stream)))
    thread.start()
    thread.join()
    assert numbers(summaries[0]) == numbers(run(make_config(), stream))


# What is not resumed


@pytest.fixture
def interrupted(make_config, stream, tmp_path):
    """Folder of a run that was stopped after 100 events."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, progress=stop_at(100, send(signal.SIGINT)))
    return out


@pytest.fixture
def complete(make_config, stream, tmp_path):
    run(make_config(), stream, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(params=["interrupted", "complete"])
def earlier(request):
    return request.getfixturevalue(request.param)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_folder_with_a_run_is_refused_and_stays(make_config, stream, earlier):
    before = contents(earlier)
    with pytest.raises(UserError, match="already holds a run"):
        run(make_config(), stream, earlier)
    assert contents(earlier) == before


OTHER_OPTIONS = {
    "method": "darts",
    "task": "classification",
    "order": "shuffled",
    "hypergradient": "exact",
    "history": "counts",
    "freshness": "event",
    "label_delay": 60.0,
    "learn_chunk": 7,
    "preset": "paper",
    "dims": (1, 3),
    "batch_size": 30,
    "offline_fraction": 0.5,
    "seed": 1,
    "limit": 200,
    "window": 10,
    "validation": "last-batch",
    "reservoir": 50,
    "optimizer": "sgd",
    "learning_rate": 0.5,
    "controller_learning_rate": 0.5,
    "row_rate": 2.0,
    "norm": "batch",
    "norm_eps": 0.5,
    "mix": "mean",
    "init_std": 0.5,
    "projection": "uniform",
    "start": "equal",
    "selection": "hard",
    "budget": 0.5,
    "hidden": (9,),
    "controller_hidden": (9,),
    "controller": "separate",
    "model": "mlp",
    "rows": "sizes",
    "worth": "both",
    "controller_history": "full",
    "row_weight_decay": 0.1,
}


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_other_options_are_refused_and_the_run_stays(make_config, stream, earlier, name):
    before = contents(earlier)
    with pytest.raises(UserError, match=r"holds a run with (config|data) .* not .*--out"):
        run(make_config(**{name: OTHER_OPTIONS[name]}), stream, earlier, resume=True)
    assert contents(earlier) == before


def test_every_option_is_compared(make_config):
    config = make_config()
    assert {*OPTIONS} == {*OTHER_OPTIONS, "device"}  # which may have no other value here
    recorded = config.as_dict()
    assert all(recorded[name] != value for name, value in OTHER_OPTIONS.items())


def test_other_data_are_refused_and_the_run_stays(make_config, stream, earlier):
    def changed(**columns):
        return dataclasses.replace(stream, frame=stream.frame.with_columns(**columns))

    before = contents(earlier)
    others = [
        dataclasses.replace(stream, name="another"),
        stream.head(299),
        changed(user_id=pl.Series([7] * 300)),
        changed(item_id=pl.Series([*range(300)])),
        dataclasses.replace(stream, skipped_rows=1),
        changed(rating=6 - pl.col("rating")),
        dataclasses.replace(stream, format="CSV"),
    ]
    for other in others:
        assert isinstance(other, Dataset)
        with pytest.raises(UserError, match="holds a run with data"):
            run(make_config(), other, earlier, resume=True)
    assert contents(earlier) == before


def test_a_complete_run_is_returned_as_it_is(make_config, stream, complete):
    before = contents(complete)
    calls = []
    summary = run(make_config(), stream, complete, resume=True, progress=lambda *x: calls.append(x))
    assert summary == json.loads(before["summary.json"])
    assert contents(complete) == before
    assert calls == [(300, 300)]


def test_resuming_what_never_began_begins_it(make_config, stream, numbers, tmp_path):
    summary = run(make_config(), stream, tmp_path / "new", resume=True)
    assert numbers(summary) == numbers(run(make_config(), stream))


@pytest.mark.parametrize("content", [b"", b"broken", b"\x80\x04K\x01."])
def test_a_broken_checkpoint_is_refused_and_the_run_stays(
    make_config, stream, interrupted, content
):
    (interrupted / "checkpoint.safetensors").write_bytes(content)
    before = contents(interrupted)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors"):
        run(make_config(), stream, interrupted, resume=True)
    assert contents(interrupted) == before


@pytest.mark.parametrize("change", ["deleted", "cut", "emptied"])
def test_metrics_that_lost_what_was_written_are_refused(make_config, stream, interrupted, change):
    metrics = interrupted / "metrics.jsonl"
    if change == "deleted":
        metrics.unlink()
    else:
        metrics.write_bytes(metrics.read_bytes()[:30] if change == "cut" else b"")
    with pytest.raises(UserError, match=r"metrics.jsonl has \d+ bytes; expected at least"):
        run(make_config(), stream, interrupted, resume=True)


def test_metrics_deleted_before_their_first_line_are_made_again(
    make_config, stream, numbers, tmp_path
):
    config, out = make_config(window=1000), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(config, stream, out, progress=stop_at(100, send(signal.SIGINT)))
    (out / "metrics.jsonl").unlink()
    summary = run(config, stream, out, resume=True)
    assert numbers(summary) == numbers(run(config, stream))
    assert (out / "metrics.jsonl").stat().st_size > 0


# Places that cannot be written


def test_a_file_for_a_folder_is_refused_and_stays(make_config, stream, tmp_path):
    (tmp_path / "file").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match="is a file; --out takes a folder"):
            run(make_config(), stream, tmp_path / "file", resume=resume)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    make_config, stream, numbers, interrupted, monkeypatch
):
    before = (interrupted / "checkpoint.safetensors").read_bytes()

    def full(tensors, part, metadata):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        progress = stop_at(200, send(signal.SIGINT))
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            run(make_config(), stream, interrupted, resume=True, progress=progress)
    assert (interrupted / "checkpoint.safetensors").read_bytes() == before
    assert files_of(interrupted) == ["checkpoint.safetensors", "metrics.jsonl"]
    summary = run(make_config(), stream, interrupted, resume=True)
    assert numbers(summary) == numbers(run(make_config(), stream))


def test_a_summary_that_cannot_be_written_is_a_user_error(
    make_config, stream, tmp_path, monkeypatch
):
    def full(path, content):
        raise UserError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(UserError, match=r"summary\.json cannot be written"):
        run(make_config(), stream, tmp_path / "run")
    assert files_of(tmp_path / "run") == ["metrics.jsonl", "trained.safetensors"]


def test_metrics_that_cannot_be_written_any_more_are_a_user_error(make_config, stream, tmp_path):
    out = tmp_path / "run"

    def replace():  # as a full disk would, but for root too
        (out / "metrics.jsonl").unlink()
        (out / "metrics.jsonl").mkdir()

    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        run(make_config(), stream, out, progress=stop_at(100, replace))
