"""Files of state: what goes in comes out, and a bad file is refused without harm."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from autoemb.errors import UserError
from autoemb.streaming import checkpoint

FORMAT = "autoemb checkpoint 1"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def check_only(path):
    """Nothing beside the file, not even a part of another."""
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# Round trips

numbers = st.integers(-(2**70), 2**130) | st.floats(allow_nan=False) | st.booleans() | st.none()
nested = st.recursive(
    numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_nested_values_come_back(tmp_path):
    path = tmp_path / "state"

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.dictionaries(st.text(max_size=3) | st.integers(0, 9), nested, max_size=4))
    def check(state):
        checkpoint.save(state, path)
        loaded = checkpoint.load(path)
        assert loaded == state
        assert repr(loaded) == repr(state)  # tells 1 from True and from 1.0, and keeps the order

    check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_come_back(path, value):
    checkpoint.save({"loss": value}, path)
    assert repr(checkpoint.load(path)["loss"]) == repr(value)


def test_a_tuple_comes_back_as_a_list(path):
    checkpoint.save({"betas": (0.9, 0.999)}, path)
    assert checkpoint.load(path) == {"betas": [0.9, 0.999]}


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).to(torch.bfloat16),
        torch.randn(3, dtype=torch.float64),
        torch.tensor([1, -(2**62)]),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.tensor(3.5),
        torch.zeros(0, 7),
        torch.randn(4, 3).T,
        torch.arange(10)[::3],
        torch.nn.Parameter(torch.randn(2)),
        torch.tensor([float("nan"), float("-inf"), -0.0]),
    ],
)
def test_tensors_come_back_to_the_last_bit(path, value):
    checkpoint.save({"a": [value]}, path)
    (loaded,) = checkpoint.load(path)["a"]
    assert type(loaded) is torch.Tensor
    assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
    as_bytes = [x.detach().contiguous().view(-1).view(torch.uint8) for x in (loaded, value)]
    assert torch.equal(*as_bytes)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(4),
        np.arange(4, dtype=np.uint8),
        np.zeros((0, 3)),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(9)[::2],
    ],
)
def test_arrays_come_back_as_arrays(path, value):
    checkpoint.save({"a": value}, path)
    loaded = checkpoint.load(path)["a"]
    assert type(loaded) is np.ndarray
    assert loaded.dtype == value.dtype
    assert np.array_equal(loaded, value)
    assert loaded.flags.writeable


def test_read_only_arrays_are_saved_without_a_warning(path):
    torch.set_warn_always(True)  # this warning comes once in a process otherwise
    try:
        checkpoint.save({"a": np.frombuffer(b"abc", dtype=np.uint8)}, path)
    finally:
        torch.set_warn_always(False)
    assert checkpoint.load(path)["a"].tobytes() == b"abc"


def test_views_of_one_memory_come_back_apart(path):
    whole = torch.arange(6.0)
    checkpoint.save({"whole": whole, "again": whole, "part": whole[2:4]}, path)
    loaded = checkpoint.load(path)
    loaded["whole"].zero_()
    assert loaded["again"].tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded["part"].tolist() == [2, 3]


def test_a_loaded_state_does_not_depend_on_the_file(path):
    checkpoint.save({"a": torch.arange(1000)}, path)
    loaded = checkpoint.load(path)
    checkpoint.save({"a": torch.zeros(1000, dtype=torch.int64)}, path)
    path.unlink()
    assert torch.equal(loaded["a"], torch.arange(1000))


def test_saving_does_not_change_or_hold_the_state(path):
    tensor = torch.arange(4.0)
    checkpoint.save({"a": tensor}, path)
    checkpoint.load(path)["a"].zero_()
    assert tensor.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "strings",
    [
        [f"id {number}" for number in range(100)],
        ["", "é", "\0", "\ud800", "𝄞", '"]}'] * 6,
        tuple("abc" * 20),
    ],
)
def test_many_strings_are_bytes_and_offsets_and_come_back(path, strings):
    checkpoint.save({"recent": [{"ids": strings}, ["a", "b"]]}, path)
    assert checkpoint.load(path) == {"recent": [{"ids": list(strings)}, ["a", "b"]]}
    with safe_open(path, framework="np") as file:
        assert len(file.metadata()["structure"]) < 200
        assert {file.get_tensor(name).dtype.name for name in file.keys()} == {"uint8", "int64"}  # noqa: SIM118


def test_a_list_of_strings_and_others_is_a_list(path):
    mixed = ["a"] * 50 + [1, None]
    checkpoint.save({"a": mixed}, path)
    assert checkpoint.load(path) == {"a": mixed}


def nested_lists(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return {"a": value}


def test_what_could_not_be_read_again_is_not_written(path):
    deep = nested_lists(checkpoint.DEEPEST - 2)
    checkpoint.save(deep, path)
    assert checkpoint.load(path) == deep
    with pytest.raises(TypeError, match="nested deeper than 64"):
        checkpoint.save(nested_lists(checkpoint.DEEPEST), path)
    assert checkpoint.load(path) == deep


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", 1j, np.int64(3)])
def test_what_cannot_be_saved_is_a_type_error_and_leaves_the_old_file(path, value):
    checkpoint.save({"step": 1}, path)
    with pytest.raises(TypeError, match=f"cannot save a {type(value).__name__}"):
        checkpoint.save({"a": [value]}, path)
    assert checkpoint.load(path) == {"step": 1}
    check_only(path)


# Writing that fails


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    checkpoint.save({"step": 1}, path)

    def full(tensors, part, metadata):
        part.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        checkpoint.save({"step": 2}, path)
    check_only(path)
    assert checkpoint.load(path) == {"step": 1}


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    checkpoint.save({"step": 1}, path)

    def interrupted(tensors, part, metadata):
        part.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"step": 2}, path)
    check_only(path)
    assert checkpoint.load(path) == {"step": 1}


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save({"step": 1}, tmp_path / "nowhere" / "state")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_in_its_place_is_a_user_error(path):
    path.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save({"step": 1}, path)
    check_only(path)


# Files that are not checkpoints


class Bomb:
    """Code that runs wherever it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def pickled(path, target):
    path.write_bytes(pickle.dumps(Bomb(target)))


