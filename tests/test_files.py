"""Files are written whole or not at all."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from autoemb import files
from autoemb.errors import UserError
from autoemb.files import json_text, replacing, sole_writer, write_json

# Writes half a file, as safetensors does by way of another one, says so, and waits.
HALF = """
import sys, time
from pathlib import Path
from autoemb.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.with_name(".tmp1").write_text("half of it")
    print("begun", flush=True)
    time.sleep(60)
"""

HOLD = """
import sys, time
from pathlib import Path
from autoemb.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("begun", flush=True)
    time.sleep(60)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_a_finished_block_replaces_the_file(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with replacing(path) as part:
        part.write_text("new")
        assert tmp_path in part.parents  # a rename within one file system
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_a_failed_block_leaves_everything_as_it_was(tmp_path, before, error):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)

    def fail():
        with replacing(path) as part:
            part.write_text("half")
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        fail()
    assert (path.read_text() if path.exists() else None) == before
    assert names(tmp_path) == (["a.txt"] if before else [])


def test_what_cannot_be_written_is_a_users_error_of_one_line(tmp_path):
    path = tmp_path / "missing" / "a.json"
    with pytest.raises(UserError) as caught:
        write_json(path, {})
    assert str(caught.value) == f"{path} cannot be written: No such file or directory"


def test_a_folder_in_the_way_is_a_users_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.json"
    path.mkdir()
    with pytest.raises(UserError, match=r"a.json cannot be written"):
        write_json(path, {})
    assert names(tmp_path) == ["a.json"]


def test_a_block_that_writes_nothing_is_a_users_error(tmp_path):
    def write_nothing():
        with replacing(tmp_path / "a.txt"):
            pass

    with pytest.raises(UserError, match="cannot be written"):
        write_nothing()


def test_json_round_trip(tmp_path):
    content = {"name": "Café", "values": [1, 2.5, True, None, "x"], "inner": {"pair": (1, 2)}}
    path = tmp_path / "a.json"
    write_json(path, content)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == content | {"inner": {"pair": [1, 2]}}


def test_floats_come_back_bit_for_bit():
    values = [0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308]
    assert json.loads(json_text(values)) == values


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_becomes_null_at_any_depth(bad):
    content = {"a": bad, "b": [1.0, {"c": (bad, 2)}], "d": True}
    assert json_text(content) == '{"a": null, "b": [1.0, {"c": [null, 2]}], "d": true}'
    assert json_text(bad) == "null"


def test_what_json_cannot_say_fails_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


# Processes


@pytest.fixture
def begin():
    """Return a function that starts a program, waits until it says so, and gives its process."""
    processes = []

    def begin(program, *arguments):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next_to_write(tmp_path, begin):
    path = tmp_path / "a.txt"
    for _ in range(3):
        process = begin(HALF, path)
        process.kill()
        process.wait()
        assert len(names(tmp_path)) == 1  # hidden, and not one for each
        assert names(tmp_path)[0].startswith(".a.txt.")
    with replacing(tmp_path / "b.txt") as part:  # another file is another matter
        part.write_text("b")
    assert len(names(tmp_path)) == 2
    with replacing(path) as part:
        part.write_text("new")
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_what_a_living_process_writes_is_left_alone(tmp_path, begin):
    path = tmp_path / "a.txt"
    begin(HALF, path)
    with replacing(path) as part:
        part.write_text("new")
    left = [name for name in names(tmp_path) if name != "a.txt"]
    assert len(left) == 1
    assert names(tmp_path / left[0]) == [".tmp1"]
    assert path.read_text() == "new"


def test_files_of_like_names_are_nobodys_leftovers(tmp_path):
    mine = [".a.txt.part", ".a.txt.notes.part", "a.txt.12345678.part", ".a.txt.12345678.part.bak"]
    for name in mine:
        (tmp_path / name).mkdir()
    (tmp_path / ".a.txt.12345678.part").write_text("a file, where ours are folders")
    write_json(tmp_path / "a.txt", {})
    assert names(tmp_path) == sorted([*mine, ".a.txt.12345678.part", "a.txt"])


def test_threads_that_write_one_file_leave_a_whole_one(tmp_path):
    path, contents = tmp_path / "a.json", [{"x": [i] * 1000} for i in range(4)]

    def write(content):
        for _ in range(20):
            write_json(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(path.read_text()) in contents
    assert names(tmp_path) == ["a.json"]


def test_content_is_on_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    replace, sync = files.Path.replace, files.sync
    monkeypatch.setattr(files, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(
        files.Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))
    )
    write_json(tmp_path / "a.json", {})
    assert done == ["a.json", "rename", tmp_path.name]


def test_a_folder_has_one_writer_and_a_killed_one_locks_nobody_out(tmp_path, begin):
    folder = tmp_path / "made" / "here"
    process = begin(HOLD, folder)
    for _ in range(2):
        with pytest.raises(UserError) as caught, sole_writer(folder):
            pass
        assert str(caught.value) == (
            f"{folder} is being written by another process; choose another --out"
        )
    process.kill()
    process.wait()
    with sole_writer(folder):
        pass
    assert names(folder) == []


def test_a_folder_is_locked_where_folders_cannot_be(tmp_path, begin, monkeypatch):
    flock = files.fcntl.flock

    def of_a_network(descriptor, how):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(9, "Bad file descriptor")
        flock(descriptor, how)

    monkeypatch.setattr(files.fcntl, "flock", of_a_network)
    with (
        sole_writer(tmp_path),
        pytest.raises(UserError, match="is being written"),
        sole_writer(tmp_path),
    ):
        pass
    with sole_writer(tmp_path):
        write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == [".lock", "a.json"]


def test_a_folder_made_for_nothing_is_removed_and_another_stays(tmp_path):
    (tmp_path / "old").mkdir()

    def fail(name):
        with sole_writer(tmp_path / name):
            if name == "used":
                (tmp_path / name / "a").touch()
            raise ValueError("stop")

    for name in ("old", "new", "used"):
        with pytest.raises(ValueError, match="stop"):
            fail(name)
    assert names(tmp_path) == ["old", "used"]
