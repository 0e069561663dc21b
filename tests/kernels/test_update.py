"""Updates of distinct rows against autoemb.optim, which PyTorch's own optimisers vouch for."""

import pytest
import torch

from autoemb import optim
from autoemb.ops import cuda

NAMES = {"sgd": [], "adagrad": ["sum"], "adam": ["exp_avg", "exp_avg_sq", "step"]}


def make(name, rate):
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(40, 146, generator=generator))
    return optim.ROW_OPTIMIZERS[name]([table], lr=rate), table, generator


def apply(target, name, table, state, plan, grad, rate, group):
    extra = {
        "sgd": [],
        "adagrad": [group.get("eps")],
        "adam": [group.get("betas"), group.get("eps")],
    }
    update = getattr(cuda, f"update_{name}")
    rate = torch.tensor(rate, dtype=torch.float64, device=target.device)
    arguments = (x.to(target.device) for x in (*plan, grad))
    update(target.kernels, table, *arguments, rate, *state, *extra[name])


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_row_optimiser(target, name, assert_near):
    optimizer, table, generator = make(name, 0.01)
    actual = table.detach().clone().to(target.device)
    optimizer.update(table, torch.tensor([], dtype=torch.int64), torch.zeros(0, 146))
    state = [
        optimizer.state[table][key].clone().reshape(40, -1).squeeze(1).to(target.device)
        for key in NAMES[name]
    ]
    for step in range(5):  # rows come back, others only once
        rows = torch.randperm(40, generator=generator)[: 7 + step].sort()[0]
        grad = torch.randn(len(rows), 146, generator=generator)
        optimizer.update(table, rows, grad)

        padding = 12 - len(rows)
        padded = torch.cat([rows, rows[-1:].expand(padding)])
        counts = torch.cat([torch.ones_like(rows), torch.zeros(padding, dtype=torch.int64)])
        grads = torch.cat([grad, torch.full((padding, 146), torch.nan)])
        group = optimizer.param_groups[0]
        apply(target, name, actual, state, (padded, counts), grads, 0.01, group)
    assert_near(actual.cpu(), table.detach())
    for key, value in zip(NAMES[name], state, strict=True):
        expected = optimizer.state[table][key].reshape(value.shape)
        if key == "step":
            assert torch.equal(value.cpu(), expected)
        else:
            assert_near(value.cpu(), expected)


def test_other_rows_are_untouched(target):
    table = torch.full((6, 5), torch.nan, device=target.device)
    table[2] = 1
    plan = torch.tensor([2, 2]), torch.tensor([3, 0])
    apply(target, "sgd", table, [], plan, torch.ones(2, 5), 0.5, {})
    assert table[2].tolist() == [0.5] * 5
    assert table.isnan().sum() == 25


def test_rows_of_a_wider_table(target):
    wide = torch.zeros(6, 8, device=target.device)
    grad = torch.ones(1, 10)[:, ::2].contiguous()
    plan = torch.tensor([4]), torch.tensor([1])
    apply(target, "sgd", wide[:, 2:7], [], plan, grad, 1.0, {})
    assert wide[4].tolist() == [0, 0, -1, -1, -1, -1, -1, 0]


def test_a_rate_of_another_dtype_is_refused(target):
    table = torch.zeros(2, 2, device=target.device)
    rows = torch.zeros(1, dtype=torch.int64, device=target.device)
    with pytest.raises(RuntimeError, match=r"expected rate of dtype torch\.float64"):
        cuda.update_sgd(
            target.kernels, table, rows, rows, table[:1], torch.tensor(1.0, device=target.device)
        )
