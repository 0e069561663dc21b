"""What is known of each id, against a loop over events."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.ops import distinct_columns
from autoemb.streaming import InteractionState, checkpoint
from autoemb.streaming.state import (
    LOSS_DECAY,
    POPULARITY_WIDTH,
    encode_popularity,
    popularity_bucket,
)

ROWS, SIZES = (5, 4), 3

event = st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(0, 10, width=32))
stream = st.lists(st.lists(event, min_size=1, max_size=8), max_size=5)


def make_state(sizes=SIZES):
    state = InteractionState(len(ROWS), sizes)
    state.grow([*ROWS])
    return state


def record(state, events, weigh):
    """Record a batch, with the weights that ``weigh`` gives an id."""
    ids = torch.tensor([[user, item] for user, item, _ in events])
    plans = distinct_columns(ids)
    rows = [plan.rows for plan in plans]
    weights = [torch.stack([weigh(f, row) for row in r.tolist()]) for f, r in enumerate(rows)]
    state.record(ids, torch.tensor([loss for *_, loss in events]), weights, plans)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(stream)
def test_history_is_that_of_a_loop_over_events(batches):
    state = make_state()
    known = [
        [{"count": 0, "last": 0.0, "mean": 0.0, "weights": [1 / SIZES] * SIZES} for _ in range(n)]
        for n in ROWS
    ]
    for number, events in enumerate(batches):

        def weigh(field, row, number=number):
            return torch.softmax(torch.tensor([field, row, number / 2], dtype=torch.float32), 0)

        record(state, events, weigh)
        for *ids, loss in events:
            for field, row in enumerate(ids):
                one = known[field][row]
                decay = LOSS_DECAY if one["count"] else 0.0
                one["mean"] = decay * one["mean"] + (1 - decay) * loss
                one["last"] = loss
                one["count"] += 1
                one["weights"] = weigh(field, row).tolist()
    for field, rows in enumerate(ROWS):
        every = torch.arange(rows)
        features = state.features(field, every)
        counts = [one["count"] for one in known[field]]
        assert features.shape == (rows, state.num_features)
        assert state.count(field, every).tolist() == counts
        last, logarithm, mean = features[:, -3:].T.tolist()
        assert last == [one["last"] for one in known[field]]
        # Single precision: rel covers log1p and the 40 roundings of a mean over 40 events, abs
        # means of losses so small that they have fewer digits.
        near = {"rel": 1e-5, "abs": 1e-30}
        assert logarithm == pytest.approx([math.log1p(count) for count in counts], **near)
        assert mean == pytest.approx([one["mean"] for one in known[field]], **near)
        given = features[:, POPULARITY_WIDTH:-3]
        expected = torch.tensor([one["weights"] for one in known[field]])
        torch.testing.assert_close(given, expected, rtol=1e-6, atol=0)  # Python's 1/3 rounded
        assert torch.equal(features[:, :POPULARITY_WIDTH], encode_popularity(torch.tensor(counts)))


@pytest.mark.parametrize("sizes", [1, 3, 7])
def test_features_are_32_and_the_sizes_and_3_wide(sizes):
    state = make_state(sizes)
    assert state.num_features == 32 + sizes + 3
    assert state.features(0, torch.tensor([2, 0])).shape == (2, 32 + sizes + 3)
    assert state.features(0, torch.tensor([2, 0])).dtype == torch.float32


def test_rows_come_in_the_order_asked_for():
    state = make_state()
    record(state, [(3, 1, 0.5), (1, 1, 0.25)], lambda field, row: torch.full((SIZES,), float(row)))
    both = state.features(0, torch.tensor([3, 1]))
    assert torch.equal(both.flip(0), state.features(0, torch.tensor([1, 3])))
    assert both[0, POPULARITY_WIDTH:-3].tolist() == [3.0] * SIZES
    assert both[:, -3].tolist() == [0.5, 0.25]


def test_padding_records_no_weights(pad_plans):
    pad_plans()
    state, ids = make_state(), torch.tensor([[4, 0], [2, 0], [2, 0]])
    plans = distinct_columns(ids)
    weights = [torch.tensor([[0.2] * SIZES, [0.4] * SIZES, [float("nan")] * SIZES])] * 2
    weights[1] = weights[1].roll(1, 0).nan_to_num(0.5)  # one row, then padding
    state.record(ids, torch.tensor([0.5, 0.25, 1.0]), weights, plans)
    assert state.features(0, torch.tensor([2, 4]))[:, 32].tolist() == pytest.approx([0.2, 0.4])
    assert state.features(1, torch.tensor([0]))[0, 32].item() == 0.5
    assert state.count(0, torch.arange(5)).tolist() == [0, 0, 2, 0, 1]


def test_a_method_without_weights_records_the_rest():
    state = make_state()
    state.record(torch.tensor([[4, 0], [4, 1]]), torch.tensor([0.5, 0.25]))
    assert state.count(0, torch.arange(5)).tolist() == [0, 0, 0, 0, 2]
    features = state.features(0, torch.tensor([4]))[0]
    assert features[POPULARITY_WIDTH:-3].tolist() == pytest.approx([1 / SIZES] * SIZES)
    assert features[-3].item() == 0.25


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_an_id_never_grown_to_is_refused_before_anything_is_recorded(bad):
    state = make_state()
    with pytest.raises(IndexError, match=rf"field 1: id {bad} is not in \[0, 3\]"):
        state.record(torch.tensor([[4, 0], [4, bad]]), torch.tensor([0.5, 0.25]))
    assert not any(field.count.any() for field in state.fields)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_the_prior_of_the_widest_size_rises_with_popularity_alone(counts):
    state = InteractionState(fields=1, sizes=3)
    state.grow([len(counts)])
    state.fields[0].count[:] = torch.tensor(counts)
    state.fields[0].last_loss.uniform_()
    logits = state.features(0, torch.arange(len(counts))) @ state.popularity_prior()
    assert torch.equal(logits[:, :2], torch.zeros(len(counts), 2))
    octaves = torch.log2(1 + state.fields[0].count.double()).clamp_max(31)
    expected = (1 + 0.4 * octaves).clamp_max(3.4)  # reached at octave 6, where it has its corner
    torch.testing.assert_close(logits[:, 2].double(), expected, rtol=0, atol=1e-5)


def test_an_id_never_seen_has_equal_weights_and_no_loss():
    features = make_state().features(0, torch.tensor([2]))[0].tolist()
    assert features[0] == 1
    assert features[1:POPULARITY_WIDTH] == [0.0] * (POPULARITY_WIDTH - 1)
    assert features[POPULARITY_WIDTH:] == pytest.approx([1 / SIZES] * SIZES + [0, 0, 0])


def test_growth_keeps_what_is_known():
    state = make_state()
    record(state, [(3, 1, 0.5), (1, 1, 0.25)], lambda field, row: torch.full((SIZES,), 0.5))
    before = [state.features(f, torch.arange(n)) for f, n in enumerate(ROWS)]
    state.grow([11, 2])
    assert torch.equal(state.features(0, torch.arange(5)), before[0])
    assert torch.equal(state.features(1, torch.arange(4)), before[1])
    fresh = make_state().features(0, torch.tensor([0]))
    assert torch.equal(state.features(0, torch.arange(5, 11)), fresh.expand(6, -1))


# Popularity


def octave(count):
    return math.log2(1 + count)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 2) | st.integers(0, 100))
def test_the_encoding_shares_one_between_two_octaves(count):
    code = encode_popularity(torch.tensor([count]))[0]
    assert code.shape == (32,)
    below = math.floor(octave(count))
    share = octave(count) - below
    expected = torch.zeros(32, dtype=torch.float64)
    expected[below] = 1 - share
    if share:
        expected[below + 1] = share
    # Two roundings to float32 of numbers up to 1.
    assert (code.double() - expected).abs().max() <= 2**-23
    assert abs(code.double().sum().item() - 1) <= 2**-23


def test_the_encoding_is_continuous():
    # Between neighbours the octave moves by at most 1 / (ln 2 (1 + count)), and so do two of the
    # 32 numbers; twice 2^-23 for rounding.
    for start in (0, 1, 7, 100, 1023, 10**6, 2**30 - 1):
        count = torch.arange(start, start + 3)
        step = encode_popularity(count).double().diff(dim=0).abs().max(1).values
        allowed = 1 / (math.log(2) * (1 + count[:-1].double())) + 2**-22
        assert (step <= allowed).all()
        assert (step > 0).all() or start > 2**23  # float32 cannot tell neighbours from there on


def test_the_encoding_stays_at_its_end():
    counts = torch.tensor([2**31 - 1, 2**31, 2**40, 2**62])
    expected = [0.0] * 31 + [1.0]
    assert encode_popularity(counts).tolist() == [expected] * 4
    assert popularity_bucket(counts).tolist() == [31] * 4


@pytest.mark.parametrize("bucket", [*range(31)])
def test_a_bucket_goes_from_one_power_of_two_to_the_next(bucket):
    low, high = 2**bucket - 1, 2 ** (bucket + 1) - 2
    assert popularity_bucket(torch.tensor([low, high])).tolist() == [bucket] * 2
    assert popularity_bucket(torch.tensor([high + 1])).tolist() == [bucket + 1]


# State


def fill(state):
    losses = [0.1, 0.7, 0.3]
    record(
        state,
        [(i, 1, loss) for i, loss in enumerate(losses)],
        lambda field, row: torch.softmax(torch.tensor([field, row, 1.0]), 0),
    )


def test_a_state_from_a_file_continues_to_the_last_bit(tmp_path):
    state = make_state()
    fill(state)
    checkpoint.save(state.state_dict(), tmp_path / "state")
    restored = InteractionState(len(ROWS), SIZES)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for each in (state, restored):
        fill(each)
    for field, rows in enumerate(ROWS):
        every = torch.arange(rows)
        assert torch.equal(state.features(field, every), restored.features(field, every))


def test_a_restored_state_shares_no_memory_with_the_one_it_came_from():
    original, restored = make_state(), make_state()
    fill(original)
    before = copy.deepcopy(original.state_dict())
    restored.load_state_dict(original.state_dict())
    fill(restored)
    for field, values in original.state_dict().items():
        for name, value in values.items():
            assert torch.equal(value, before[field][name])
