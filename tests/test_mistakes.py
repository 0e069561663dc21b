"""A user's mistake, or a disk's, is exit code 2 and one line that names what is wrong."""

import contextlib
import io
import json
import os
import resource
import sys

import pytest

from autoemb import cli
from autoemb.streaming import checkpoint

SMALL = ["--limit", "600", "--batch-size", "100", "--dims", "2,4", "--device", "cpu"]
STUDY = """
data = ["ratings.csv"]
[methods.a]
method = "fse"
[methods.b]
method = "fse"
dims = [4]
"""


def call(*arguments):
    """Return exit code, output and error output of the command line."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["autoemb", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stopped:
        return stopped.code or 0, out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("the command line ends with an exit code")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, a model, data, a study, a file in a folder's place and broken things."""
    folder = tmp_path_factory.mktemp("mistakes")
    assert call("run", *SMALL, "--checkpoint-at", "0.5", "--out", folder / "run")[0] == 0
    assert call("run", *SMALL, "--no-keep", "--out", folder / "dropped")[0] == 0
    assert call("export", folder / "run", "--out", folder / "model")[0] == 0
    (folder / "file").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "broken").write_bytes(b"\x00" * 100)
    (folder / "half").write_bytes((folder / "model").read_bytes()[:2000])
    rows = "".join(f"{u},{u % 7},{u % 5 + 1},{100 + u}\n" for u in range(600))
    (folder / "ratings.csv").write_text(f"user_id,item_id,rating,timestamp\n{rows}")
    (folder / "bad.csv").write_text("user_id,item_id,rating,timestamp\n1,2,x,4\n")
    (folder / "study.toml").write_text(STUDY)
    (folder / "bad.toml").write_text("data = [")
    (folder / "bad-run").mkdir()
    (folder / "bad-run" / "summary.json").write_text("{")
    state = checkpoint.load(folder / "run" / "trained.safetensors")
    for sparse in state["config"]["schema"]["sparse"]:
        sparse.update(column="other_" + sparse["column"])
    checkpoint.save(state, folder / "other-columns")
    return folder


LONG = "x" * 300

