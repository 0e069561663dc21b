"""The distinct rows of a batch, compiled and in Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

INT64 = np.iinfo(np.int64)


def check_against_numpy(runtime, rows):
    answers = runtime.distinct(rows)
    expected = np.unique(rows, return_inverse=True, return_counts=True)
    for ours, numpys in zip(answers, expected, strict=True):
        assert ours.dtype == np.int64
        np.testing.assert_array_equal(ours, numpys)


@given(rows=st.lists(st.integers(INT64.min, INT64.max) | st.integers(-300, 300), max_size=50))
def test_agrees_with_numpy(runtime, rows):
    check_against_numpy(runtime, np.array(rows, dtype=np.int64))


@pytest.mark.parametrize("size", [1, 31, 33, 500, 4095, 4096, 65_536])
@pytest.mark.parametrize("high", [1, 10, 256, 257, 138_493, 2**32 - 1, 2**32 + 1, INT64.max])
def test_agrees_with_numpy_in_large_batches(runtime, size, high):
    rows = np.random.default_rng(size).integers(0, high, size)
    rows[0], rows[-1] = high - 1, 0
    check_against_numpy(runtime, rows)


def test_extremes(runtime):
    check_against_numpy(runtime, np.array([INT64.max, INT64.min, 0, -1, INT64.min], dtype=np.int64))


def test_leaves_its_input_alone(runtime):
    rows = np.array([3, 1, 3])
    runtime.distinct(rows)
    assert rows.tolist() == [3, 1, 3]


@pytest.mark.parametrize("rows", [np.zeros(2), np.zeros((2, 2), dtype=np.int64)])
def test_other_arrays_are_refused(runtime, rows):
    with pytest.raises(TypeError, match="rows must be a contiguous 1-D array of int64"):
        runtime.distinct(rows)
