"""Files are written whole or not at all."""

import json

import pytest

from autoemb.errors import UserError
from autoemb.files import json_text, replacing, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_a_finished_block_replaces_the_file(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with replacing(path) as part:
        part.write_text("new")
        assert part.parent == tmp_path  # a rename within one file system
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
