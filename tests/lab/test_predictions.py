"""Every event's prediction in a file."""

import os
import signal

import numpy as np
import polars as pl
import pytest

from autoemb.errors import UserError
from autoemb.lab import Interrupted, run
from autoemb.lab.predictions import Predictions
from autoemb.schema import STARS
from autoemb.tasks import task_for


def stop_at(position):
    def progress(done, total):
        if done == position:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_predictions_are_those_that_the_losses_are_of(make_config, stream, numbers, tmp_path):
    file = tmp_path / "made" / "p.parquet"
    summary = run(make_config(), stream, predictions=file)
    assert numbers(summary) == numbers(run(make_config(), stream))
    found = pl.read_parquet(file)
    assert found.schema == {
        "event": pl.Int64, "timestamp": pl.Int64, "label": pl.Float32, "prediction": pl.Float32
    }  # fmt: skip
    assert found["event"].to_list() == [*range(300)]
    assert found["timestamp"].to_list() == stream.frame["timestamp"].to_list()
    assert found["label"].to_list() == (stream.frame["rating"] > 3.5).cast(pl.Float32).to_list()
    loss = ((found["prediction"] - found["label"]) ** 2).to_numpy()
    for stage, part in (("offline", slice(210)), ("online", slice(210, 300))):
        assert loss[part].mean() == pytest.approx(summary[stage]["loss"], rel=1e-5)
    assert names(file.parent) == ["p.parquet"]


def test_classes_have_a_column_each(make_config, stream, tmp_path):
    summary = run(make_config(task="classification"), stream, predictions=tmp_path / "p.parquet")
    found = pl.read_parquet(tmp_path / "p.parquet")
    shares = found.select(f"prediction_{k}" for k in range(5)).to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    right = shares.argmax(1) == found["label"].to_numpy()
    assert right[210:].mean() == pytest.approx(summary["online"]["accuracy"])


def test_an_interrupted_run_goes_on_with_them_and_they_are_the_same(make_config, stream, tmp_path):
    whole, file, out = tmp_path / "whole.parquet", tmp_path / "p.parquet", tmp_path / "run"
    run(make_config(), stream, predictions=whole)
    for position in (100, 240):
        with pytest.raises(Interrupted):
            run(make_config(), stream, out, resume=True, predictions=file,
                progress=stop_at(position))  # fmt: skip
        assert not file.exists()
        with (tmp_path / ".p.parquet.records").open("ab") as records:  # as by a killed run
            records.write(b"x" * 1234)
    run(make_config(), stream, out, resume=True, predictions=file)
    assert pl.read_parquet(file).equals(pl.read_parquet(whole))
    assert names(tmp_path) == ["p.parquet", "run", "whole.parquet"]


def test_a_run_without_a_folder_leaves_nothing_half_written(make_config, stream, tmp_path):
    with pytest.raises(Interrupted):
        run(make_config(), stream, predictions=tmp_path / "p.parquet", progress=stop_at(100))
    assert names(tmp_path) == []


def test_what_has_been_passed_cannot_be_written(make_config, stream, tmp_path):
    file, out = tmp_path / "p.parquet", tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, progress=stop_at(100))
    with pytest.raises(UserError, match="has passed 100 events without writing their predictions"):
        run(make_config(), stream, out, resume=True, predictions=file)
    assert names(tmp_path) == ["run"]
    run(make_config(), stream, out, resume=True)
    with pytest.raises(UserError, match="complete run, which did not write"):
        run(make_config(), stream, out, resume=True, predictions=file)


def test_records_that_are_gone_are_told(make_config, stream, tmp_path):
    file, out = tmp_path / "p.parquet", tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, predictions=file, progress=stop_at(100))
    (tmp_path / ".p.parquet.records").unlink()
    with pytest.raises(UserError, match="has 0 bytes; expected at least the 1600 that"):
        run(make_config(), stream, out, resume=True, predictions=file)


def test_places_that_cannot_be_written_are_told_before_the_work(make_config, stream, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "p", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            run(make_config(), stream, predictions=path, progress=lambda *_: pytest.fail("began"))


def test_one_file_has_one_writer(tmp_path):
    first = Predictions(tmp_path / "p.parquet", task_for("regression", STARS))
    with pytest.raises(UserError, match="is being written by another run"):
        Predictions(tmp_path / "p.parquet", task_for("regression", STARS))
    first.close()
    Predictions(tmp_path / "p.parquet", task_for("regression", STARS)).close()
