"""Optimiser steps of the rows of a table that a batch used: registered ops that change in place.

Each takes ``table`` [V, ...], the row numbers ``rows`` [U] of a :class:`~autoemb.ops.Plan`, the
gradient ``grad`` [U, ...] of each and what the optimiser keeps, which it changes too. Rows that
repeat the one before them are padding: they, and their gradients, are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import cpu, cuda
from autoemb.ops.lookup import check_range
from autoemb.ops.native import kernels_for
from autoemb.ops.plan import fill_padding

torch.library.define(
    "autoemb::update_sgd",
    "(Tensor(a!) table, Tensor rows, Tensor grad, float learning_rate) -> ()",
)
torch.library.define(
    "autoemb::update_adagrad",
    "(Tensor(a!) table, Tensor rows, Tensor grad, Tensor(b!) total, float learning_rate,"
    " float eps) -> ()",
)
torch.library.define(
    "autoemb::update_adam",
    "(Tensor(a!) table, Tensor rows, Tensor grad, Tensor(b!) average, Tensor(c!) square,"
    " Tensor(d!) steps, float learning_rate, float beta_1, float beta_2, float eps) -> ()",
)


def _reference_sgd(table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float) -> None:
    values = table.index_select(0, rows)
    table.index_copy_(0, rows, values.sub_(fill_padding(rows, grad), alpha=learning_rate))


def _reference_adagrad(
    table: Tensor, rows: Tensor, grad: Tensor, total: Tensor, learning_rate: float, eps: float
) -> None:
    grad = fill_padding(rows, grad)
    squares = grad.square()
    if total.shape != table.shape:  # one number a row
        squares = squares.flatten(1).mean(1)
    sums = total.index_select(0, rows)
    sums += squares.view_as(sums)
    total.index_copy_(0, rows, sums)
    values = table.index_select(0, rows)
    table.index_copy_(0, rows, values.addcdiv_(grad, sums.sqrt().add_(eps), value=-learning_rate))


def _reference_adam(
    table: Tensor,
    rows: Tensor,
    grad: Tensor,
    average: Tensor,
    square: Tensor,
    steps: Tensor,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    eps: float,
) -> None:
    grad = fill_padding(rows, grad)
    new_steps = steps.index_select(0, rows).add_(1)
    new_average = average.index_select(0, rows).lerp_(grad, 1 - beta_1)
    new_square = square.index_select(0, rows).mul_(beta_2).addcmul_(grad, grad, value=1 - beta_2)
    exact = new_steps.to(torch.float64)
    step_size = (learning_rate / (1 - beta_1**exact)).to(table.dtype)
    correction = (1 - beta_2**exact).sqrt().to(table.dtype)
    denominator = (new_square.sqrt() / correction).add_(eps)
    values = table.index_select(0, rows).sub_(new_average / denominator * step_size)
    pairs = (table, values), (average, new_average), (square, new_square), (steps, new_steps)
    for whole, part in pairs:
        whole.index_copy_(0, rows, part)


def _register(
    name: str,
    reference: Callable[..., None],
    on_cpu: Callable[..., None],
    on_cuda: Callable[..., None],
) -> None:
    def update(table: Tensor, rows: Tensor, grad: Tensor, *rest: Any) -> None:
        # No kernels take the tensors without values that torch.compile traces with.
        match None if table.is_meta else kernels_for("auto", [table], grad):
            case "cpu":
                on_cpu(table, rows, grad, *rest)
            case "cuda":
                on_cuda(cuda.kernels, table, rows, grad, *rest)
            case None:
                if table.device.type == cuda.DEVICE:  # a CPU looks by itself before it writes
                    check_range(rows, len(table), None)
                reference(table, rows, grad, *rest)

    torch.library.impl(f"autoemb::{name}", "CompositeExplicitAutograd", update)


_register("update_sgd", _reference_sgd, cpu.update_sgd, cuda.update_sgd)
_register("update_adagrad", _reference_adagrad, cpu.update_adagrad, cuda.update_adagrad)
_register("update_adam", _reference_adam, cpu.update_adam, cuda.update_adam)

sgd = torch.ops.autoemb.update_sgd.default
adagrad = torch.ops.autoemb.update_adagrad.default
adam = torch.ops.autoemb.update_adam.default
