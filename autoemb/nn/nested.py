"""One row an id, of which every size is a prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoemb.nn.checks import check_arguments, check_mix
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.soft import Mix
from autoemb.ops import look_up
from autoemb.schema import Sparse


class NestedEmbedding(FixedEmbedding):
    """Embeddings of several sizes for every id that are prefixes of one row, mixed by weights.

    The weighted sum over sizes of AutoEmb (Eq. 5), where size n is the first d_n numbers of the
    id's row and zeros beyond them. So number j of the row counts as much as all sizes do that hold
    it::

        out[b, f, j] = row[ids[b, f], j] sum_{n: d_n > j} weights[b, f, n]

    An id needs no more memory than its widest size, and one that gets a wider size keeps what it
    has learnt.

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each table.
    embedding_dims : sequence of int, default (2, 16, 128)
        The N sizes, ascending. The last is the output width D.
    features, init_std, device, dtype
        As of :class:`autoemb.nn.FixedEmbedding`.

    Examples
    --------
    >>> import torch
    >>> embedding = NestedEmbedding([1000, 500], (1, 2))
    >>> ids = torch.tensor([[3, 7], [999, 0]])  # [B, F]
    >>> narrow = torch.tensor([1.0, 0.0]).expand(2, 2, 2)  # [B, F, N]
    >>> embedding(ids, narrow)[:, :, 1].abs().sum()
    tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        num_embeddings: Sequence[int],
        embedding_dims: Sequence[int] = (2, 16, 128),
        *,
        features: Sequence[str | Sparse] | None = None,
        init_std: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_arguments(num_embeddings, embedding_dims, init_std, "auto")
        self.embedding_dims = tuple(embedding_dims)
        super().__init__(
            num_embeddings,
            self.embedding_dims[-1],
            features=features,
            init_std=init_std,
            device=device,
            dtype=dtype,
        )

    def _shares(self, weights: Tensor) -> Tensor:
        """Return by how much each number of a row counts [..., D], of a mix [..., N]."""
        tails = weights.flip(-1).cumsum(-1).flip(-1)
        pairs = zip(self.embedding_dims, (0, *self.embedding_dims), strict=False)
        parts = [
            tails[..., n : n + 1].expand(*tails.shape[:-1], wide - narrow)
            for n, (wide, narrow) in enumerate(pairs)
        ]
        return torch.cat(parts, -1)

    def forward(self, ids: Any, weights: Mix = None) -> Tensor:
        """Return the mixed embeddings [B, F, D].

        Parameters
        ----------
        ids : Tensor[B, F], int64; Inputs; mapping; or KeyedJaggedTensor
            As of :meth:`autoemb.SoftEmbedding.forward`.
        weights : Tensor[B, F, N], or mapping of str to Tensor[V_f, N], optional
            Mix of the sizes: of each event and feature, or of each row by table. By default the
            widest size alone.

        Raises
        ------
        IndexError, RuntimeError, ValueError
            As of :meth:`autoemb.SoftEmbedding.forward`.
        """
        output = super().forward(ids, weights)
        if not isinstance(weights, Tensor):
            return output
        shape = len(output), self.num_features, len(self.embedding_dims)
        check_mix(weights, output.dtype, shape, self.reading.tables)
        return output * self._shares(weights)  # pooling a bag is linear

    def scaled(self, table: str, values: Tensor, weights: Any, rows: Tensor | None) -> Tensor:
        """Return rows [U, D] of a table times what their sizes count."""
        if not isinstance(weights, Mapping):
            return values
        shape = len(values), 1, len(self.embedding_dims)
        check_mix(weights, values.dtype, shape, [table])
        mix = weights[table] if rows is None else look_up(weights[table], rows)
        return values * self._shares(mix)
