"""Batches of a stream: in order, from any position, with as many events at the end as needed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb import Batch
from autoemb.errors import UserError
from autoemb.streaming import Stream


class Counting:
    """Events whose users count up from 100; items are strings, labels count too."""

    def __init__(self, events):
        self._events = events

    def __len__(self):
        return self._events

    def batch(self, start, stop):
        number = np.arange(start, stop)
        sparse = {"user": number + 100, "item": [f"item {i}" for i in number]}
        return Batch(sparse, label=torch.from_numpy(number), timestamp=number * 10)


def stream_of(events, batch_size, least=1):
    return Stream(Counting(events), batch_size, least)


def check_events(batch, start):
    numbers = range(start, start + len(batch))
    assert batch.sparse["user"].tolist() == [100 + i for i in numbers]
    assert batch.sparse["item"] == [f"item {i}" for i in numbers]
    assert batch.label.tolist() == [*numbers]
    assert batch.timestamp.tolist() == [10 * i for i in numbers]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(0, 60), st.integers(0, 70), st.data())
def test_batches_are_the_stream_in_order_from_any_position(least, more, room, data):
    events, batch_size = least + more, least + room
    sizes, position = [], 0
    stream = stream_of(events, batch_size, least)
    assert len(stream) == events
    for batch in stream:
        check_events(batch, position)
        sizes.append(len(batch))
        position += sizes[-1]
        assert stream.position == position
    assert position == events
    assert all(size == batch_size for size in sizes[:-1])
    assert least <= sizes[-1] < batch_size + least

    done = data.draw(st.integers(0, len(sizes)))
    resumed = stream_of(events, batch_size, least)
    resumed.load_state_dict({"position": sum(sizes[:done])})
    assert [len(batch) for batch in resumed] == sizes[done:]


@pytest.mark.parametrize(
    ("events", "batch_size", "least", "sizes"),
    [
        (1, 1, 1, [1]),
        (3, 1, 1, [1, 1, 1]),
        (5, 2, 1, [2, 2, 1]),
        (501, 500, 1, [500, 1]),
        (2, 2, 2, [2]),
        (3, 2, 2, [3]),
        (4, 2, 2, [2, 2]),
        (5, 2, 2, [2, 3]),
        (2, 500, 2, [2]),
        (3, 500, 2, [3]),
        (500, 500, 2, [500]),
        (501, 500, 2, [501]),
        (502, 500, 2, [500, 2]),
    ],
)
def test_fewer_events_than_needed_at_the_end_join_the_batch_before(
    events, batch_size, least, sizes
):
    assert [len(batch) for batch in stream_of(events, batch_size, least)] == sizes


def test_a_saved_position_continues_after_the_batch_that_was_yielded():
    stream = stream_of(10, 3)
    first = next(iter(stream))
    saved = stream.state_dict()
    resumed = stream_of(10, 3)
    resumed.load_state_dict(saved)
    check_events(next(iter(resumed)), len(first))
    check_events(next(iter(stream)), len(first))


def test_an_exhausted_stream_is_over():
    stream = stream_of(4, 2)
    assert len(list(stream)) == 2
    assert list(stream) == []


@pytest.mark.parametrize(("batch_size", "least"), [(1, 2), (0, 1), (-3, 1), (0, 0)])
def test_a_batch_of_fewer_than_needed_is_refused(batch_size, least):
    expected = f"batch size is {batch_size}; expected at least {max(1, least)} events"
    with pytest.raises(UserError, match=expected):
        stream_of(10, batch_size, least)


@pytest.mark.parametrize(("events", "least"), [(0, 1), (0, 2), (1, 2)])
def test_a_stream_of_fewer_than_needed_is_refused(events, least):
    with pytest.raises(UserError, match=f"the stream has {events} events; at least {least} are"):
        stream_of(events, 2, least)


@pytest.mark.parametrize("position", [-1, 11, 2.0, None, True])
def test_a_position_that_the_stream_has_not_is_refused(position):
    stream = stream_of(10, 3)
    with pytest.raises(UserError, match="expected 0 to 10"):
        stream.load_state_dict({"position": position})
    assert stream.position == 0
