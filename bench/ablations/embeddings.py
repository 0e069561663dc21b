"""Other normalisations and a size "0", in plain PyTorch: what the package does not offer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoemb import SoftEmbedding
from autoemb.ops.sizes import size_slices


class PlainEmbedding(SoftEmbedding):
    """SoftEmbedding with a normalisation of its own; a subclass gives :meth:`normalise`."""

    def normalise(
        self, z: Tensor, mean: Tensor, variance: Tensor, running: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return z [U, D] normalised, from the batch's statistics [D] and the running ones."""
        raise NotImplementedError

    def _op(self, tables: slice, positions: Tensor, weights: Tensor) -> Tensor:
        numbers = range(len(self.row_tables))[tables]
        columns = [self._table(f, positions[:, k], weights[:, k]) for k, f in enumerate(numbers)]
        if self.training:
            self.num_batches_tracked[tables] += 1
        return torch.stack(columns, 1)

    def _table(self, f: int, ids: Tensor, weights: Tensor) -> Tensor:
        distinct, inverse, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        rows = functional.embedding(distinct, self.tables[f])
        share = (counts / counts.sum()).unsqueeze(1)
        output = torch.zeros(())
        for n, columns in enumerate(size_slices(self.embedding_dims)):
            z = torch.addmm(self.bias[f, n], rows[:, columns], self.projection[f, :, columns].t())
            mean = (share * z).sum(0)
            variance = (share * (z - mean).square()).sum(0)
            running = self.running_mean[f, n], self.running_var[f, n]
            y = self.normalise(z, mean, variance, running)
            if self.training:
                self._follow(f, n, mean.detach(), variance.detach())
            output = output + weights[:, n : n + 1] * torch.tanh(y)[inverse]
        return output / len(self.embedding_dims) if self.average else output

    @torch.no_grad()
    def _follow(self, f: int, n: int, mean: Tensor, variance: Tensor) -> None:
        mean, variance = self.followed(f, n, mean, variance)
        self.running_mean[f, n].copy_(mean)
        self.running_var[f, n].copy_(variance)

    @torch.no_grad()
    def followed(self, f: int, n: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the running statistics with those of a batch in them."""
        old_mean, old_variance = self.running_mean[f, n], self.running_var[f, n]
        k = self.momentum if self.num_batches_tracked[f, n] else 1.0
        step = mean - old_mean
        variance = variance + (1 - k) * step.square()
        return old_mean + k * step, old_variance + k * (variance - old_variance)


class Renormalised(PlainEmbedding):
    """Batch renormalisation (Ioffe 2017) with the running statistics, without limits on r and d."""

    def normalise(
        self, z: Tensor, mean: Tensor, variance: Tensor, running: tuple[Tensor, Tensor]
    ) -> Tensor:
        long = (running[1] + self.eps).sqrt()
        r = ((variance + self.eps).sqrt() / long).detach()
        d = ((mean - running[0]) / long).detach()
        return (z - mean) * torch.rsqrt(variance + self.eps) * r + d


class PastAndPresent(PlainEmbedding):
    """Running statistics that hold the batch itself already, as constants."""

    def _table(self, f: int, ids: Tensor, weights: Tensor) -> Tensor:
        self._now = f
        self._size = 0
        return super()._table(f, ids, weights)

    def normalise(
        self, z: Tensor, mean: Tensor, variance: Tensor, running: tuple[Tensor, Tensor]
    ) -> Tensor:
        mean, variance = self.followed(self._now, self._size, mean.detach(), variance.detach())
        self._size += 1
        return (z - mean) * torch.rsqrt(variance + self.eps)


class WithSizeZero(SoftEmbedding):
    """One more choice: a vector that all ids of a table share, in the place of the first size.

    Its rows of width ``embedding_dims[0]`` are there and not used.
    """

    def __init__(self, num_embeddings: Any, embedding_dims: Any, **options: Any) -> None:
        super().__init__(num_embeddings, embedding_dims, **options)
        self.shared = nn.Parameter(torch.zeros(len(num_embeddings), self.output_dim))

    def _op(self, tables: slice, positions: Tensor, weights: Tensor) -> Tensor:
        first = weights[..., :1]
        others = torch.cat([torch.zeros_like(first), weights[..., 1:]], -1)
        scale = 1 / len(self.embedding_dims) if self.average else 1.0
        return super()._op(tables, positions, others) + scale * first * self.shared[tables]
