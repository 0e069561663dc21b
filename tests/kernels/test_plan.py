"""Distinct ids on the device against torch.unique: sorted by one block, and by a library."""

import pytest
import torch

from autoemb.ops import cuda

ROWS = [50, 3000, 2**45]


def draw_ids(batch, kind):
    generator = torch.Generator().manual_seed(batch)
    if kind == "same":
        return torch.tensor([7, 2999, 2**44 + 1]).expand(batch, 3)
    columns = [torch.randint(0, rows, (batch,), generator=generator) for rows in ROWS]
    if kind == "few":
        columns = [column[torch.arange(batch) % 3 % batch] for column in columns]
    wide = torch.zeros(batch, 6, dtype=torch.int64)
    wide[:, ::2] = torch.stack(columns, 1)
    return wide[:, ::2]  # strided


@pytest.fixture(params=["sorted here", "sorted by torch"])
def plan_of(request, target, monkeypatch):
    if request.param == "sorted by torch":
        monkeypatch.setattr(target.kernels, "MAX_SORTED", 0)

    def plan_of(ids, rows=ROWS):
        # Tables of this many rows would not fit: only their length is read.
        plan = cuda.distinct(target.kernels, ids.to(target.device), rows)
        return cuda.PaddedPlan(*(x.cpu() for x in plan))

    return plan_of


@pytest.mark.parametrize("kind", ["random", "few", "same"])
@pytest.mark.parametrize("batch", [1, 2, 31, 33, 500, 2048])
def test_equals_unique(plan_of, batch, kind):
    ids = draw_ids(batch, kind)
    plan = plan_of(ids)
    for f, column in enumerate(ids.unbind(1)):
        rows, inverse, counts = column.unique(return_inverse=True, return_counts=True)
        used = len(rows)
        assert plan.used[f] == used
        assert torch.equal(plan.rows[f], torch.cat([rows, rows[-1:].expand(batch - used)]))
        assert torch.equal(plan.inverse[:, f], inverse)
        assert torch.equal(plan.counts[f, :used], counts)
        assert not plan.counts[f, used:].any()
        assert torch.equal(plan.order[f], column.argsort(stable=True))
        assert torch.equal(plan.starts[f, 1 : used + 1], counts.cumsum(0))
        assert plan.starts[f, 0] == 0
        assert (plan.starts[f, used:] == batch).all()


def test_more_ids_than_a_block_sorts(plan_of):
    ids = draw_ids(5000, "random")
    plan = plan_of(ids)
    for f, column in enumerate(ids.unbind(1)):
        used = plan.used[f]
        assert torch.equal(plan.rows[f, :used], column.unique())
        assert torch.equal(plan.rows[f][plan.inverse[:, f]], column)


@pytest.mark.parametrize("bad", [-1, 50, 2**63 - 1, -(2**63)])
def test_ids_out_of_range_are_in_no_plan(plan_of, target, bad):
    ids = torch.tensor([4, bad, 9, 4, bad]).unsqueeze(1)
    plan = plan_of(ids, [50])
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match=rf"field 0: id {bad} is not in \[0, 49\]"):
        cuda.check_ids(target.device)
    assert plan.used.tolist() == [2]
    assert plan.rows.tolist() == [[4, 9, 9, 9, 9]]
    assert plan.counts.tolist() == [[2, 1, 0, 0, 0]]
    assert plan.starts.tolist() == [[0, 2, 3, 3, 3, 3]]
    assert plan.order[0, :3].tolist() == [0, 3, 2]
    assert sorted(plan.order[0, 3:].tolist()) == [1, 4]
    assert plan.inverse[:, 0].tolist() == [0, 0, 1, 0, 0]


def test_no_id_in_range(plan_of, target):
    plan = plan_of(torch.tensor([[-1], [70]]), [50])
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match="field 0"):
        cuda.check_ids(target.device)
    assert plan.used.tolist() == [0]
    assert not plan.rows.any()
    assert not plan.counts.any()
    assert not plan.starts.any()


def test_an_empty_batch(plan_of):
    plan = plan_of(torch.zeros(0, 2, dtype=torch.int64), [5, 6])
    assert plan.rows.shape == (2, 0)
    assert plan.used.tolist() == [0, 0]
