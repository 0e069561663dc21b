"""The reservoir: uniform, bounded, repeatable."""

import copy

import numpy as np
import pytest
import torch

from autoemb.bilevel import Batch
from autoemb.streaming import Reservoir, checkpoint

EVENTS, CAPACITY = 20, 6

# For what is uniform: so few events and so many trials that a share off by one event is noticed.
# CHI_SQUARE is the 99.9 % quantile at 7 degrees of freedom. The seeds are fixed: a test that
# passes once passes always.
FEW, SLOTS, TRIALS, CHI_SQUARE = 8, 3, 1500, 24.32


def numbered(start, end):
    """Events that carry their own number as user, item and target."""
    number = torch.arange(start, end)
    return Batch(torch.stack([number, number + 1000], 1), number.to(torch.float32))


def fill(reservoir, events=EVENTS, batch=1):
    for start in range(0, events, batch):
        reservoir.add(numbered(start, min(start + batch, events)))
    return reservoir


def kept(reservoir):
    """Return the numbers of the kept events, after a look at what belongs to each."""
    state = reservoir.state_dict()
    ids, target = state["ids"][: len(reservoir)], state["target"][: len(reservoir)]
    assert torch.equal(ids[:, 1], ids[:, 0] + 1000)
    assert torch.equal(target, ids[:, 0].to(target.dtype))
    return ids[:, 0].tolist()


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
    state = reservoir.state_dict()
    assert (len(state["ids"]), len(state["target"])) == (CAPACITY, CAPACITY)
    assert (len(reservoir), reservoir.seen) == (CAPACITY, 300)


def test_memory_is_taken_as_events_come():
    reservoir = fill(Reservoir(1_000_000), events=30, batch=3)
    assert len(reservoir.state_dict()["ids"]) <= 2 * 30


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
        numbers = sample.ids[:, 0].tolist()
        assert len({*numbers}) == 4
        assert {*numbers} <= {*kept(reservoir)}
        assert sample.target.tolist() == numbers
        assert (sample.ids.dtype, sample.target.dtype) == (torch.int64, torch.float32)
    for size in (CAPACITY, CAPACITY + 1, 1000):
        assert sorted(reservoir.sample(size).ids[:, 0].tolist()) == sorted(kept(reservoir))


def test_a_sample_takes_every_kept_event_equally_often():
    reservoir, counts = fill(Reservoir(FEW), FEW), np.zeros(FEW)
    for _ in range(TRIALS):
        counts[reservoir.sample(SLOTS).ids[:, 0]] += 1
    assert chi_square(counts, TRIALS, SLOTS / FEW) < CHI_SQUARE


def test_a_sample_is_a_copy():
    reservoir = fill(Reservoir(CAPACITY))
    before = kept(reservoir)
    sample = reservoir.sample(CAPACITY)
    sample.ids.zero_()
    sample.target.zero_()
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
    sample = first.sample(3).ids
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = fill(Reservoir(CAPACITY, seed=3), batch=4)
    assert kept(first) == kept(second)
    assert torch.equal(second.sample(3).ids, sample)


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
    assert torch.equal(reservoir.sample(4).ids, restored.sample(4).ids)


def test_a_restored_reservoir_shares_no_memory_with_the_one_it_came_from():
    original, restored = fill(Reservoir(CAPACITY, seed=0)), Reservoir(CAPACITY, seed=0)
    restored.load_state_dict(original.state_dict())
    before = copy.copy(kept(original))
    restored.add(numbered(100, 200))
    assert kept(original) == before