MISTAKES = [
    (["run", *SMALL, "--out", "file"], "file is a file; --out takes a folder"),
    (["run", *SMALL, "--out", "file/run"], "file/run cannot be written"),
    (["run", *SMALL, "--out", LONG], "File name too long"),
    (["run", *SMALL, "--out", "/proc/autoemb"], "/proc/autoemb cannot be written"),
    (["run", *SMALL, "--out", "run"], "already holds a run"),
    (["run", *SMALL, "--seed", "7", "--resume", "--out", "run"], "config seed = 0, not 7"),
    (["run", *SMALL, "--resume"], "name the folder with --out"),
    (["run", *SMALL, "--resume", "--checkpoint-at", "0.9", "--out", "run"], "has passed"),
    (["run", *SMALL, "--checkpoint-at", "0.9", "--no-keep", "--out", "n"], "one of them"),
    (["run", *SMALL, "--data", "none.csv"], "none.csv"),
    (["run", *SMALL, "--data", LONG], "x" * 99),
    (["run", *SMALL, "--data", "bad.csv"], "bad.csv: row 2"),
    (["run", *SMALL, "--data", "empty"], "empty"),
    (["run", *SMALL, "--predictions", "empty"], "empty is a folder; --predictions takes a file"),
    (["run", *SMALL, "--predictions", "file/p"], "file cannot be made"),
    (["run", *SMALL, "--predictions", LONG], "File name too long"),
    (["run", "--from", "none"], "none does not exist"),
    (["run", "--from", LONG], "x" * 99),
    (["run", "--from", "empty"], "holds no trained state"),
    (["run", "--from", "dropped"], "--no-keep"),
    (["run", "--from", "model"], "does not hold the state of a run"),
    (["run", "--from", "broken"], "is not a readable checkpoint"),
    (["run", "--from", "other-columns"], "was trained on other"),
    (["run", "--from", "run", "--dims", "3,4"], "--dims is 3,4; the learner of"),
    (["run", "--from", "run", "--method", "fse"], "--method is fse; the learner of"),
    (["run", "--from", "run", "--dims", "x"], "--dims is 'x'; expected whole numbers"),
    (["run", "--from", "run", "--resume", "--out", "run"], "holds a run with config limit"),
    (["compare", *SMALL, "--out", "file"], "file is a file; --out takes a folder"),
    (["compare", *SMALL, "--out", "/proc/autoemb"], "/proc/autoemb cannot be written"),
    (["compare", *SMALL, "--out", LONG], "File name too long"),
    (["compare", *SMALL, "--methods", "a", "--out", "n"], "--methods names a"),
    (["study", "none.toml", "--out", "n"], "none.toml"),
    (["study", "empty", "--out", "n"], "empty"),
    (["study", "bad.toml", "--out", "n"], "bad.toml"),
    (["study", "study.toml", "--out", "file"], "file is a file; --out takes a folder"),
    (["study", "study.toml", "--out", LONG], "File name too long"),
    (["study", "study.toml", "--out", "/proc/autoemb"], "/proc/autoemb cannot be written"),
    (["export", "none", "--out", "m"], "none does not exist"),
    (["export", "empty", "--out", "m"], "holds no trained state"),
    (["export", "dropped", "--out", "m"], "--no-keep"),
    (["export", "model", "--out", "m"], "does not hold the state of a run"),
    (["export", "run", "--out", "empty"], "empty cannot be written"),
    (["export", "run", "--out", "file/m"], "file cannot be made"),
    (["export", "run", "--out", LONG], "File name too long"),
    (["export", "run", "--budget", "2", "--out", "m"], "--budget is 2"),
    (["export", "run", "--widths", "9", "--out", "m"], "--widths is 9"),
    (["evaluate", "none"], "none does not exist"),
    (["evaluate", "empty"], "empty is a folder"),
    (["evaluate", LONG], "x" * 99),
    (["evaluate", "half"], "is not a readable checkpoint"),
    (["evaluate", "run/trained.safetensors"], "is not a model; make one with"),
    (["evaluate", "model", "--data", "ratings.csv"], "--all scores"),
    (["evaluate", "model", "--out", "empty"], "empty cannot be written"),
    (["evaluate", "model", "--out", "file/scores"], "file cannot be made"),
    (["report", "none"], "none"),
    (["report", "empty"], "empty"),
    (["report", "file"], "file"),
    (["report", LONG], "x" * 99),
    (["report", "bad-run"], "summary.json"),
]


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(a)[:60] for a, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_changes_nothing(place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    before = tree(place)
    code, said, error = call(*arguments)
    # Progress comes before mistakes that only the end of the work can show.
    lines = [line for line in error.splitlines() if " events; " not in line]
    assert (code, said, len(lines)) == (2, "", 1)
    assert lines[0].startswith("autoemb: error: ")
    assert message in lines[0]
    assert tree(place) == before


@pytest.mark.parametrize("arguments", [
    ["run", *SMALL, "--out", "new"],
    ["run", *SMALL, "--no-keep", "--window", "1", "--out", "new"],
    ["run", *SMALL, "--predictions", "new"],
    ["compare", *SMALL, "--methods", "fse", "--seeds", "0", "--window", "1", "--out", "new"],
    ["study", "study.toml", "--processes", "1", "--out", "new"],
    ["export", "run", "--out", "new"],
], ids=" ".join)  # fmt: skip
def test_a_full_disk_is_one_line(place, monkeypatch, arguments):
    monkeypatch.chdir(place)
    before = tree(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code, _, error = call(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2, error
    lines = [line for line in error.splitlines() if " events; " not in line]
    assert len(lines) == 1
    assert "cannot be written" in lines[0]
    assert "File too large" in lines[0]
    after = tree(place)
    assert before.items() <= after.items()
    assert not [path for path in after if path.name.endswith(".part")]
    if (place / "new" / "summary.json").exists():
        pytest.fail("a run that could not be recorded looks complete")
    for path in sorted(place.glob("new/**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if (place / "new").exists():
        (place / "new").rmdir()


@pytest.mark.parametrize("command", ["run", "compare", "export"])
def test_a_folder_without_permission_is_one_line(place, tmp_path, monkeypatch, command):
    monkeypatch.chdir(place)
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    arguments = {
        "run": ["run", *SMALL],
        "compare": ["compare", *SMALL],
        "export": ["export", "run"],
    }
    code, said, error = call(*arguments[command], "--out", tmp_path / "new")
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert "Permission denied" in error


def test_a_run_goes_on_from_another_by_command(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    out = tmp_path / "next"
    code, _, error = call("run", "--from", "run", "--data", "ratings.csv", "--out", out,
                          "--predictions", tmp_path / "p.parquet")  # fmt: skip
    assert code == 0, error
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["config"]["dims"], summary["config"]["batch_size"]) == ([2, 4], 100)
    assert summary["data"]["interactions"] == 600
    assert summary["from"]["data"]["name"] == "synthetic"
    code, said, _ = call("export", out, "--out", tmp_path / "model")
    assert (code, "user_id" in said) == (0, True)
