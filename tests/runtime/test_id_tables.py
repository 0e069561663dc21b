"""The tables from ids to rows, compiled and in Python."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

NAMES = ("_runtime", "_runtime_python")
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


# Memory


ANY_KIND = pytest.mark.parametrize("name", ["Int64IdTable", "StringIdTable"])


def ids_of(name, numbers):
    if name == "Int64IdTable":
        return as_int64([*numbers])
    return ["" if n == 0 else f"{'é' * (n % 5)}{n}" for n in numbers]


def table_in(runtime, name, pieces, reserve=0):
    """Return a table to which pieces of ids came, one after the other."""
    table = getattr(runtime, name)()
    if reserve:
        table.reserve(reserve)
    for piece in pieces:
        table.rows(ids_of(name, piece))
    return table


@ANY_KIND
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 700), max_size=6), size=st.integers(0, 700), data=st.data())
def test_bytes_depend_on_the_ids_alone_however_they_came(runtime, name, cuts, size, data):
    cuts = [0, *sorted(min(cut, size) for cut in cuts), size]
    pieces = [range(a, b) for a, b in itertools.pairwise(cuts)]
    expected = table_in(runtime, name, [range(size)]).nbytes()
    table = table_in(runtime, name, pieces)
    table.rows(ids_of(name, range(size // 2)))  # known ones
    table.rows(ids_of(name, range(2000)), False)  # and unknown ones, looked up
    assert table.nbytes() == expected
    reserved = data.draw(st.integers(0, size))
    assert table_in(runtime, name, pieces, reserved).nbytes() == expected
    assert table_in(runtime, name, [[n] for n in reversed(range(size))]).nbytes() == expected


@ANY_KIND
@pytest.mark.parametrize("size", [0, 1, 12, 13, 16, 17, 64, 65, 1000, 20_000])
def test_both_implementations_say_the_same_bytes(name, size):
    runtimes = [pytest.importorskip(f"autoemb.{own}") for own in NAMES]
    assert len({table_in(own, name, [range(size)]).nbytes() for own in runtimes}) == 1


@ANY_KIND
@pytest.mark.parametrize("size", [1000, 20_000, 300_000])
def test_an_id_costs_little_more_than_its_own_bytes(runtime, name, size):
    table = table_in(runtime, name, [range(size)])
    ids = ids_of(name, range(size))
    own = 8 * size if name == "Int64IdTable" else sum(len(id.encode()) for id in ids)
    # A quarter of room to grow; slots, a half; ends of strings.
    assert own + 4 * size * 1.25 <= table.nbytes() <= 1.25 * own + 14 * size + 200


@ANY_KIND
def test_no_table_takes_nothing(runtime, name):
    table = getattr(runtime, name)()
    table.rows(ids_of(name, range(50)), False)
    assert table.nbytes() == 0


# Growth


@ANY_KIND
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), steps=st.lists(st.integers(0, 9000), min_size=2, max_size=6))
def test_tables_agree_with_a_dict_while_they_grow(runtime, name, seed, steps):
    random, table, model = np.random.default_rng(seed), getattr(runtime, name)(), {}
    for step in steps:
        numbers = random.integers(0, 30_000, step).tolist()
        ids = ids_of(name, numbers)
        expected = [model.setdefault(n, len(model)) for n in numbers]
        assert table.rows(ids).tolist() == expected
        others = random.integers(0, 60_000, 500).tolist()
        found = table.rows(ids_of(name, others), False).tolist()
        assert found == [model.get(n, -1) for n in others]
    assert list(table.ids()) == list(ids_of(name, model))
    rows = as_int64([*range(0, len(model), 7)])
    assert list(table.at(rows)) == list(ids_of(name, [*model][::7]))


@ANY_KIND
def test_more_ids_than_sixteen_bits_of_rows_are_found(runtime, name):
    numbers = [int(n) for n in np.random.default_rng(0).permutation(200_000)[:70_000]]
    table = getattr(runtime, name)()
    for start in range(0, 70_000, 7_000):
        table.rows(ids_of(name, numbers[start : start + 7_000]))
    assert table.rows(ids_of(name, numbers), False).tolist() == [*range(70_000)]
    assert (table.rows(ids_of(name, range(200_000, 230_000)), False) == -1).all()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 129, 1000])
def test_strings_are_whole_on_both_sides_of_a_block(runtime, size):
    ids = [("" if n == 0 else "ab" * (n % 7) + f"é{n}") for n in range(size)]
    table = runtime.StringIdTable()
    for id in ids:
        table.rows([id])
    assert table.ids() == ids
    assert table.at(np.arange(size)[::-1].copy()) == ids[::-1]
    assert table.rows(ids, False).tolist() == [*range(size)]


@pytest.mark.parametrize("place", [0, 1, 63, 64, 65, 127, 128])
def test_the_empty_string_is_an_id_wherever_it_comes(runtime, place):
    ids = [f"id {n}" for n in range(200)]
    ids[place] = ""
    table = runtime.StringIdTable()
    assert table.rows([""], False).tolist() == [-1]
    assert table.rows(ids).tolist() == [*range(200)]
    assert table.rows([""], False).tolist() == [place]
    assert table.at(as_int64([place - 1 if place else 199, place, place + 1])) == [
        ids[place - 1], "", ids[place + 1]
    ]  # fmt: skip


@ANY_KIND
@pytest.mark.parametrize("bad", [[3], [-1], [0, 99]])
def test_a_row_that_no_id_has_is_refused(runtime, name, bad):
    table = table_in(runtime, name, [range(3)])
    with pytest.raises(IndexError):
        table.at(as_int64(bad))


def test_a_long_string_moves_no_other(runtime):
    table, ids = runtime.StringIdTable(), [*(str(n) for n in range(100)), "x" * 2**20, "", "end"]
    assert table.rows(ids).tolist() == [*range(103)]
    assert table.ids() == ids
    assert table.nbytes() >= 2**20
