"""The embedding of one fixed width that the soft one is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoemb.nn.rows import RowModule
from autoemb.nn.soft import check_id_columns


class FixedEmbedding(RowModule):
    """One embedding of a fixed width for every id: the baseline FSE.

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each field's table.
    embedding_dim : int
        Width of every embedding.
    init_std : float, default 1.0
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
        init_std: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.output_dim, self.init_std = embedding_dim, init_std
        for f, rows in enumerate(num_embeddings):
            table = torch.empty(rows, embedding_dim, device=device, dtype=dtype)
            self.register_rows(f"table_{f}", f, table)

    @property
    def fields(self) -> int:
        """F, the number of fields."""
        return len(self.row_fields)

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Draw new rows from a normal distribution."""
        rows.normal_(0, self.init_std)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the embeddings [B, F, width] of ids [B, F]; ``weights`` is not used.

        Raises
        ------
        IndexError
            For an id outside its table; names the field. On a GPU it gets zeros and a later call
            raises, or :func:`autoemb.ops.check_ids`.
        RuntimeError, ValueError
            For a wrong dtype or shape of ids.
        """
        check_id_columns(ids, self.fields)
        columns = [self.lookup(name, ids[:, field]) for name, field in self.row_fields.items()]
        return torch.stack(columns, 1)
