import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.errors import UserError
from autoemb.streaming import Stream


def stream_of(events, batch_size):
    """Users count up from 100, items are strings, labels and timestamps count too."""
    return Stream(
        [np.arange(events) + 100, [f"item {i}" for i in range(events)]],
        torch.arange(events),
        np.arange(events) * 10,
        batch_size,
    )


def check_events(events, start):
    numbers = range(start, start + len(events.label))
    assert events.ids[0].tolist() == [100 + i for i in numbers]
    assert events.ids[1] == [f"item {i}" for i in numbers]
    assert events.label.tolist() == [*numbers]
    assert events.timestamp.tolist() == [10 * i for i in numbers]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(2, 70), st.data())
def test_batches_are_the_stream_in_order_from_any_position(events, batch_size, data):
    sizes, position = [], 0
    stream = stream_of(events, batch_size)
    assert len(stream) == events
    for batch in stream:
        check_events(batch, position)
        sizes.append(len(batch.label))
        position += sizes[-1]
        assert stream.position == position
    assert position == events
    assert all(size == batch_size for size in sizes[:-1])
    assert 2 <= sizes[-1] <= batch_size + 1

    done = data.draw(st.integers(0, len(sizes)))
    stopped, resumed = stream_of(events, batch_size), stream_of(events, batch_size)
    for _, _batch in zip(range(done), stopped, strict=False):
        pass
    resumed.load_state_dict({"position": sum(sizes[:done])})
    rest = [len(batch.label) for batch in resumed]
    assert rest == sizes[done:]


@pytest.mark.parametrize(
    ("events", "batch_size", "sizes"),
    [
        (2, 2, [2]),
        (3, 2, [3]),
        (4, 2, [2, 2]),
        (5, 2, [2, 3]),
        (2, 500, [2]),
        (3, 500, [3]),
        (500, 500, [500]),
        (501, 500, [501]),
        (502, 500, [500, 2]),
    ],
)
def test_a_single_event_at_the_end_joins_the_batch_before(events, batch_size, sizes):
    assert [len(batch.label) for batch in stream_of(events, batch_size)] == sizes


def test_a_saved_position_continues_after_the_batch_that_was_yielded():
    stream = stream_of(10, 3)
    first = next(iter(stream))
    saved = stream.state_dict()
    resumed = stream_of(10, 3)
    resumed.load_state_dict(saved)
    check_events(next(iter(resumed)), len(first.label))
    check_events(next(iter(stream)), len(first.label))


def test_an_exhausted_stream_is_over():
    stream = stream_of(4, 2)
    assert len(list(stream)) == 2
    assert list(stream) == []


def test_columns_may_be_series():
    column = pl.Series(["a", "b", "c"])
    (events,) = Stream([column], torch.zeros(3), np.zeros(3, dtype=np.int64), 5)
    assert events.ids[0].to_list() == ["a", "b", "c"]


@pytest.mark.parametrize("batch_size", [1, 0, -3])
def test_a_batch_below_two_is_refused(batch_size):
    with pytest.raises(UserError, match=f"batch size is {batch_size}; .* at least 2 events"):
        stream_of(10, batch_size)


@pytest.mark.parametrize("events", [0, 1])
def test_fewer_than_two_events_are_refused(events):
    with pytest.raises(UserError, match=f"the stream has {events} events; at least 2"):
        stream_of(events, 2)


@pytest.mark.parametrize(
    ("lengths", "named"), [((8, 10, 10), "column 0 of the ids"), ((10, 10, 3), "timestamp")]
)
def test_columns_of_unequal_length_are_refused(lengths, named):
    users, items, timestamp = (np.arange(length) for length in lengths)
    with pytest.raises(UserError, match=named):
        Stream([users, items], torch.zeros(10), timestamp)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_label_that_is_no_number_is_refused(bad):
    label = torch.zeros(5)
    label[3] = bad
    with pytest.raises(UserError, match=f"label 3 is {bad}; expected a finite number"):
        Stream([np.arange(5)], label, np.arange(5))
