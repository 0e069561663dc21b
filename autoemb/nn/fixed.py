"""The embedding of one fixed width that the soft one is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Bag
from autoemb.nn.draws import Keys, normal_rows
from autoemb.nn.inputs import by_name
from autoemb.nn.reading import Reading, check_id_columns, check_named, taken
from autoemb.nn.rows import RowModule
from autoemb.ops import look_up
from autoemb.schema import Sparse


class FixedEmbedding(RowModule):
    """One embedding of a fixed width for every id: the baseline FSE.

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each table.
    embedding_dim : int
        Width of every embedding.
    features : sequence of str or Sparse, optional
        As of :class:`autoemb.SoftEmbedding`.
    init_std : float, default 0.1
        Standard deviation of the rows of ids never seen.
    device, dtype
        As in :class:`torch.nn.Embedding`.

    Examples
    --------
    >>> import torch
    >>> FixedEmbedding([1000, 500], 146)(torch.tensor([[3, 7]])).shape
    torch.Size([1, 2, 146])
    """

    def __init__(
        self,
        num_embeddings: Sequence[int],
        embedding_dim: int,
        *,
        features: Sequence[str | Sparse] | None = None,
        init_std: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(features)
        self.reading = Reading(self.features, len(num_embeddings))
        self.output_dim, self.init_std = embedding_dim, init_std
        self.register_tables(num_embeddings, device=device, dtype=dtype)
        self._parameter = {table: name for name, table in self.row_tables.items()}

    def register_tables(self, num_embeddings: Sequence[int], **options: Any) -> None:
        """Make a parameter [V_f, width] for each table."""
        for f, (table, rows) in enumerate(zip(self.reading.tables, num_embeddings, strict=True)):
            self.register_rows(f"table_{f}", table, torch.empty(rows, self.output_dim, **options))

    @property
    def num_features(self) -> int:
        """F, the number of embeddings that an event gets."""
        return len(self.features) or len(self.row_tables)

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Draw rows [U, width] from a normal distribution."""
        return normal_rows(keys, self.output_dim, self.init_std, self.table(name))

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Draw rows from a normal distribution by PyTorch's random numbers."""
        rows.normal_(0, self.init_std)

    def forward(self, ids: Any, weights: Any = None) -> Tensor:
        """Return the embeddings [B, F, width] of ids; ``weights`` is not used.

        Parameters
        ----------
        ids : Tensor[B, F], int64; Inputs; mapping; or KeyedJaggedTensor
            As of :meth:`autoemb.SoftEmbedding.forward`.

        Raises
        ------
        IndexError
            For an id outside its table; names the table. On a GPU it gets zeros and a later call
            raises, or :func:`autoemb.ops.check_ids`.
        RuntimeError, ValueError
            For a wrong dtype or shape of ids, or a feature that is missing or of another kind.
        """
        if isinstance(ids, Tensor):
            check_id_columns(ids, len(self.row_tables), self.features)
            columns = zip(self.reading.tables, ids.unbind(1), strict=True)
            return torch.stack([self._rows(table, part, weights) for table, part in columns], 1)
        parts = check_named(by_name(ids, self.features), self.features)
        pairs = zip(self.features, parts, strict=True)
        return torch.stack([self._embedded(feature, part, weights) for feature, part in pairs], 1)

    def scaled(self, table: str, values: Tensor, weights: Any, rows: Tensor | None) -> Tensor:
        """Return what values [U, width] of rows [U] count: themselves; None: of those in play."""
        return values

    def _rows(self, table: str, ids: Tensor, weights: Any) -> Tensor:
        """Return what each of some ids is embedded as [M, width]."""
        rows, values = self.positions(table, ids), self.table(self._parameter[table])
        if self._in_play is not None:  # once for each distinct id
            return look_up(self.scaled(table, values, weights, None), rows)
        return self.scaled(table, look_up(values, rows), weights, rows)

    def _embedded(self, feature: Sparse, part: Tensor | Bag, weights: Any) -> Tensor:
        if not isinstance(part, Bag):
            return self._rows(feature.table, part, weights)
        if self._in_play is None:  # copy no whole table for its gradient
            values = self._rows(feature.table, part.values, weights)
            own = torch.arange(len(values), device=values.device)
            return taken(feature, part, values, own)
        values = self.table(self._parameter[feature.table])
        values = self.scaled(feature.table, values, weights, None)
        return taken(feature, part, values, self.positions(feature.table, part.values))
