"""What people write in PyTorch instead: layers of torch.nn, and a plain lookup as lower bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.ops import distinct
from bench.workloads import Batch

HIDDEN = 512


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.Tanh(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.Tanh(),
        nn.Linear(HIDDEN, outputs),
    )


class PlainSoftEmbedding(nn.Module):
    """``autoemb.SoftEmbedding`` from the layers of torch.nn."""

    def __init__(self, rows: Sequence[int], dims: Sequence[int], sparse: bool = False) -> None:
        super().__init__()
        pairs = [(r, d) for r in rows for d in dims]
        self.sparse = sparse
        self.fields, self.sizes = len(rows), len(dims)
        self.tables = nn.ModuleList(nn.Embedding(r, d, sparse=sparse) for r, d in pairs)
        self.projections = nn.ModuleList(nn.Linear(d, dims[-1]) for _, d in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(dims[-1], affine=False) for _ in pairs)

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        layers = zip(self.tables, self.projections, self.norms, strict=True)
        outputs = []
        for number, (table, projection, norm) in enumerate(layers):
            field, size = divmod(number, self.sizes)
            value = torch.tanh(norm(projection(table(ids[:, field]))))
            outputs.append(weights[:, field, size, None] * value)
        fields = [sum(outputs[f * self.sizes : (f + 1) * self.sizes]) for f in range(self.fields)]
        return torch.stack(fields, 1) / self.sizes


class PlainEmbedding(nn.Module):
    """One embedding of a fixed width for every id: nothing that mixes sizes can do less."""

    def __init__(self, rows: Sequence[int], width: int, sparse: bool = True) -> None:
        super().__init__()
        self.sparse = sparse
        self.tables = nn.ModuleList(nn.Embedding(r, width, sparse=sparse) for r in rows)

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        return torch.stack([t(ids[:, f]) for f, t in enumerate(self.tables)], 1)


class TableBatchedEmbedding(PlainEmbedding):
    """The same with a gradient of distinct rows, for a fused update of them.

    A stand-in for fbgemm's table-batched embedding: own gather, our row updates.
    """

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        columns = [_Gather.apply(ids[:, f], t.weight) for f, t in enumerate(self.tables)]
        return torch.stack(columns, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = table.shape
        return table.index_select(0, ids)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        plan = distinct(*ctx.saved_tensors)
        sums = grad.new_zeros(len(plan.rows), grad.shape[1]).index_add_(0, plan.inverse, grad)
        rows = plan.rows.unsqueeze(0)
        return None, torch.sparse_coo_tensor(rows, sums, ctx.shape, check_invariants=False)


class PlainAutoEmb(nn.Module):
    """Embeddings, hidden layers and controllers."""

    def __init__(self, rows: Sequence[int], dims: Sequence[int], sparse: bool) -> None:
        super().__init__()
        self.embedding = PlainSoftEmbedding(rows, dims, sparse)
        self.hidden = network(len(rows) * dims[-1], 1)
        self.controllers = nn.ModuleList(network(35 + len(dims), len(dims)) for _ in rows)

    def mix(self, features: Tensor) -> Tensor:
        weights = [c(features[:, f]).softmax(1) for f, c in enumerate(self.controllers)]
        return torch.stack(weights, 1)

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        return self.hidden(self.embedding(ids, weights).flatten(1)).squeeze(1)


def step(
    rows: Sequence[int],
    dims: Sequence[int],
    *,
    sparse: bool,
    compiled: dict[str, Any] | None = None,
    device: str = "cpu",
) -> Callable[[Batch, Batch, Tensor], None]:
    """Return a first-order step of Algorithm 1: (validation, training, features [B, F, C]).

    With dense gradients it is the textbook loop: backward through everything, one Adam over all
    of the model. With sparse ones it is a careful one: the validation pass asks for the gradients
    of the controllers alone, the training pass for none of theirs, and SparseAdam updates the
    tables. ``compiled`` holds options of torch.compile.
    """
    model = PlainAutoEmb(rows, dims, sparse).to(device)
    tables = list(model.embedding.tables.parameters())
    controllers = list(model.controllers.parameters())
    others = [
        *model.embedding.projections.parameters(),
        *model.hidden.parameters(),
        *([] if sparse else tables),
    ]
    options = {"capturable": True} if device != "cpu" else {}
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=0.001, **options)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(tables, lr=0.001))
    controller_optimizer = torch.optim.Adam(controllers, lr=0.0001, **options)
    forward = model if compiled is None else torch.compile(model, **compiled)
    mix = model.mix if compiled is None else torch.compile(model.mix, **compiled)

    def loss_of(batch: Batch, weights: Tensor) -> Tensor:
        return (torch.sigmoid(forward(batch.ids, weights)) - batch.label).square().mean()

    def run(validation: Batch, batch: Batch, features: Tensor) -> None:
        torch.compiler.cudagraph_mark_step_begin()  # for graphs that torch.compile makes
        loss = loss_of(validation, mix(features))
        if sparse:
            grads = torch.autograd.grad(loss, controllers)
            for parameter, grad in zip(controllers, grads, strict=True):
                parameter.grad = grad
        else:
            controller_optimizer.zero_grad()
            loss.backward()
        controller_optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.set_grad_enabled(not sparse):
            weights = mix(features)
        loss_of(batch, weights).backward()
        for optimizer in optimizers:
            optimizer.step()

    return run
