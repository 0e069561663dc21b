"""The counters of the streaming loop, compiled and in Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

losses = st.floats(0, 1e6, width=32)
events = st.lists(st.tuples(st.integers(0, 4), losses), max_size=40)


def counters(num_rows=5):
    zeros = np.zeros(num_rows, dtype=np.float32)
    return np.zeros(num_rows, dtype=np.int64), zeros, zeros.copy()


def arrays(events):
    rows = np.array([row for row, _ in events], dtype=np.int64)
    return rows, np.array([loss for _, loss in events], dtype=np.float32)


@given(events=events, decay=st.floats(0, 1), cut=st.integers(0, 40))
def test_events_count_one_after_the_other(runtime, events, decay, cut):
    count, last, mean = counters()
    for part in (events[:cut], events[cut:]):
        runtime.record(*arrays(part), decay, count, last, mean)

    for row in range(5):
        seen = [loss for r, loss in events if r == row]
        expected = np.float32(seen[0] if seen else 0)
        for loss in seen[1:]:
            expected = np.float32(decay * float(expected) + (1 - decay) * loss)
        assert count[row] == len(seen)
        assert last[row] == np.float32(seen[-1] if seen else 0)
        assert mean[row] == expected  # to the last bit, in both implementations


@pytest.mark.parametrize("bad", [-1, 5, -(2**63), 2**63 - 1])
def test_a_row_outside_is_named_and_nothing_changes(runtime, bad):
    count, last, mean = counters()
    rows, loss = arrays([(0, 1.0), (1, 2.0), (0, 3.0)])
    rows[2] = bad
    with pytest.raises(IndexError, match=rf"rows\[2\] is {bad}; the tables have 5 rows"):
        runtime.record(rows, loss, 0.9, count, last, mean)
    assert not count.any()
    assert not last.any()
    assert not mean.any()


def arguments():
    count, last, mean = counters()
    rows, loss = arrays([(0, 1.0), (1, 2.0)])
    return {"rows": rows, "loss": loss, "count": count, "last_loss": last, "mean_loss": mean}


@pytest.mark.parametrize("name", ["rows", "loss", "count", "last_loss", "mean_loss"])
def test_other_arrays_are_refused_by_name(runtime, name):
    for spoil in (lambda a: a.astype(np.float16), lambda a: a[:, None], lambda a: a.repeat(2)[::2]):
        given = arguments()
        given[name] = spoil(given[name])
        with pytest.raises(TypeError, match=f"^{name} must be a contiguous (writable )?1-D array"):
            runtime.record(**given, decay=0.9)


@pytest.mark.parametrize("name", ["count", "last_loss", "mean_loss"])
def test_counters_must_be_writable(runtime, name):
    given = arguments()
    given[name].flags.writeable = False
    with pytest.raises(TypeError, match=f"^{name} must be a contiguous writable 1-D array"):
        runtime.record(**given, decay=0.9)


@pytest.mark.parametrize("name", ["loss", "last_loss", "mean_loss"])
def test_lengths_must_agree(runtime, name):
    given = arguments()
    given[name] = given[name][:1]
    with pytest.raises(ValueError, match=f"{name}.* must be as long as"):
        runtime.record(**given, decay=0.9)
