"""Updates of distinct rows against the reference, which PyTorch's own optimisers vouch for."""

import pytest
import torch

from autoemb.ops import cuda
from autoemb.optim import OPTIMIZERS
from tests.samples import update_op

NAMES = {
    "sgd": [],
    "adagrad": ["sum"],
    "rowwise-adagrad": ["sum"],
    "adam": ["exp_avg", "exp_avg_sq", "step"],
}


def make(name, rate):
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(40, 146, generator=generator))
    return OPTIMIZERS[name].rows([table], lr=rate), table, generator


def apply(target, name, table, rows, grad, state, *hyperparameters):
    update = getattr(cuda, update_op(name))
    update(
        target.kernels,
        table,
        rows.to(target.device),
        grad.to(target.device),
        *state,
        *hyperparameters,
    )


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_row_optimiser(target, name, assert_near):
    optimizer, table, generator = make(name, 0.01)
    actual = table.detach().clone().to(target.device)
    optimizer.update(table, torch.tensor([], dtype=torch.int64), torch.zeros(0, 146))
    state = [optimizer.state[table][key].clone().to(target.device) for key in NAMES[name]]
    for step in range(5):  # rows come back, others only once
        rows = torch.randperm(40, generator=generator)[: 7 + step].sort()[0]
        grad = torch.randn(len(rows), 146, generator=generator)
        optimizer.update(table, rows, grad)

        padding = 12 - len(rows)
        padded = torch.cat([rows, rows[-1:].expand(padding)])
        grads = torch.cat([grad, torch.full((padding, 146), torch.nan)])
        group = optimizer.param_groups[0]
        values = (group[key] for key in ("lr", "betas", "eps") if key in group)
        flat = [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
        apply(target, name, actual, padded, grads, state, *flat)
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
    apply(target, "sgd", table, torch.tensor([2, 2]), torch.ones(2, 5), [], 0.5)
    assert table[2].tolist() == [0.5] * 5
    assert table.isnan().sum() == 25


def test_rows_of_a_wider_table(target):
    wide = torch.zeros(6, 8, device=target.device)
    apply(target, "sgd", wide[:, 2:7], torch.tensor([4]), torch.ones(1, 10)[:, ::2], [], 1.0)
    assert wide[4].tolist() == [0, 0, -1, -1, -1, -1, -1, 0]


@pytest.mark.parametrize("bad", [-1, 6])
def test_a_row_out_of_range_is_raised_later_and_touches_nothing(target, bad):
    table = torch.zeros(6, 5, device=target.device)
    apply(target, "sgd", table, torch.tensor([2, bad]), torch.ones(2, 5), [], 1.0)
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match=rf"out of range: row {bad} is not in \[0, 5\]"):
        cuda.check_ids(target.device)
    assert table.sum() == -5


@pytest.mark.parametrize(
    ("rows", "grad", "message"),
    [
        (torch.tensor([2], dtype=torch.int32), torch.ones(1, 5), r"expected rows of dtype"),
        (torch.tensor([2]), torch.ones(2, 5), r"expected grad of shape \[1, 5\]"),
        (torch.tensor([2]), torch.ones(1, 5).double(), r"expected grad of dtype"),
    ],
)
def test_what_kernels_would_misread_is_refused(target, rows, grad, message):
    table = torch.zeros(6, 5, device=target.device)
    with pytest.raises((RuntimeError, ValueError), match=message):
        apply(target, "sgd", table, rows, grad, [], 1.0)
    with pytest.raises(RuntimeError, match="each row in memory of its own"):
        apply(target, "sgd", table[:1].expand(6, 5), torch.tensor([2]), torch.ones(1, 5), [], 1.0)
