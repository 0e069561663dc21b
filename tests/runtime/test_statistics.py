"""Target statistics, event by event: compiled and in Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb import _runtime_python
from autoemb._statistics_python import MOST_EVENTS

STRENGTHS = [1.0, 5.0, math.inf]
RULES = {
    "strengths": STRENGTHS, "odds": False, "rarest": 0.01, "decay": 0.9, "rate": 0.1,
    "penalty": 0.02, "largest": 3.0,
}  # fmt: skip
FACTORS, ROWS = 3, 4


class Case:
    """A queue of events of two features of one id, in one table, and of a bag in another."""

    def __init__(self, events, told, channels=2, seed=0):
        random = np.random.default_rng(seed)
        first = 2 + 2 * channels
        pair = np.zeros((ROWS, first + FACTORS), np.float32)
        pair[:, first:] = random.normal(0, 0.3, (ROWS, FACTORS))
        words = np.zeros((ROWS, first), np.float32)
        own, other, bags, label, weight = zip(*events, strict=True) if events else [()] * 5
        self.tables = [pair, pair, words]
        self.rows = [np.array(ids, np.int64) for ids in (own, other, sum(bags, ()))]
        self.offsets = [None, None, np.cumsum([0, *map(len, bags)], dtype=np.int64)]
        self.label = np.array(label, np.float32).reshape(len(events), 2)[:, :channels].copy()
        self.weight = np.array(weight, np.float32)
        self.until = np.array(told, np.int64)
        self.told = np.zeros((len(events), 3 * (3 + 2 * channels)), np.float32)
        self.mean = np.zeros((len(events), channels), np.float32)
        self.totals = {
            "total": np.full(channels, 0.5), "events": np.ones(1), "squares": np.ones(channels),
            "losses": np.zeros((3, len(STRENGTHS))),
        }  # fmt: skip

    def run(self, runtime, last=None, factored=(True, True, False), **rules):
        runtime.advance_statistics(
            self.tables, self.rows, self.offsets, [True, True, True], list(factored),
            [1.0, 5.0, 5.0], self.label, self.weight, self.until,
            len(self.label) if last is None else last, self.totals, self.told, self.mean,
            **RULES | rules,
        )  # fmt: skip
        return self

    def state(self):
        return [*self.tables, *self.totals.values(), self.told, self.mean]


ids = st.integers(0, ROWS - 1)
chance = st.floats(0, 1, width=32)
events = st.lists(
    st.tuples(ids, ids, st.lists(ids, max_size=3).map(tuple), st.tuples(chance, chance),
              st.sampled_from([0.0, 0.5, 1.0, 30.0])),
    max_size=12,
)  # fmt: skip


@st.composite
def queues(draw):
    """Return events, and what the last of them know."""
    found = draw(events)
    told = draw(st.integers(0, len(found)))
    known, least = [], 0
    for event in range(len(found) - told, len(found)):
        least = draw(st.integers(least, event))
        known.append(least)
    return found, known


@given(queue=queues(), odds=st.booleans(), channels=st.integers(1, 2))
def test_both_do_the_same_to_the_last_bit(runtime, queue, odds, channels):
    found = Case(*queue, channels).run(runtime, odds=odds)
    wanted = Case(*queue, channels).run(_runtime_python, odds=odds)
    for own, other in zip(found.state(), wanted.state(), strict=True):
        np.testing.assert_array_equal(own, other)
        assert np.isfinite(own).all()


@given(queue=queues(), cut=st.integers(0, 12))
def test_whatever_comes_later_changes_nothing_that_was_told(runtime, queue, cut):
    found, known = queue
    number = max(0, len(found) - len(known) - 1 + min(cut, len(known)))
    later = [*found[:number], *((0, 0, (), (1.0, 1.0), 1.0) for _ in found[number:])]
    same = [*found[: number + 1], *later[number + 1 :]]
    for event, stop in zip(range(len(found) - len(known), len(found)), known, strict=True):
        if event <= number and stop <= number:  # of this event's labels, and those after it, none
            first, second = Case(found, known).run(runtime), Case(same, known).run(runtime)
            np.testing.assert_array_equal(first.told[event], second.told[event])
            np.testing.assert_array_equal(first.mean[event], second.mean[event])


def test_a_thousand_features_that_agree_do_not_overflow(runtime):
    """Each says the least chance: the sum of their log-odds is -9,190 where the mean is near 1."""
    features = 1000
    table = np.zeros((1, 4), np.float32)
    table[0, :2] = 1e6, -1e6
    totals = {
        "total": np.array([0.99]), "events": np.ones(1), "squares": np.ones(1),
        "losses": np.zeros((features, len(STRENGTHS))),
    }  # fmt: skip
    told = np.tile(np.float32([1e6, -1e6, 0, 0, 0]), (1, features))
    runtime.advance_statistics(
        [table] * features, [np.zeros(1, np.int64)] * features, [None] * features,
        [False] * features, [False] * features, [1.0] * features, np.ones((1, 1), np.float32),
        np.ones(1, np.float32), np.zeros(0, np.int64), 1, totals, told,
        np.full((1, 1), 0.99, np.float32), **RULES | {"odds": True},
    )  # fmt: skip
    assert totals["squares"].tolist() == [2]
    assert np.isfinite(totals["losses"]).all()


def test_a_label_is_split_between_an_events_ids(runtime):
    case = Case([(0, 1, (2, 3), (1.0, 0.0), 1.0)], [0]).run(runtime)
    pair, words = case.tables[0], case.tables[2]
    # The mean is 0.5. User 0 gets all that is left; shrunk by 1 he then says half of it.
    np.testing.assert_array_equal(pair[0, :6], np.float32([1, 0.5, -0.5, 1, 0.5, -0.5]))
    left = 1 - 0.5 - 0.25
    np.testing.assert_array_equal(pair[1, :3], np.float32([1, left, -left]))
    left -= left / (1 + 5)
    for row in (2, 3):  # every id of a bag gets what the bag is left
        np.testing.assert_array_equal(words[row, :3], np.float32([1, left, -left]))
    assert not case.told.any()  # the event itself was told nothing
    assert case.totals["total"].tolist() == [1.5, 0.5]
    assert case.totals["events"].tolist() == [2]
    assert case.totals["squares"].tolist() == [1.25, 1.25]


def test_what_is_told_is_what_is_kept(runtime):
    event = (0, 1, (2, 3), (1.0, 0.0), 2.0)
    case = Case([event, event], [0, 1])
    last = case.run(runtime, last=1).told[1].reshape(3, 7)
    np.testing.assert_array_equal(last[0, :6], case.tables[0][0, :6])
    np.testing.assert_array_equal(last[2, :6], case.tables[2][2, :6] + case.tables[2][3, :6])
    p, q = case.tables[0][:2, 6:].astype(np.float64)
    np.testing.assert_allclose(last[:, 6], [p @ q, p @ q, 0], rtol=1e-6)
    np.testing.assert_allclose(case.mean[1], [(0.5 + 2) / 3, 0.5 / 3], rtol=1e-6)


def test_strengths_are_compared_by_what_was_told(runtime):
    likes, not_so = (0, 3, (), (1.0, 1.0), 1.0), (1, 3, (), (0.0, 0.0), 1.0)
    stale = Case([likes, not_so] * 8, [0] * 16).run(runtime)
    fresh = Case([likes, not_so] * 8, range(16)).run(runtime)
    np.testing.assert_array_equal(stale.totals["losses"], 16 * 0.5)  # nothing was told
    losses = fresh.totals["losses"][0]
    assert losses[0] < losses[1] < losses[2]  # the less shrunk the better
    assert losses[0] < 16 * 0.5


def test_factors_step_against_the_error(runtime):
    case, before = (Case([(0, 1, (), (0.5, 0.9), 0.5)], [0]) for _ in range(2))
    case.run(runtime)
    p, q = before.tables[0][:2, 6:].astype(np.float64)
    left = 0.9 - 0.5
    reach = p @ p + q @ q
    step = 0.5 * 0.1 / (1 + 0.5 * 0.1 * reach)
    pairs = ((p, q), (q, p))
    expected = [own + step * ((left - p @ q) * other - 0.02 * own) for own, other in pairs]
    np.testing.assert_allclose(case.tables[0][:2, 6:], expected, rtol=1e-6)
    heavy = Case([(0, 1, (), (0.5, 0.9), 1e9)] * 50, [0] * 50).run(runtime, last=50)
    assert np.abs(heavy.tables[0]).max() < np.inf
    assert np.abs(heavy.tables[0][:2, 6:]).max() < 2


def test_one_row_in_two_features_learns_from_both(runtime):
    case, before = (Case([(1, 1, (), (0.5, 0.9), 1.0)], [0]) for _ in range(2))
    case.run(runtime)
    p = before.tables[0][1, 6:].astype(np.float64)
    step = 0.1 / (1 + 0.1 * 2 * (p @ p))
    # Rounded to float32 twice.
    np.testing.assert_allclose(
        case.tables[0][1, 6:], p + 2 * step * ((0.4 - p @ p) * p - 0.02 * p), rtol=1e-5
    )
    assert case.tables[0][1, 0] == 2


def test_an_id_goes_on_counting(runtime):
    case = Case([(0, 1, (), (1.0, 1.0), 1.0)] * 4, [0] * 4)
    case.tables[0][0, :3] = MOST_EVENTS - 2, 1000, -1000
    case.run(runtime)
    assert case.tables[0][0, 0] == MOST_EVENTS / 2 + 2
    assert 500 < case.tables[0][0, 1] < 504


@pytest.mark.parametrize("bad", [-1, ROWS, 2**63 - 1])
def test_a_row_outside_is_named_and_nothing_changes(runtime, bad):
    case, before = (Case([(0, 1, (2,), (1.0, 0.0), 1.0)] * 2, [0, 1]) for _ in range(2))
    case.rows[1][1] = bad
    with pytest.raises(IndexError, match=rf"rows\[1\] is {bad}; the tables have 4 rows"):
        case.run(runtime)
    for own, other in zip(case.state(), before.state(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"until": np.array([0, 2])}, "an event may know those before it"),
        ({"until": np.array([1, 0])}, "an event may know those before it"),
        ({"until": np.array([0, -1])}, "an event may know those before it"),
        ({"until": np.array([0, 0, 0])}, "until and last must be within label"),
        ({"weight": np.ones(3, np.float32)}, "weight must be as long as label"),
        ({"label": np.ones((2, 0), np.float32)}, "label must have a column"),
        ({"told": np.zeros((2, 20), np.float32)}, "told must have 21 columns"),
        ({"mean": np.zeros((2, 1), np.float32)}, "mean must be as label"),
        ({"offsets": [None, None, np.array([0, 2, 1])]}, "offsets must ascend"),
        ({"offsets": [None, None, None]}, "rows must be as long as label"),
        ({"offsets": [None, None]}, "features must be as many as tables"),
        ({"tables": [np.zeros((4, 5), np.float32)] * 3}, "a table is of another width"),
    ],
)  # fmt: skip
def test_arrays_of_other_shapes_are_refused(runtime, change, message):
    case = Case([(0, 1, (2, 3, 0), (1.0, 0.0), 1.0), (1, 1, (), (1.0, 0.0), 1.0)], [0, 1])
    vars(case).update(change)
    with pytest.raises(ValueError, match=message):
        case.run(runtime)
    with pytest.raises(ValueError, match="last must not be before until"):
        Case([(0, 1, (), (1.0, 0.0), 1.0)] * 2, [0, 1]).run(runtime, last=0)
    case = Case([], [])
    case.totals["losses"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match="losses must have 9 numbers"):
        case.run(runtime)
