"""Real processes: killed in the middle of a checkpoint, and two that write to one folder."""

import json
import subprocess
import sys
import time

import pytest

from autoemb import cli
from autoemb.files import sole_writer

OPTIONS = ["--limit", "6000", "--batch-size", "100", "--dims", "2,64", "--device", "cpu"]

# As on the command line, but with a checkpoint after every batch.
EAGER = """
import importlib
importlib.import_module("autoemb.lab.run").CHECKPOINT_SECONDS = 0
from autoemb.cli import main
main()
"""


def command(*arguments, program=("-m", "autoemb")):
    return [sys.executable, *program, *map(str, arguments)]


@pytest.fixture
def end(monkeypatch, capsys):
    """Return a function that runs the command line in this process: exit code, error output."""

    def end(*arguments):
        monkeypatch.setattr(sys, "argv", ["autoemb", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capsys.readouterr().err

    return end


@pytest.fixture(autouse=True)
def small_networks():
    """Leave the networks as they are: processes of their own know nothing of narrow ones."""


@pytest.fixture
def begin():
    """Return a function that starts the command line and waits until it has come so far."""
    processes = []

    def begin(*arguments, until, program=("-m", "autoemb")):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command(*arguments, program=program), **pipes)
        processes.append(process)
        deadline = time.monotonic() + 120
        while not until():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def numbers(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {key: summary[key] for key in ("offline", "online", "by_popularity")}


def test_a_run_killed_in_its_checkpoints_leaves_one_of_them_and_goes_on(begin, end, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert end("run", *OPTIONS, "--out", whole)[0] == 0

    def unfinished():
        return [name for name in names(out) if name.endswith(".part")]

    caught = 0
    for _ in range(3):
        before = unfinished()
        assert len(before) <= 1
        process = begin(
            "run", *OPTIONS, "--out", out, "--resume", program=("-c", EAGER),
            until=lambda before=before: {*unfinished()} - {*before},
        )  # fmt: skip
        process.kill()
        process.wait()
        caught += len(unfinished())
        assert len(unfinished()) <= 1
    assert caught > 0
    assert end("run", *OPTIONS, "--out", out, "--resume")[0] == 0
    assert names(out) == ["metrics.jsonl", "summary.json", "trained.safetensors"]
    assert numbers(out) == numbers(whole)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_next_start_removes_what_a_kill_left(begin, end, tmp_path):
    out = tmp_path / "out"
    process = begin(
        "run", *OPTIONS, "--out", out, program=("-c", EAGER),
        until=lambda: any(name.endswith(".part") for name in names(out)),
    )  # fmt: skip
    process.kill()
    process.wait()
    left = out / ".checkpoint.safetensors.0123abcd.part"
    left.mkdir()
    (left / ".tmp0").write_bytes(b"half")
    assert end("run", *OPTIONS, "--out", out, "--resume")[0] == 0
    assert not [name for name in names(out) if name.startswith(".")]


STUDY = """
data = ["."]
[methods.a]
method = "fse"
[methods.b]
method = "autoemb"
"""


def test_a_folder_that_is_being_written_is_refused_by_all_and_freed_by_a_kill(begin, end, tmp_path):
    out = tmp_path / "out"
    process = begin(
        "run", "--limit", "100000", "--batch-size", "20", "--out", out,
        until=lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size,
    )  # fmt: skip
    (tmp_path / "study.toml").write_text(STUDY)
    for arguments in (
        ("run", "--resume"),
        ("run", "--seed", "1"),
        ("run", "--resume", *OPTIONS),
        ("compare", "--resume"),
        ("compare", "--methods", "fse", "--seeds", "5"),
        ("study", tmp_path / "study.toml"),
    ):
        code, said = end(*arguments, "--out", out)
        assert (code, said.count("\n")) == (2, 1)
        assert f"{out} is being written by another process; choose another --out" in said
    assert process.poll() is None
    assert {*names(out)} <= {"metrics.jsonl", "checkpoint.safetensors"}
    process.kill()
    process.wait()
    with sole_writer(out):
        pass


def test_a_comparison_keeps_its_folder_to_itself(begin, end, tmp_path):
    out = tmp_path / "out"
    options = ["--methods", "fse,autoemb", "--batch-size", "20", "--out", out]
    begin("compare", *options, until=lambda: (out / "fse-seed0" / "metrics.jsonl").exists())
    for arguments in (
        ("compare", *options, "--resume"),
        ("run", "--out", out),
        ("run", "--out", out / "fse-seed0", "--resume"),
    ):
        code, said = end(*arguments)
        assert (code, said.count("\n")) == (2, 1)
        assert "is being written by another process" in said
