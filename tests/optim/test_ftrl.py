"""FTRL-proximal against its paper's equations, number by number."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoemb.optim import Ftrl, RowFtrl

ROWS, WIDTH = 5, 3
OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "beta": 1.0},
    {"lr": 0.05, "beta": 0.0},
    {"lr": 0.1, "beta": 1.0, "l1": 0.3},
    {"lr": 0.2, "beta": 0.5, "l1": 0.1, "l2": 2.0},
    {"lr": 0.1, "beta": 0.0, "l2": 1.0},
    {"lr": 0.1, "beta": 1.0, "l1": 0.3, "l2": 0.5, "weight_decay": 0.3},
]


class Naive:
    """Algorithm 1 of McMahan et al. for one weight, which begins at ``w`` instead of at zero."""

    def __init__(self, w, lr, beta=1e-10, l1=0.0, l2=0.0, weight_decay=0.0):
        self.w, self.n, self.z = w, 0.0, None
        self.alpha, self.beta, self.l1, self.l2, self.decay = lr, beta, l1, l2, weight_decay

    def step(self, g):
        g += self.decay * self.w
        if g == 0 and self.n == 0:
            return
        if self.z is None:  # that whose weight is w
            self.z = -(self.beta / self.alpha + self.l2) * self.w
            self.z -= math.copysign(self.l1, self.w) if self.w else 0
        sigma = (math.sqrt(self.n + g * g) - math.sqrt(self.n)) / self.alpha
        self.z += g - sigma * self.w
        self.n += g * g
        if abs(self.z) <= self.l1:
            self.w = 0.0
        else:
            rate = (self.beta + math.sqrt(self.n)) / self.alpha + self.l2
            self.w = -(self.z - math.copysign(self.l1, self.z)) / rate


def new_table():
    table = torch.randn(
        ROWS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    table[2, 1] = 0  # a weight that begins at zero
    return nn.Parameter(table)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    schedule=st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("options", OPTIONS)
def test_every_number_follows_the_papers_equations(options, assert_near, schedule, seed):
    table = new_table()
    optimizer = RowFtrl([table], **{"beta": 1e-10} | options)
    naive = [[Naive(w, **options) for w in row] for row in table.tolist()]
    random = torch.Generator().manual_seed(seed)
    for step in schedule:
        rows = torch.tensor(sorted(step), dtype=torch.int64)
        scale = 10.0 ** torch.randint(-3, 2, (len(rows), 1), generator=random)
        grad = torch.randn(len(rows), WIDTH, generator=random, dtype=torch.float64) * scale
        grad[:, 0] *= torch.rand(len(rows), generator=random) < 0.5  # some are exactly zero
        optimizer.update(table, rows, grad)
        for row, gradients in zip(rows.tolist(), grad.tolist(), strict=True):
            for weight, g in zip(naive[row], gradients, strict=True):
                weight.step(g)
    expected = torch.tensor([[weight.w for weight in row] for row in naive], dtype=torch.float64)
    assert_near(table, expected)
    assert torch.equal(table == 0, expected == 0)
    assert_near(
        optimizer.state[table]["n"],
        torch.tensor([[weight.n for weight in row] for row in naive], dtype=torch.float64),
    )


def test_l1_makes_weights_zero_and_lets_them_return():
    weight = nn.Parameter(torch.tensor([0.05, 1.0]))
    optimizer = Ftrl([weight], lr=0.1, beta=1.0, l1=0.5)
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight[0] == 0
    assert 0.9 < weight[1] < 1
    for _ in range(3):
        weight.grad = -torch.ones(2)
        optimizer.step()
    assert weight[0] > 0


def test_a_rate_that_changes_moves_no_weight_by_itself():
    """With the paper's z a rate of a tenth would make a tenth of every weight."""
    table = nn.Parameter(torch.ones(2, WIDTH, dtype=torch.float64))
    optimizer = RowFtrl([table], lr=0.1)
    optimizer.update(table, torch.tensor([1]), torch.ones(1, WIDTH, dtype=torch.float64))
    before = table.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.update(table, torch.tensor([1]), torch.full((1, WIDTH), 1e-9, dtype=torch.float64))
    torch.testing.assert_close(table.detach(), before, rtol=0, atol=1e-10)


def test_a_gradient_whose_square_vanishes_moves_nothing():
    table = nn.Parameter(torch.ones(2, WIDTH))
    optimizer = RowFtrl([table], lr=0.1, beta=0.0)
    optimizer.update(table, torch.tensor([1]), torch.full((1, WIDTH), 1e-30))
    assert (table == 1).all()
    optimizer.update(table, torch.tensor([1]), torch.ones(1, WIDTH))
    torch.testing.assert_close(table[1].detach(), torch.full((WIDTH,), 0.9))
