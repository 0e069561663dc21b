"""The reservoir: uniform, bounded, repeatable."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Bag, Batch, UserError
from autoemb.streaming import Reservoir, checkpoint

EVENTS, CAPACITY = 20, 6

# For what is uniform: so few events and so many trials that a share off by one event is noticed.
# CHI_SQUARE is the 99.9 % quantile at 7 degrees of freedom. The seeds are fixed: a test that
# passes once passes always.
FEW, SLOTS, TRIALS, CHI_SQUARE = 8, 3, 1500, 24.32


def numbered(start, end):
    """Events that carry their own number as user, item, bag, dense feature, label and weight."""
    number = np.arange(start, end)
    value = torch.from_numpy(number).to(torch.float32)
    lengths = number % 3
    offsets = np.cumsum([0, *lengths])
    bag = Bag(number.repeat(lengths), offsets, number.repeat(lengths).astype(np.float32))
    return Batch(
        {"user": number, "item": [f"item {i}" for i in number]},
        {"words": bag},
        dense=torch.stack([value, -value], 1),
        label=value,
        weight=value,
        timestamp=number,
    )


def numbers_of(batch):
    """Return the numbers of events, after a look at what belongs to each."""
    numbers = batch.sparse["user"].tolist()
    assert batch.sparse["item"] == [f"item {i}" for i in numbers]
    assert batch.label.tolist() == batch.weight.tolist() == numbers
    assert batch.dense.tolist() == [[i, -i] for i in numbers]
    values, offsets, weights = batch.bags["words"]
    assert np.diff(offsets).tolist() == [i % 3 for i in numbers]
    assert [*values] == [i for i in numbers for _ in range(i % 3)]
    assert weights.tolist() == [*values]
    assert weights.dtype == np.float32
    return numbers


def fill(reservoir, events=EVENTS, batch=1):
    for start in range(0, events, batch):
        reservoir.add(numbered(start, min(start + batch, events)))
    return reservoir


def kept(reservoir):
    """Return the numbers of the kept events, after a look at what belongs to each."""
    return numbers_of(reservoir.all()) if reservoir.seen else []


def chi_square(counts, trials, share):
    """Return Pearson's statistic of how often each event was among those taken.

    A trial takes a fixed number of events, which makes counts vary less than independent ones by
    (n - 1) / n.
    """
    n = len(counts)
    expected = trials * share
    deviation = ((np.asarray(counts) - expected) ** 2).sum() / (expected * (1 - share))
    return deviation * (n - 1) / n


@pytest.mark.parametrize("batch", [1, 3, FEW])
def test_every_event_is_kept_equally_often(batch):
    counts = np.zeros(FEW)
    for seed in range(TRIALS):
        numbers = kept(fill(Reservoir(SLOTS, seed), FEW, batch))
        assert len({*numbers}) == SLOTS
        counts[numbers] += 1
    assert chi_square(counts, TRIALS, SLOTS / FEW) < CHI_SQUARE


@pytest.mark.parametrize(
    "slots", [lambda event: SLOTS, lambda event: event + 2], ids=["always", "off by one"]
)
def test_chi_square_notices_a_reservoir_that_is_not_uniform(slots):
    random, counts = np.random.default_rng(0), np.zeros(FEW)
    for _ in range(TRIALS):
        held = {}
        for event in range(FEW):  # the right number of slots to draw from is event + 1
            held[event if event < SLOTS else random.integers(slots(event))] = event
        counts[[event for slot, event in held.items() if slot < SLOTS]] += 1
    assert chi_square(counts, TRIALS, SLOTS / FEW) > CHI_SQUARE


def test_batches_and_single_events_keep_pairs_equally_often():
    pairs = {}
    for batch in (1, FEW):
        together = np.zeros((FEW, FEW))
        for seed in range(TRIALS):
            # Seeds apart, so that the two are independent samples.
            numbers = kept(fill(Reservoir(SLOTS, 10_000 * batch + seed), FEW, batch))
            together[np.ix_(numbers, numbers)] += 1
        pairs[batch] = together[np.triu_indices(FEW, 1)]
    share = SLOTS * (SLOTS - 1) / (FEW * (FEW - 1))
    variance = 2 * TRIALS * share * (1 - share)
    statistic = ((pairs[1] - pairs[FEW]) ** 2).sum() / variance
    # Chi-square, nearly: 3.3 standard deviations above its mean are the upper 1 in 1,000.
    count = len(pairs[1])
    assert statistic < count + 3.3 * (2 * count) ** 0.5


def test_everything_is_kept_while_there_is_room():
    reservoir = Reservoir(CAPACITY)
    for start in range(0, CAPACITY, 2):
        reservoir.add(numbered(start, start + 2))
        assert len(reservoir) == reservoir.seen == start + 2
        assert kept(reservoir) == [*range(start + 2)]
    reservoir.add(numbered(CAPACITY, CAPACITY + 5))
    assert (len(reservoir), reservoir.seen) == (CAPACITY, CAPACITY + 5)


@pytest.mark.parametrize("batch", [1, 30, 300])
def test_memory_is_bounded(batch):
    reservoir = fill(Reservoir(CAPACITY), events=300, batch=batch)
    assert len(reservoir._kept) == len(reservoir.state_dict()["events"]["label"]) == CAPACITY
    assert (len(reservoir), reservoir.seen) == (CAPACITY, 300)


def test_memory_is_taken_as_events_come():
    reservoir = fill(Reservoir(1_000_000), events=30, batch=3)
    assert len(reservoir._kept) <= 2 * 30


def test_an_empty_batch_changes_nothing():
    reservoir = fill(Reservoir(CAPACITY))
    before = kept(reservoir)
    reservoir.add(numbered(0, 0))
    assert kept(reservoir) == before
    assert reservoir.seen == EVENTS


def test_a_sample_holds_distinct_kept_events():
    reservoir = fill(Reservoir(CAPACITY))
    for _ in range(20):
        sample = reservoir.sample(4)
        numbers = numbers_of(sample)
        assert len({*numbers}) == 4
        assert {*numbers} <= {*kept(reservoir)}
        assert (sample.sparse["user"].dtype, sample.label.dtype) == (np.int64, torch.float32)
    for size in (CAPACITY, CAPACITY + 1, 1000):
        assert sorted(numbers_of(reservoir.sample(size))) == sorted(kept(reservoir))


def test_a_sample_takes_every_kept_event_equally_often():
    reservoir, counts = fill(Reservoir(FEW), FEW), np.zeros(FEW)
    for _ in range(TRIALS):
        counts[reservoir.sample(SLOTS).sparse["user"]] += 1
    assert chi_square(counts, TRIALS, SLOTS / FEW) < CHI_SQUARE


def test_a_sample_is_a_copy():
    reservoir = fill(Reservoir(CAPACITY))
    before = kept(reservoir)
    sample = reservoir.sample(CAPACITY)
    sample.sparse["user"][:] = 0
    sample.label.zero_()
    sample.bags["words"].values[:] = 0
    assert kept(reservoir) == before


def test_an_empty_reservoir_has_no_sample():
    with pytest.raises(ValueError, match="nothing was added"):
        Reservoir().sample(1)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ValueError, match=f"capacity must be positive; got {capacity}"):
        Reservoir(capacity)


def test_its_random_numbers_are_its_own():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that must not be read
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = fill(Reservoir(CAPACITY, seed=3), batch=4)
    sample = numbers_of(first.sample(3))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = fill(Reservoir(CAPACITY, seed=3), batch=4)
    assert kept(first) == kept(second)
    assert numbers_of(second.sample(3)) == sample


def test_another_seed_keeps_other_events():
    assert len({tuple(kept(fill(Reservoir(CAPACITY, seed)))) for seed in range(5)}) == 5


@pytest.mark.parametrize("seen", [0, 3, EVENTS])
def test_a_state_from_a_file_continues_to_the_last_bit(tmp_path, seen):
    reservoir = fill(Reservoir(CAPACITY, seed=5), events=seen, batch=4)
    checkpoint.save(reservoir.state_dict(), tmp_path / "state")
    restored = Reservoir(CAPACITY, seed=6)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for each in (reservoir, restored):
        each.add(numbered(100, 120))
    assert kept(reservoir) == kept(restored)
    assert (len(reservoir), reservoir.seen) == (len(restored), restored.seen)
    assert numbers_of(reservoir.sample(4)) == numbers_of(restored.sample(4))


def test_a_restored_reservoir_shares_no_memory_with_the_one_it_came_from():
    original, restored = fill(Reservoir(CAPACITY, seed=0)), Reservoir(CAPACITY, seed=0)
    restored.load_state_dict(original.state_dict())
    before = copy.copy(kept(original))
    restored.add(numbered(100, 200))
    assert kept(original) == before


def test_what_was_drawn_can_be_drawn_again():
    reservoir = fill(Reservoir(CAPACITY))
    state = reservoir.random_state()
    first = numbers_of(reservoir.sample(3))
    assert numbers_of(reservoir.sample(3)) != first
    reservoir.rewind(state)
    assert numbers_of(reservoir.sample(3)) == first


@pytest.mark.parametrize("weighted_first", [True, False])
def test_events_without_weights_have_one(weighted_first):
    reservoir, whole = Reservoir(1000), numbered(0, 9)
    bag = whole.bags["words"]
    plain = replace(whole, weight=None, bags={"words": bag._replace(weights=None)})
    for batch in (whole, plain) if weighted_first else (plain, whole):
        reservoir.add(batch)
    kept = reservoir.all()
    ones, own = [1.0] * 9, whole.weight.tolist()
    assert kept.weight.tolist() == (own + ones if weighted_first else ones + own)
    ones, own = [1.0] * len(bag.values), bag.weights.tolist()
    weights = kept.bags["words"].weights.tolist()
    assert weights == (own + ones if weighted_first else ones + own)


def test_bags_that_are_all_empty_or_all_of_one_length_are_kept():
    reservoir = Reservoir(100)
    for length in (0, 2, 2, 0):
        values = np.arange(3 * length)
        bag = Bag(values, np.arange(4) * length)
        reservoir.add(Batch({"user": np.arange(3)}, {"b": bag}, label=torch.zeros(3)))
    kept = reservoir.all().bags["b"]
    assert np.diff(kept.offsets).tolist() == [0] * 3 + [2] * 6 + [0] * 3
    assert kept.values.tolist() == [*range(6)] * 2
    assert kept.weights is None


@pytest.mark.parametrize("seen", [-1, 3, 2**60, 6.0, None])
def test_a_state_of_other_numbers_is_refused(seen):
    reservoir = fill(Reservoir(CAPACITY), events=5)
    state = reservoir.state_dict() | {"seen": seen}
    with pytest.raises(UserError, match=f"a reservoir of 6 holds 5 of {seen} events"):
        Reservoir(CAPACITY).load_state_dict(state)


def test_a_kept_bag_keeps_no_other_of_its_batch():
    reservoir = Reservoir(4)
    bag = Bag(np.arange(3000), np.arange(1001) * 3)
    reservoir.add(Batch({"user": np.arange(1000)}, {"b": bag}, label=torch.zeros(1000)))
    parts = reservoir._kept._columns["bag b"]
    assert [part.base for part in parts] == [None] * 4
