"""A row for each size that an id was granted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from autoemb.nn.draws import Keys
from autoemb.nn.granted import Granted, Undo, take_back, values_of
from autoemb.nn.rows import RowUpdate
from autoemb.nn.soft import SoftEmbedding
from autoemb.ops.sizes import size_slices
from autoemb.optim import RowOptimizer


class GrantedEmbedding(Granted, SoftEmbedding):
    """A :class:`SoftEmbedding` in which an id owns a row of a size only once it is granted one.

    What the shared row is projected to is the bias, learnt from all who share it.

    Parameters
    ----------
    num_embeddings, embedding_dims, **options
        As of :class:`SoftEmbedding`; not ``sparse``.

    Examples
    --------
    >>> import torch
    >>> embedding = GrantedEmbedding([1000, 500], (2, 4), norm="running")
    >>> wanted = torch.tensor([[False, True], [True, True]])
    >>> take_back = embedding.assign(0, torch.tensor([7, 9]), wanted)
    >>> embedding.owned(0, torch.tensor([7])), embedding.floats
    (tensor([[False,  True]]), 10)
    >>> weights = torch.full((2, 2, 2), 0.5)
    >>> embedding(torch.tensor([[7, 0], [8, 1]]), weights).shape
    torch.Size([2, 2, 4])
    """

    nested = False

    @property
    def row_width(self) -> int:
        """All sizes side by side."""
        return sum(self.embedding_dims)

    def new_slots(self, ids: int) -> Tensor:
        """Return the row of each size [ids, N] int32: none."""
        return torch.zeros(ids, len(self.embedding_dims), dtype=torch.int32)

    def owned(self, number: int, rows: Tensor | slice) -> Tensor:
        """Return which sizes ids own [U, N], bool."""
        return self.slots(number)[rows] > 0

    def places(self, number: int, size: int) -> Tensor:
        """Return all ids' rows in the arena of a size [V]; 0 is the shared one."""
        return self.slots(number)[:, size]

    @torch.no_grad()
    def assign(
        self,
        number: int,
        ids: Tensor,
        wanted: Tensor,
        optimizer: RowOptimizer | None = None,
        keys: Keys | None = None,
    ) -> Undo:
        """Let ids own the sizes that are wanted, and no others."""
        owned = self.owned(number, ids)
        undo: list[Undo] = []
        for size, lost in enumerate((owned & ~wanted).unbind(1)):  # first make room
            if bool(lost.any()):
                undo.append(self._revoke(number, ids[lost], size, optimizer))
        for size, gained in enumerate((wanted & ~owned).unbind(1)):
            if bool(gained.any()):
                own = None if keys is None else keys[gained.numpy()]
                undo.append(self._grant(number, ids[gained], size, optimizer, own))
        return partial(take_back, undo)

    def _grant(
        self,
        number: int,
        ids: Tensor,
        size: int,
        optimizer: RowOptimizer | None,
        keys: Keys | None,
    ) -> Undo:
        arena, slots = self.arena(number, size), self.slots(number)
        rows = arena.take(len(ids))
        if keys is not None:
            columns = size_slices(self.embedding_dims)[size]
            arena.rows.detach()[rows] = self.drawn(number, keys)[:, columns]
        slots[ids, size] = rows.to(slots.dtype)
        if optimizer is not None:
            optimizer.reset(arena.rows, rows)

        def undo() -> None:
            self.slots(number)[ids, size] = 0
            arena.release(rows)

        return undo

    def _revoke(self, number: int, ids: Tensor, size: int, optimizer: RowOptimizer | None) -> Undo:
        arena, slots = self.arena(number, size), self.slots(number)
        rows = slots[ids, size].long()
        put_back = values_of(arena, rows, optimizer)
        arena.release(rows)
        slots[ids, size] = 0

        def undo() -> None:
            arena.take_back(rows)
            self.slots(number)[ids, size] = rows.to(torch.int32)
            put_back()

        return undo

    def rows_of_table(self, name: str, rows: Tensor) -> Tensor:
        """Return the rows [U, S] of ids, owned or shared, sizes side by side; differentiable."""
        number = self.number_of(name)
        slots = self.slots(number).index_select(0, rows).long()
        parts = enumerate(slots.unbind(1))
        return torch.cat([self.arena(number, n).rows.index_select(0, own) for n, own in parts], 1)

    def update_rows(self, name: str, rows: Tensor, grad: Tensor, update: RowUpdate) -> None:
        """Let an optimiser step on the rows that ids own; the shared one stays zero."""
        number = self.number_of(name)
        slots = self.slots(number).index_select(0, rows).long()
        for n, columns in enumerate(size_slices(self.embedding_dims)):
            own, part = slots[:, n] > 0, grad[:, columns]
            update(self.arena(number, n).rows, slots[own, n], part[own])

    def _logical(self) -> Iterator[tuple[str, Tensor]]:
        for key, view in SoftEmbedding._logical(self):
            if not key.startswith("tables."):
                yield key, view
        yield from super()._logical()

    def _physical(self, prefix: str) -> set[str]:
        return super()._physical(prefix) | SoftEmbedding._physical(self, prefix)
