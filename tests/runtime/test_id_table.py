"""The public table of ids, over either implementation of the runtime."""

import copy
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb.errors import UserError
from autoemb.streaming import id_table
from autoemb.streaming.id_table import IdTable


@pytest.fixture(autouse=True, scope="module")
def over_runtime(runtime):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_table, "Int64IdTable", runtime.Int64IdTable)
        patch.setattr(id_table, "StringIdTable", runtime.StringIdTable)
        yield


@pytest.mark.parametrize(
    "ids",
    [
        np.array([5, 7, 5]),
        np.array([5, 7, 5], dtype=np.int16),
        np.array([5, 7, 5], dtype=np.uint64),
        np.array([5, 0, 7, 0, 5, 0])[::2],
        [5, 7, 5],
        pl.Series([5, 7, 5]),
    ],
)
def test_integers_in_any_form(ids):
    table = IdTable()
    assert table.rows(ids).tolist() == [0, 1, 0]
    assert table.rows(np.array([7, 6]), insert=False).tolist() == [1, -1]
    assert table.ids().tolist() == [5, 7]
    assert table.ids().dtype == np.int64


@pytest.mark.parametrize(
    "ids",
    [
        ["b", "", "b"],
        ("b", "", "b"),
        np.array(["b", "", "b"]),
        np.array(["b", "", "b"], dtype=object),
        pl.Series(["b", "", "b"]),
    ],
)
def test_strings_in_any_form(ids):
    table = IdTable()
    assert table.rows(ids).tolist() == [0, 1, 0]
    assert table.rows(["", "c"], insert=False).tolist() == [1, -1]
    assert table.ids() == ["b", ""]


def test_an_empty_batch_leaves_the_kind_open():
    table = IdTable()
    assert table.rows([]).tolist() == []
    assert table.rows(np.array([], dtype=np.int64)).dtype == np.int64
    assert len(table) == 0
    assert table.rows(["a"]).tolist() == [0]
    assert len(table) == 1


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ([1], ["1"], "ids are strings here and were integers before"),
        (["1"], [1], "ids are integers here and were strings before"),
        (["1"], ["2", 1], "id 1 is 1; expected strings, as the first is one"),
        (["1"], ["2", None], "id 1 is None; expected strings, as the first is one"),
        (["1"], ["2", "\ud800"], "surrogates not allowed"),
        ([1], [2, "1"], "expected integers or strings"),
        ([1], np.array([2.0]), r"ids are float64 \[1\]; expected integers or strings"),
        ([1], np.array([True]), r"ids are bool \[1\]; expected integers or strings"),
        ([1], np.array([[2]]), r"ids are int64 \[1, 1\]; expected integers or strings \[B\]"),
        ([1], np.array([2**63], dtype=np.uint64), f"ids contain {2**63}; .* fit into int64"),
        ([1], [2, 2**64], "expected integers or strings"),
    ],
)
def test_a_bad_batch_is_named_and_changes_nothing(first, then, message):
    table = IdTable()
    table.rows(first)
    with pytest.raises(UserError, match=message):
        table.rows(then)
    assert list(table.ids()) == first


def test_a_bad_first_batch_does_not_fix_the_kind():
    table = IdTable()
    with pytest.raises(UserError):
        table.rows([1.5])
    assert table.rows(["a"]).tolist() == [0]


@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True)
    | st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True)
)
def test_state_round_trip(ids):
    table = IdTable()
    table.rows(ids)
    state = table.state()
    assert {name: (array.dtype, array.ndim) for name, array in state.items()} == (
        {}
        if not ids
        else {"ids": (np.int64, 1)}
        if isinstance(ids[0], int)
        else {"utf8": (np.uint8, 1), "offsets": (np.int64, 1)}
    )
    again = IdTable.from_state(state)
    assert list(again.ids()) == ids
    assert again.rows(ids).tolist() == list(range(len(ids)))


def strings_state(text, *offsets):
    return {"utf8": np.frombuffer(text, dtype=np.uint8), "offsets": np.array(offsets)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"ids": np.array([1, 2, 1])}, "the same id twice"),
        (strings_state(b"aba", 0, 1, 2, 3), "the same id twice"),
        (strings_state(b"ab", 0, 1), "offsets do not divide utf8"),
        (strings_state(b"ab", 1, 2), "offsets do not divide utf8"),
        (strings_state(b"ab", 0, 2, 1, 2), "offsets do not divide utf8"),
        (strings_state(b"ab"), "offsets do not divide utf8"),
        (strings_state("é".encode(), 0, 1, 2), "can't decode"),
    ],
)
def test_a_broken_state_is_refused(state, message):
    with pytest.raises(UserError, match=message):
        IdTable.from_state(state)


def test_refused_or_unknown_ids_decide_no_kind():
    table = IdTable()
    assert table.rows(["a"], insert=False).tolist() == [-1]
    with pytest.raises(UserError):
        table.rows(["a", 1])
    assert table.rows(np.array([7])).tolist() == [0]


@pytest.mark.parametrize("ids", [[], np.array([7, -1, 1 << 40]), ["ann", "", "é"]])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_a_copy_has_the_same_rows_and_a_life_of_its_own(ids, copied):
    table = IdTable()
    table.rows(ids)
    other = copied(table)
    assert list(other.ids()) == list(table.ids())
    other.rows(["new"] if len(ids) and isinstance(ids, list) else [99])
    assert (len(other), len(table)) == (len(ids) + 1, len(ids))
