"""Sums that forget and factors, compiled and in Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(-10, 10, width=32)
entries = st.lists(st.tuples(st.integers(0, 4), numbers, numbers), max_size=30)
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.floats(-1, 1, width=32)),
                  max_size=30)  # fmt: skip


def factors(seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(0, 0.3, (rows, 3)).astype(np.float32) for rows in (5, 3)]


@given(entries=entries, decay=st.floats(0, 1), cut=st.integers(0, 30))
def test_sums_forget_entry_by_entry(runtime, entries, decay, cut):
    sums = np.zeros((5, 2), np.float32)
    for part in (entries[:cut], entries[cut:]):
        rows = np.array([row for row, *_ in part], np.int64)
        values = np.array([own for _, *own in part], np.float32).reshape(len(part), 2)
        runtime.forgetting_sums(rows, values, decay, sums)
    expected = np.zeros((5, 2), np.float32)
    for row, *own in entries:
        expected[row] = decay * expected[row].astype(np.float64) + own
    np.testing.assert_array_equal(sums, expected)


@given(events=events, cut=st.integers(0, 30))
def test_a_step_an_event_is_that_of_the_gradient(runtime, events, cut):
    found, expected = factors(), [table.astype(np.float64) for table in factors()]
    rate, penalty = 0.1, 0.02
    for part in (events[:cut], events[cut:]):
        rows = [np.array([event[f] for event in part], np.int64) for f in range(2)]
        left = np.array([event[2] for event in part], np.float32)
        weight = np.full(len(part), 0.5, np.float32)
        runtime.learn_factors(found, rows, left, weight, rate, penalty)
    for user, item, left in events:
        p, q = expected[0][user].copy(), expected[1][item].copy()
        error = left - p @ q
        step = 0.5 * rate / (1 + 0.5 * rate * (p @ p + q @ q))
        expected[0][user] += step * (error * q - penalty * p)
        expected[1][item] += step * (error * p - penalty * q)
    for own, wanted in zip(found, expected, strict=True):
        # Factors are rounded to float32 at each of at most 30 steps.
        np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


def test_features_may_share_a_table(runtime):
    table = factors()[0]
    p, q = table[1].astype(np.float64), table[4].astype(np.float64)
    rows = [np.array([1]), np.array([4])]
    one = np.ones(1, np.float32)
    runtime.learn_factors([table, table], rows, one, one, 0.1, 0.0)
    step = 0.1 / (1 + 0.1 * (p @ p + q @ q))
    np.testing.assert_allclose(table[1], p + step * (1 - p @ q) * q, rtol=1e-6)
    np.testing.assert_allclose(table[4], q + step * (1 - p @ q) * p, rtol=1e-6)


@pytest.mark.parametrize("bad", [-1, 5, 2**63 - 1])
def test_a_row_outside_is_named_and_nothing_changes(runtime, bad):
    rows, one = np.array([0, bad]), np.ones(2, np.float32)
    sums, tables = np.zeros((5, 1), np.float32), factors()
    with pytest.raises(IndexError, match=rf"rows\[1\] is {bad}; the tables have 5 rows"):
        runtime.forgetting_sums(rows, np.ones((2, 1), np.float32), 0.9, sums)
    with pytest.raises(IndexError, match=rf"rows\[1\] is {bad}; the tables have 5 rows"):
        runtime.learn_factors(tables, [rows, rows * 0], one, one, 0.1, 0.0)
    assert not sums.any()
    for table, before in zip(tables, factors(), strict=True):
        np.testing.assert_array_equal(table, before)


def test_arrays_of_other_shapes_are_refused(runtime):
    rows, one, sums = np.array([0]), np.ones(1, np.float32), np.zeros((5, 1), np.float32)
    with pytest.raises(ValueError, match="values must be as wide as sums"):
        runtime.forgetting_sums(rows, np.ones((1, 2), np.float32), 0.9, sums)
    with pytest.raises(TypeError, match="sums must be a contiguous writable 2-D array of float32"):
        runtime.forgetting_sums(rows, np.ones((1, 1), np.float32), 0.9, sums[:, 0])
    tables = [sums, np.zeros((5, 2), np.float32)]
    with pytest.raises(ValueError, match="tables must be of one width"):
        runtime.learn_factors(tables, [rows, rows], one, one, 0.1, 0.0)
    with pytest.raises(ValueError, match="rows must be as many as tables"):
        runtime.learn_factors([sums], [rows, rows], one, one, 0.1, 0.0)
