"""Counters of ids after a batch: padded plans against the loop over events."""

import sys

import pytest
import torch

from autoemb.ops import distinct, record
from autoemb.streaming.history import LOSS_DECAY

ROWS = 12


def counters():
    """A third of the ids were seen before."""
    count = torch.arange(ROWS) % 3
    last, mean = (torch.rand(ROWS, generator=torch.Generator().manual_seed(i)) for i in range(2))
    return [count, last * (count > 0), mean * (count > 0)]


@pytest.fixture
def both(monkeypatch):
    """Return a function that records a batch by a loop and by padded plans."""

    def run(ids, losses):
        loop, padded = counters(), counters()
        record(distinct(ids), losses, LOSS_DECAY, *loop)
        with monkeypatch.context() as patch:
            for name in ("plan", "record"):
                patch.setattr(sys.modules[f"autoemb.ops.{name}"], "is_padded", lambda device: True)
            record(distinct(ids), losses, LOSS_DECAY, *padded)
        return loop, padded

    return run


@pytest.mark.parametrize("batch", [0, 1, 2, 31, 33, 500])
@pytest.mark.parametrize("high", [1, 3, ROWS])
def test_a_sum_of_decayed_losses_is_the_moving_average(both, batch, high):
    random = torch.Generator().manual_seed(batch + high)
    loop, padded = both(
        torch.randint(high, (batch,), generator=random), torch.rand(batch, generator=random)
    )
    assert torch.equal(loop[0], padded[0])
    assert torch.equal(loop[1], padded[1])
    # The loop rounds to float32 once an event, the sum once a batch.
    torch.testing.assert_close(padded[2], loop[2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stays_with_its_id(both, bad):
    ids, losses = torch.tensor([5, 1, 5, 4, 1]), torch.tensor([0.5, bad, 0.25, 1.0, 0.5])
    loop, padded = both(ids, losses)
    for one, other in zip(loop, padded, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0, equal_nan=True)
    assert [i for i in range(ROWS) if not padded[2][i].isfinite()] == [1]