def torch_file(path, target):
    torch.save({"state": Bomb(target)}, path)


def torch_archive(path, target):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(target)))


def pickle_behind_a_header(path, target):
    header = json.dumps({"0": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + pickle.dumps(Bomb(target))[:8])


def pickle_as_structure(path, target):
    text = pickle.dumps(Bomb(target), protocol=0).decode()
    save_file({"0": torch.zeros(1)}, path, metadata={"format": FORMAT, "structure": text})


@pytest.mark.parametrize(
    "write", [pickled, torch_file, torch_archive, pickle_behind_a_header, pickle_as_structure]
)
def test_a_file_with_code_is_refused_and_not_run(path, tmp_path, write):
    target = tmp_path / "executed"
    write(path, target)
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)
    check_only(path)


def test_the_code_in_these_files_would_run(path, tmp_path):
    pickled(path, tmp_path / "executed")
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()


def test_every_truncated_file_is_refused(path):
    checkpoint.save({"a": torch.arange(3), "b": [1, "x"]}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=path.name):
            checkpoint.load(path)
    check_only(path)


def test_no_flipped_byte_of_the_header_is_a_traceback(path):
    checkpoint.save({"a": torch.arange(3), "b": {"c": [1, "x"]}}, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole) - 24):
        for flip in (0x01, 0x80):
            broken = bytearray(whole)
            broken[place] ^= flip
            path.write_bytes(broken)
            try:
                assert isinstance(checkpoint.load(path), dict)
            except UserError:
                refused += 1
    assert refused > len(whole) / 2


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"format": "pt"},
        {"format": "autoemb checkpoint 2", "structure": '{"dict": []}'},
        {"structure": '{"dict": []}'},
        {"format": FORMAT},
    ],
)
def test_another_file_of_the_same_kind_is_refused(path, metadata):
    save_file({"0": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


def test_the_same_file_with_the_right_metadata_is_read(path):
    structure = '{"dict": [["a", {"tensor": "0"}]]}'
    save_file({"0": torch.ones(1)}, path, metadata={"format": FORMAT, "structure": structure})
    assert checkpoint.load(path)["a"].tolist() == [1]


@pytest.mark.parametrize(
    "structure",
    [
        "",
        "{",
        "3",
        "null",
        "[]",
        "{}",
        '"text"',
        '{"list": []}',
        '{"dict": 5}',
        '{"dict": "ab"}',
        '{"dict": [[1, 2, 3]]}',
        '{"dict": [5]}',
        '{"dict": [[{"a": 1}, 1]]}',
        '{"dict": [[[1], 1]]}',
        '{"dict": [["a", {"tensor": "7"}]]}',
        '{"dict": [["a", {"tensor": ["0"]}]]}',
        '{"dict": [["a", {"array": "7"}]]}',
        '{"dict": [["a", {"array": "0"}]]}',
        '{"dict": [["a", {"object": "0"}]]}',
        '{"dict": [["a", {"list": 3}]]}',
        '{"dict": [["a", {"list": [], "dict": []}]]}',
        '{"dict": [["a", {"strings": ["0", "0"]}]]}',
        '{"dict": [["a", {"strings": ["0"]}]]}',
        '{"dict": [["a", {"strings": 3}]]}',
        '{"dict": [["a", {"tensor": "0"}], ["b", {"tensor": "0"}]]}',
        '{"dict": [["a", ' + '{"list": [' * 65 + "]}" * 65 + "]]}",
        "9" * 5000,
    ],
)
def test_a_structure_that_was_never_written_is_refused(path, structure):
    tensors = {"0": torch.zeros(1, dtype=torch.bfloat16)}  # of a type that no array has
    save_file(tensors, path, metadata={"format": FORMAT, "structure": structure})
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "structure",
    [
        "[" * 100_000,
        '{"dict": [["a", ' * 20_000,
        '{"dict": [["a", ' + '{"list": [' * 20_000 + "]}" * 20_000 + "]]}",
    ],
    ids=["brackets", "open objects", "lists"],
)
def test_a_structure_without_end_is_refused(path, structure):
    save_file({"0": torch.zeros(1)}, path, metadata={"format": FORMAT, "structure": structure})
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"PK\x03\x04",
        b"\x80\x02",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        b"user_id,item_id,rating,timestamp\n1,2,3,4\n",
    ],
)
def test_foreign_bytes_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)
    assert path.read_bytes() == content
    check_only(path)


