"""The tables from ids to rows, compiled and in Python."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

INT64 = np.iinfo(np.int64)
integers = st.integers(INT64.min, INT64.max) | st.integers(-3, 3)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def batches(ids):
    """Batches of ids; every second one only looks up."""
    return st.lists(st.tuples(st.lists(ids, max_size=20), st.booleans()), max_size=10)


def check_against_dict(table, as_ids, batches):
    model = {}
    for ids, insert in batches:
        if insert:
            expected = [model.setdefault(id, len(model)) for id in ids]
        else:
            expected = [model.get(id, -1) for id in ids]
        rows = table.rows(as_ids(ids), insert)
        assert rows.dtype == np.int64
        assert rows.tolist() == expected
        assert len(table) == len(model)
    assert list(table.ids()) == list(model)


def as_int64(ids):
    return np.array(ids, dtype=np.int64)


@given(batches=batches(integers))
@example(batches=[([-1, 0, INT64.min, INT64.max, -1], True), ([INT64.min, 5, -1], False)])
def test_integers_agree_with_a_dict(runtime, batches):
    check_against_dict(runtime.Int64IdTable(), as_int64, batches)


@given(batches=batches(strings))
@example(
    batches=[(["", "\0", "a", "a\0", "a\0b", "é", "e\u0301", "🎬"], True), (["", "\0"], False)]
)
def test_strings_agree_with_a_dict(runtime, batches):
    check_against_dict(runtime.StringIdTable(), list, batches)


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(np.arange(1_000_000), id="sequential"),
        pytest.param(np.arange(1_000_000) * 2**32, id="multiples of 2^32"),
        pytest.param(np.arange(1_000_000) * 2**44 + INT64.min, id="high bits only"),
        pytest.param(-np.arange(1_000_000), id="negative"),
    ],
)
def test_a_million_integers_of_any_pattern(runtime, ids):
    # A hash that lets such patterns collide would take hours here, not a tenth of a second.
    table = runtime.Int64IdTable()
    halves = [table.rows(half) for half in np.split(ids, 2)]
    np.testing.assert_array_equal(np.concatenate(halves), np.arange(len(ids)))
    np.testing.assert_array_equal(table.ids(), ids)
    np.testing.assert_array_equal(table.rows(ids[::-1].copy(), False), np.arange(len(ids))[::-1])


def test_a_million_strings(runtime):
    table = runtime.StringIdTable()
    ids = [f"user-{i}" for i in range(1_000_000)]
    np.testing.assert_array_equal(table.rows(ids), np.arange(len(ids)))
    assert table.rows(ids[::-1], False)[:2].tolist() == [999_999, 999_998]
    assert table.ids() == ids


def test_equal_strings_that_are_other_objects_share_a_row(runtime):
    table = runtime.StringIdTable()
    assert table.rows(["".join(["user-", str(i % 2)]) for i in range(4)]).tolist() == [0, 1, 0, 1]


def test_reserve_changes_no_answer(runtime):
    table = runtime.Int64IdTable()
    table.rows(as_int64([7, 8]))
    table.reserve(1000)
    table.reserve(1)
    assert table.rows(as_int64([8, 9])).tolist() == [1, 2]
    assert len(table) == 3


def test_ids_are_a_copy(runtime):
    table = runtime.Int64IdTable()
    table.rows(as_int64([7]))
    table.ids()[0] = 8
    assert table.rows(as_int64([7, 8])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(np.zeros(3, dtype=np.int32), id="int32"),
        pytest.param(np.zeros(3), id="float64"),
        pytest.param(np.zeros((2, 2), dtype=np.int64), id="2-D"),
        pytest.param(np.zeros(6, dtype=np.int64)[::2], id="strided"),
        pytest.param(np.zeros(3, dtype=">i8"), id="big endian"),
        pytest.param(np.zeros(25, dtype=np.uint8)[1:].view(np.int64), id="unaligned"),
    ],
)
def test_other_arrays_are_refused(runtime, ids):
    table = runtime.Int64IdTable()
    with pytest.raises(TypeError, match="ids must be a contiguous 1-D array of int64"):
        table.rows(ids)
    assert len(table) == 0


@pytest.mark.parametrize("bad", [3, None, b"b"])
def test_what_is_no_string_is_refused_before_anything_changes(runtime, bad):
    table = runtime.StringIdTable()
    with pytest.raises(TypeError, match=rf"ids\[1\] must be a str, not {type(bad).__name__}"):
        table.rows(["a", bad])
    assert len(table) == 0


def test_a_string_without_utf8_is_refused_before_anything_changes(runtime):
    table = runtime.StringIdTable()
    with pytest.raises(UnicodeEncodeError):
        table.rows(["a", "\ud800"])
    assert len(table) == 0
