"""The same step as most people write it in PyTorch: whole tables, one row of work per event."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

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
    rows: Sequence[int], dims: Sequence[int], *, sparse: bool, compiled: bool = False
) -> Callable[[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor], None]:
    """Return a first-order step of Algorithm 1: (validation, training, features [B, F, C]).

    With dense gradients it is the textbook loop: backward through everything, one Adam over all
    of the model. With sparse ones it is a careful one: the validation pass asks for the gradients
    of the controllers alone, the training pass for none of theirs, and SparseAdam updates the
    tables.
    """
    model = PlainAutoEmb(rows, dims, sparse)
    tables = list(model.embedding.tables.parameters())
    controllers = list(model.controllers.parameters())
    others = [
        *model.embedding.projections.parameters(),
        *model.hidden.parameters(),
        *([] if sparse else tables),
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=0.001)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(tables, lr=0.001))
    controller_optimizer = torch.optim.Adam(controllers, lr=0.0001)
    forward = torch.compile(model) if compiled else model
    mix = torch.compile(model.mix) if compiled else model.mix

    def loss_of(batch: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
        ids, target = batch
        return (torch.sigmoid(forward(ids, weights)) - target).square().mean()

    def run(
        validation: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor], features: Tensor
    ) -> None:
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
