"""The streaming counters on the device against the runtime's, to the last bit."""

import numpy as np
import pytest
import torch

from autoemb import runtime
from autoemb.ops import cuda


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("num_rows", [1, 5, 700])
def test_equals_the_runtime(target, num_rows, decay):
    generator = torch.Generator().manual_seed(num_rows)
    zeros = np.zeros(num_rows, dtype=np.float32)
    expected = np.zeros(num_rows, dtype=np.int64), zeros, zeros.copy()
    actual = [torch.from_numpy(x.copy()).to(target.device) for x in expected]
    for batch in (1, 31, 500):
        ids = torch.randint(0, num_rows, (batch, 2), generator=generator)
        loss = torch.rand(batch, generator=generator) ** 4 * 1e3
        runtime.record(ids[:, 1].contiguous().numpy(), loss.numpy(), decay, *expected)
        plan = cuda.distinct(target.kernels, ids.to(target.device), [num_rows] * 2)
        parts = plan.rows[1], plan.counts[1], plan.order[1], plan.starts[1]
        cuda.record(target.kernels, *parts, loss.to(target.device), decay, *actual)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.cpu(), torch.from_numpy(e))


def test_an_empty_batch(target):
    counters = [
        torch.zeros(3, dtype=t, device=target.device) for t in (torch.int64, *[torch.float32] * 2)
    ]
    ids = torch.zeros(0, 1, dtype=torch.int64, device=target.device)
    plan = cuda.distinct(target.kernels, ids, [3])
    parts = plan.rows[0], plan.counts[0], plan.order[0], plan.starts[0]
    cuda.record(target.kernels, *parts, counters[1][:0], 0.9, *counters)
    assert not counters[0].any()


def test_a_row_out_of_range_is_raised_later_and_counts_nothing(target):
    ids = torch.tensor([[1], [4], [1]], device=target.device)  # of a table that has five rows
    counters = [
        torch.zeros(3, dtype=t, device=target.device) for t in (torch.int64, *[torch.float32] * 2)
    ]
    plan = cuda.distinct(target.kernels, ids, [5])
    parts = plan.rows[0], plan.counts[0], plan.order[0], plan.starts[0]
    cuda.record(target.kernels, *parts, torch.ones(3, device=target.device), 0.9, *counters)
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match=r"out of range: row 4 is not in \[0, 2\]"):
        cuda.check_ids(target.device)
    assert counters[0].tolist() == [0, 2, 0]