@pytest.mark.parametrize("offsets", [[0, 2**60], [0, 400], [8, 0], [-1, 7]])
def test_tensors_beyond_the_file_are_refused(path, offsets):
    header = {"__metadata__": {"format": FORMAT, "structure": '{"dict": [["a", {"tensor": "0"}]]}'}}
    header["0"] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("utf8", "offsets"),
    [
        (np.zeros(4, np.uint8), np.array([0, 5])),
        (np.zeros(4, np.uint8), np.array([0, 3, 2, 4])),
        (np.zeros(4, np.uint8), np.array([-1, 4])),
        (np.zeros(4, np.uint8), np.array([0, 2])),
        (np.zeros(4, np.uint8), np.zeros(0, np.int64)),
        (np.zeros(4, np.uint8), np.array([[0, 4]])),
        (np.zeros(4, np.int16), np.array([0, 4])),
        (np.zeros(4, np.uint8), np.array([0.0, 4.0])),
        (np.full(4, 255, np.uint8), np.array([0, 4])),
    ],
)
def test_strings_whose_bytes_are_not_divided_are_refused(path, utf8, offsets):
    structure = '{"dict": [["a", {"strings": ["0", "1"]}]]}'
    tensors = {"0": torch.from_numpy(utf8), "1": torch.from_numpy(offsets)}
    save_file(tensors, path, metadata={"format": FORMAT, "structure": structure})
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


@pytest.mark.parametrize("shape", [[30_000, 0], [0, 2**40], [2**62, 0, 2**62]])
def test_sizes_that_promise_more_than_the_file_has_are_refused(path, shape):
    structure = '{"dict": [["a", {"tensor": "0"}]]}'
    header = {"__metadata__": {"format": FORMAT, "structure": structure}}
    header["0"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(path)


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match="no ordinary file"):
        checkpoint.load(path)


# Any change of bytes gives a state or a UserError of one line, soon, in little memory.

SAMPLE = {
    "step": 3,
    "name": "x",
    "rate": 0.5,
    "rows": [torch.arange(40.0).view(8, 5), torch.zeros(0, 7)],
    "ids": {"utf8": np.arange(20, dtype=np.uint8), 7: None},
    "recent": [str(number) for number in range(40)],
}


def test_no_change_of_a_file_is_anything_but_a_state_or_a_users_error(tmp_path):
    path = tmp_path / "state"
    checkpoint.save(SAMPLE, path)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]
    texts = [b"9" * 12, b"-1", b"1e999", b"NaN", b"Infinity", b"{", b"]", b'"', b"null", b"\\u"]
    place = st.integers(0, len(whole))
    edit = st.tuples(place, st.integers(0, 30), st.sampled_from(texts) | st.binary(max_size=8))
    cut = st.tuples(place, st.just(len(whole)), st.just(b""))
    splice = st.builds(lambda a, b, n: (a, 0, whole[b : b + n]), place, place, st.integers(0, 400))
    read = 0

    @settings(max_examples=400, deadline=2000, derandomize=True)
    @given(st.lists(edit | splice | cut, min_size=1, max_size=3), st.booleans())
    def check(edits, of_header):
        nonlocal read
        content = bytearray(header if of_header else whole)
        for start, length, text in edits:
            content[start : start + length] = text
        if of_header:  # which is found where it is, so that its text is read
            content = struct.pack("<Q", len(content)) + content + data
        path.write_bytes(content)
        try:
            assert isinstance(checkpoint.load(path), dict)
            read += 1
        except UserError as error:
            said = str(error)
            assert path.name in said
            assert "\n" not in said
            assert len(said) < 500

    check()
    assert read > 20


def test_a_missing_file_is_named(path):
    with pytest.raises(UserError, match=f"{path} does not exist"):
        checkpoint.load(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder; expected a file"):
        checkpoint.load(tmp_path)
