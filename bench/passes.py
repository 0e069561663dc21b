"""The passes of the op, over any module that takes (ids, weights): what CPU and GPU both time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoemb import SoftEmbedding
from autoemb.optim import OPTIMIZERS
from bench.rivals import TableBatchedEmbedding
from bench.workloads import batches

PASSES = ("forward", "forward+backward", "forward+backward+sgd", "forward+backward+adam")


class Inputs(NamedTuple):
    """One batch, and the gradient of a loss for the module's output."""

    ids: Tensor
    weights: Tensor
    grad: Tensor


def draw(
    rows: Sequence[int],
    order: str,
    size: int,
    count: int,
    *,
    sizes: int = 3,
    width: int = 128,
    device: str = "cpu",
) -> list[Inputs]:
    """Return ``count`` batches with weights [B, F, sizes] and gradients [B, F, width]."""
    shape, options = (size, len(rows)), {"device": device}
    options["generator"] = torch.Generator(device).manual_seed(0)
    drawn = []
    for batch in islice(batches(rows, order, size), count):
        weights = torch.rand(*shape, sizes, **options).softmax(2).requires_grad_()
        grad = torch.randn(*shape, width, **options)
        drawn.append(Inputs(batch.ids.to(device), weights, grad))
    return drawn


def make_pass(name: str, module: nn.Module) -> Callable[[Inputs], object]:
    """Return a pass as a function of inputs.

    Backward computes every gradient that a training pass asks for; an update changes the tables
    alone, whose optimiser is what this pass compares.
    """
    if name == "forward":

        def forward(inputs: Inputs) -> None:
            with torch.no_grad():
                module(inputs.ids, inputs.weights)

        return forward

    tables = (
        [*module.tables.parameters()] if isinstance(module.tables, nn.Module) else module.tables
    )
    dense = [p for p in module.parameters() if all(p is not table for table in tables)]

    def backward(inputs: Inputs) -> tuple[Tensor, ...]:
        output = module(inputs.ids, inputs.weights)
        leaves = [*tables, inputs.weights, *dense] if dense else tables
        return torch.autograd.grad(output, leaves, inputs.grad)

    if name == "forward+backward":
        return backward
    update = make_update(name.rsplit("+", 1)[1], module, tables)
    return lambda inputs: update(backward(inputs)[: len(tables)])


def make_update(
    optimizer: str, module: nn.Module, tables: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], None]:
    """Return what updates tables from their gradients.

    Ours takes the padded rows of its sparse gradients as they come. Rivals take torch.optim's:
    for sparse gradients SparseAdam, which sorts and sums them, for dense ones Adam over whole
    tables.
    """
    if isinstance(module, SoftEmbedding | TableBatchedEmbedding):
        rows = OPTIMIZERS[optimizer].rows(tables)

        def update_rows(grads: Sequence[Tensor]) -> None:
            for table, grad in zip(tables, grads, strict=True):
                rows.update(table, grad._indices()[0], grad._values())

        return update_rows
    options = {"capturable": True} if tables[0].is_cuda else {}
    whole: torch.optim.Optimizer
    if optimizer == "sgd":
        whole = torch.optim.SGD(tables, lr=0.001)
    elif module.sparse:
        whole = torch.optim.SparseAdam(tables, lr=0.001)
    else:
        whole = torch.optim.Adam(tables, lr=0.001, **options)

    def step(grads: Sequence[Tensor]) -> None:
        for table, grad in zip(tables, grads, strict=True):
            table.grad = grad
        whole.step()

    return step
