"""Whether a run may begin, go on, or is complete."""

import json
from pathlib import Path

import pytest

from autoemb.errors import UserError
from autoemb.lab.folder import RunFolder
from autoemb.streaming import checkpoint

IDENTITY = {
    "config": {"seed": 0, "dims": [1, 2]},
    "data": {"name": "tiny", "interactions": 30},
    "origin": None,
}
STATE = {
    "learner": {"rows": {}},
    "recorder": {"events": 7},
    "stream": {"position": 7},
    "seconds": 3.0,
    "predictions": None,
}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "a" / "run", IDENTITY)


def opened(folder, resume):
    with folder.lock():
        return folder.open(resume)


def test_a_fresh_folder_is_made_with_empty_metrics(folder):
    assert folder.complete() is None
    assert not folder.path.exists()
    assert opened(folder, resume=False) is None
    assert [file.name for file in folder.path.iterdir()] == ["metrics.jsonl"]
    assert folder.metrics.read_bytes() == b""


def test_an_existing_folder_without_a_run_is_taken(folder):
    folder.path.mkdir(parents=True)
    (folder.path / "notes.txt").write_text("mine")
    assert opened(folder, resume=False) is None
    assert (folder.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "checkpoint.safetensors"])
def test_a_run_is_not_overwritten(folder, name):
    folder.path.mkdir(parents=True)
    (folder.path / name).write_text("something")
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        opened(folder, resume=False)
    assert (folder.path / name).read_text() == "something"
    assert len([*folder.path.iterdir()]) == 1


def test_a_checkpoint_is_continued(folder):
    opened(folder, resume=False)
    checkpoint.save(IDENTITY | STATE, folder.checkpoint)
    folder.metrics.write_text("{}\n")
    assert opened(folder, resume=True).seconds == 3.0
    assert folder.metrics.read_text() == "{}\n"


def test_a_run_without_a_checkpoint_starts_again(folder):
    opened(folder, resume=False)
    folder.metrics.write_text("{}\n")
    assert opened(folder, resume=True) is None
    assert folder.metrics.read_bytes() == b""


def test_resuming_what_never_began_begins_it(folder):
    assert opened(folder, resume=True) is None
    assert folder.metrics.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"seed": 1, "dims": [1, 2]}}, "config seed = 1, not 0"),
        ({"config": {"seed": 0, "dims": [1, 3]}}, r"config dims = \[1, 3\], not \[1, 2\]"),
        ({"config": {"seed": 0}}, r"config dims = None, not \[1, 2\]"),
        ({"data": {"name": "other", "interactions": 30}}, "data name = other, not tiny"),
        ({"data": {"name": "tiny", "interactions": 31}}, "data interactions = 31, not 30"),
        ({"data": None}, "data is (None|missing); expected"),
        ({"config": [1]}, "config is .*; expected"),
    ],
)
def test_another_run_is_refused_and_stays(folder, change, message):
    opened(folder, resume=False)
    checkpoint.save(IDENTITY | STATE | change, folder.checkpoint)
    before = folder.checkpoint.read_bytes()
    with pytest.raises(UserError, match=message):
        opened(folder, resume=True)
    assert folder.checkpoint.read_bytes() == before
    folder.summary.write_text(json.dumps(IDENTITY | change))
    with pytest.raises(UserError, match=message):
        folder.complete()


def test_what_a_run_says_beyond_its_identity_does_not_matter(folder):
    opened(folder, resume=False)
    score = {"loss": 0.5, "accuracy": 1, "interactions": 15}
    more = {
        "method": "fse",
        "task": "regression",
        "seed": 0,
        "seconds": 1.5,
        "offline": score,
        "online": score,
        "config": IDENTITY["config"] | {"comment": "x"},
        "data": IDENTITY["data"] | {"format": "CSV"},
        "versions": {},
        "by_popularity": {"offline": [], "online": []},
    }
    folder.summary.write_text(json.dumps(more))
    assert folder.complete() == more
    del more["seconds"]
    folder.summary.write_text(json.dumps(more))
    with pytest.raises(UserError, match=r"summary\.json: seconds is missing"):
        folder.complete()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"config": {}', "\ud83d"])
def test_a_broken_summary_is_named(folder, text):
    opened(folder, resume=False)
    folder.summary.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"summary\.json"):
        folder.complete()


def test_a_broken_checkpoint_is_named_and_stays(folder):
    opened(folder, resume=False)
    folder.checkpoint.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is not a readable checkpoint"):
        opened(folder, resume=True)
    assert folder.checkpoint.read_bytes() == b"broken"


def places(tmp_path):
    """Places that no folder can be made in, for root as well."""
    file = tmp_path / "file"
    file.write_text("mine")
    return {
        "a file": file,
        "below a file": file / "run",
        "far below a file": file / "a" / "run",
        "a name too long": tmp_path / ("x" * 300),
        "a file system without files": Path("/proc/autoemb/run"),
    }


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        "a file",
        "below a file",
        "far below a file",
        "a name too long",
        "a file system without files",
    ],
)
def test_a_place_that_cannot_hold_a_folder_is_a_user_error(tmp_path, place, resume):
    path = places(tmp_path)[place]
    folder = RunFolder(path, IDENTITY)
    expected = "is a file; --out takes a folder" if place == "a file" else "cannot be written"
    with pytest.raises(UserError, match=expected) as caught:
        folder.complete() or opened(folder, resume)
    assert str(path) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission_is_a_user_error(folder, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root, who often runs tests, may write anywhere
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        opened(folder, resume=False)


def test_metrics_that_cannot_be_written_are_a_user_error(folder):
    folder.metrics.mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        opened(folder, resume=True)
