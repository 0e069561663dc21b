"""When labels are known, and networks that learn later than they predict."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb import UserError
from autoemb.learners import METHODS
from autoemb.streaming.queue import Clock

times = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@given(time=times, data=st.data(), delay=st.integers(1, 6), by_event=st.booleans())
def test_late_labels_are_known_once_they_have_come(time, data, delay, by_event):
    batch = data.draw(st.integers(1, len(time)))
    time = np.sort(np.array(time))
    known, last = Clock(by_event, delay).until(time, batch, len(time))
    first = time[len(time) - batch]
    for own, stop in zip(time[len(time) - batch :], known.tolist(), strict=True):
        now = own if by_event else first
        assert stop == sum(int(t) + delay < now for t in time)
    assert last == sum(int(t) + delay < time[-1] for t in time)


@given(time=times)
def test_labels_that_come_at_once_are_known_at_the_next_time(time):
    time = np.sort(np.array(time))
    known, last = Clock(by_event=True).until(time, len(time), len(time))
    assert known.tolist() == [int((time < own).sum()) for own in time]
    assert last == len(time)
    known, last = Clock().until(time, len(time), len(time))
    assert known.tolist() == [0] * len(time)
    assert last == len(time)


def test_without_times_each_event_is_later_than_the_one_before():
    known, last = Clock(by_event=True).until(None, 3, 3)
    assert (known.tolist(), last) == ([0, 1, 2], 3)


@given(time=times, delay=st.integers(0, 6))
def test_no_event_knows_itself_whatever_the_times(time, delay):
    time = np.array(time)  # in no order
    known, _ = Clock(by_event=True, delay=delay).until(time, len(time), len(time))
    assert bool((known <= np.arange(len(time))).all())
    assert bool((np.diff(known) >= 0).all())


@pytest.fixture
def batches(make_batches):
    """Nine batches of six events, a second apart."""
    return make_batches(9)


def part(batch, start, stop):
    sparse = {name: ids[start:stop] for name, ids in batch.sparse.items()}
    return replace(batch, sparse=sparse, label=batch.label[start:stop],
                   timestamp=batch.timestamp[start:stop])  # fmt: skip


@pytest.mark.parametrize("method", ["fse", "sam", "darts", "autoemb"])
def test_chunks_are_learnt_after_their_batch_is_predicted(make_learner, batches, changes, method):
    chunked, plain = make_learner(method, learn_chunk=4), make_learner(method)
    for batch in batches:
        predicted = plain.predict(batch)
        torch.testing.assert_close(chunked.learn(batch).outcome.logits, predicted)
        for start in (0, 3):  # in chunks of nearly equal length
            plain.learn(part(batch, start, start + 3))
        # Rows of new ids are drawn from the ids: when they come changes nothing.
        assert not changes(chunked.trainer.state_dict(), plain.trainer.state_dict())


@pytest.mark.parametrize("delay", [0.5, 4.0, 30.0])
def test_a_network_learns_late_labels_once_they_have_come(
    make_learner, batches, knowledge, changes, delay
):
    late, plain = make_learner("fse", label_delay=delay, learn_chunk=2), make_learner("fse")
    waiting = []
    for batch in batches:
        while waiting and waiting[0].timestamp.max() + delay < batch.timestamp[0]:
            plain.learn(waiting.pop(0))
        predicted = late.learn(batch).outcome.logits
        torch.testing.assert_close(predicted, plain.predict(batch))
        waiting += [part(batch, start, start + 2) for start in (0, 2, 4)]
    assert len(late.waiting) == len(waiting) > 0


def test_late_labels_need_times(make_learner, batches):
    for history in ("none", "full"):
        learner = make_learner("fse", label_delay=5.0, history=history)
        learner.learn(batches[0])
        with pytest.raises(UserError, match="labels come 5 seconds late; the batch has no times"):
            learner.learn(replace(batches[1], timestamp=None))
        assert torch.isfinite(learner.learn(batches[1]).losses).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("delay", [0.0, 4.0])
def test_labels_reach_no_prediction_before_they_are_known(make_learner, batches, method, delay):
    """Changing the labels from event k on changes nothing until one of them is known."""
    history = "none" if METHODS[method].opponent else "full"
    options = {"history": history, "freshness": "event", "label_delay": delay}
    first = 27  # within a batch
    runs = []
    for change in (False, True):
        learner = make_learner(method, **options)
        labels = torch.cat([batch.label for batch in batches])
        labels[first:] = 5 - labels[first:] if change else labels[first:]
        own = labels.split([len(batch) for batch in batches])
        steps = [learner.learn(replace(b, label=x)) for b, x in zip(batches, own, strict=True)]
        runs.append(torch.cat([step.outcome.logits for step in steps]))
    differs = (runs[0] != runs[1]).any(1).tolist()
    # Times are a second apart: the label of event k is known to events after k + delay.
    assert differs.index(True) == first + 1 + delay


def test_a_chunk_that_cannot_be_learnt_waits(make_learner, batches, monkeypatch):
    learner = make_learner("fse", learn_chunk=3)
    learner.learn(batches[0])
    calls, compute = [], learner.trainer.compute

    def fail_at_the_second(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return compute(*args, **options)

    monkeypatch.setattr(learner.trainer, "compute", fail_at_the_second)
    with pytest.raises(RuntimeError, match="no memory"):
        learner.learn(batches[1])
    assert len(learner.waiting) == 1
    learner.learn(batches[2])
    assert len(learner.waiting) == 0
    assert len(calls) == 2 + 3
