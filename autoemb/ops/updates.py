"""Optimiser steps of the rows of a table that a batch used: registered ops that change in place.

Each takes ``table`` [V, ...], the row numbers ``rows`` [U] of a :class:`~autoemb.ops.Plan`, the
gradient ``grad`` [U, ...] of each and what the optimiser keeps, which it changes too. Rows that
repeat the one before them are padding: they, and their gradients, are passed over.

A rule without kernels is written in PyTorch over what :func:`in_table` returns
(:mod:`autoemb.optim.ftrl`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoemb.ops import cpu, cuda
from autoemb.ops.lookup import NO_ROW, check_range
from autoemb.ops.native import has_cuda_kernels, kernels_for

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
torch.library.define("autoemb::checked_rows", "(Tensor rows, int num_rows) -> Tensor")


def _checked_rows(rows: Tensor, num_rows: int) -> Tensor:
    if has_cuda_kernels(rows.device):
        return cuda.rows_of(cuda.kernels, rows.unsqueeze(1), [num_rows], 0).squeeze(1)
    check_range(rows, num_rows, None)
    return rows.clone()  # an op must not return its input


torch.library.impl("autoemb::checked_rows", "CompositeExplicitAutograd", _checked_rows)
torch.library.register_fake("autoemb::checked_rows", lambda rows, _: rows.new_empty(rows.shape))


def in_table(table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a rule needs to write rows [U] of a plan without a value reaching the host.

    Parameters
    ----------
    table : Tensor[V, ...]
    rows : Tensor[U], int64
        Distinct, but for padding: those that repeat the one before them.

    Returns
    -------
    inside : Tensor[U], int64
        Rows to write. A row that the table has not is that of another place, as padding is.
    first : Tensor[U], int64
        Places of the gradients to take, so that all copies of a row get one value, in whatever
        order the device writes them.
    known : Tensor[], bool
        False if the table has none of the rows: ``inside`` is then any row, which must stay.

    Raises
    ------
    IndexError
        For a row that the table has not. Where CUDA kernels look, a later call raises it.

    Examples
    --------
    >>> in_table(torch.zeros(9, 2), torch.tensor([3, 7, 7]))
    (tensor([3, 7, 7]), tensor([0, 1, 1]), tensor(True))
    """
    checked = torch.ops.autoemb.checked_rows(rows, len(table))
    first = _unpadded(checked)
    inside = checked.index_select(0, first).clamp_max_(len(table) - 1)
    return inside, first, (checked != NO_ROW).any()


def _unpadded(rows: Tensor) -> Tensor:
    """Return for each row [U] the place of what it repeats: it, or the row before padding.

    Places without a row get that of a row, too, if there is any.
    """
    if len(rows) == 0:
        return rows
    begins = rows != NO_ROW
    begins[1:] &= rows[1:] != rows[:-1]
    places = torch.arange(len(rows), device=rows.device).masked_fill_(~begins, -1).cummax(0).values
    return torch.where(places < 0, begins.int().argmax(0), places)


def decayed(table: Tensor, rows: Tensor, grad: Tensor, weight_decay: float) -> Tensor:
    """Return gradients [U, ...] with ``weight_decay`` times the rows that they are of added.

    Examples
    --------
    >>> decayed(torch.ones(9, 1), torch.tensor([3, 7]), torch.tensor([[0.5], [0.25]]), 0.5)
    tensor([[1.0000],
            [0.7500]])
    """
    # A row that the table has not is for the rule to tell.
    values = table.index_select(0, rows.clamp(0, len(table) - 1))
    return grad.add(values, alpha=weight_decay)


def _reference_sgd(table: Tensor, rows: Tensor, grad: Tensor, learning_rate: float) -> None:
    grad = grad.index_select(0, _unpadded(rows))
    values = table.index_select(0, rows)
    table.index_copy_(0, rows, values.sub_(grad, alpha=learning_rate))


def _reference_adagrad(
    table: Tensor, rows: Tensor, grad: Tensor, total: Tensor, learning_rate: float, eps: float
) -> None:
    grad = grad.index_select(0, _unpadded(rows))
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
    grad = grad.index_select(0, _unpadded(rows))
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
                if not table.is_meta:
                    check_range(rows, len(table), None)
                reference(table, rows, grad, *rest)

    torch.library.impl(f"autoemb::{name}", "CompositeExplicitAutograd", update)


_register("update_sgd", _reference_sgd, cpu.update_sgd, cuda.update_sgd)
_register("update_adagrad", _reference_adagrad, cpu.update_adagrad, cuda.update_adagrad)
_register("update_adam", _reference_adam, cpu.update_adam, cuda.update_adam)

sgd = torch.ops.autoemb.update_sgd.default
adagrad = torch.ops.autoemb.update_adagrad.default
adam = torch.ops.autoemb.update_adam.default
