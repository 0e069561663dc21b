"""As much of one row as an id was granted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from autoemb.nn.arena import Arena
from autoemb.nn.draws import Keys
from autoemb.nn.granted import Granted, Undo, take_back, values_of
from autoemb.nn.nested import NestedEmbedding
from autoemb.nn.rows import RowUpdate
from autoemb.optim import RowOptimizer


class GrantedNestedEmbedding(Granted, NestedEmbedding):
    """A :class:`NestedEmbedding` in which an id owns as much of its row as it is granted.

    An id that is granted more keeps what it has, and what the optimiser knows of it.

    Parameters
    ----------
    num_embeddings, embedding_dims, **options
        As of :class:`NestedEmbedding`.

    Examples
    --------
    >>> import torch
    >>> embedding = GrantedNestedEmbedding([1000, 500], (2, 4))
    >>> ids, wanted = torch.tensor([7, 9]), torch.tensor([[True, False], [True, True]])
    >>> take_back = embedding.assign(0, ids, wanted)
    >>> embedding.floats, embedding(torch.tensor([[7, 0], [8, 1]])).shape
    (6, torch.Size([2, 2, 4]))
    """

    nested = True

    @property
    def row_width(self) -> int:
        """The whole row."""
        return self.embedding_dims[-1]

    def new_slots(self, ids: int) -> Tensor:
        """Return of each id [ids] int32 its row times N and its size, in one number: none."""
        return torch.zeros(ids, dtype=torch.int32)

    def _size_and_place(self, number: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the size that ids own, if any, and their row in its arena; 0 if they own none."""
        slots = self.slots(number)[rows].long()
        sizes = len(self.embedding_dims)
        return slots % sizes, slots // sizes

    def owned(self, number: int, rows: Tensor | slice) -> Tensor:
        """Return which sizes ids own [U, N], bool: all up to one."""
        size, place = self._size_and_place(number, rows)
        up_to = torch.where(place > 0, size, -1)
        return torch.arange(len(self.embedding_dims)) <= up_to.unsqueeze(-1)

    def places(self, number: int, size: int) -> Tensor:
        """Return all ids' rows in the arena of a size [V]; 0 is the shared one."""
        own, place = self._size_and_place(number, slice(None))
        return torch.where(own == size, place, 0)

    def check_slots(self, number: int) -> None:
        """Raise ValueError for slots of a table that nobody can have: of a size without a row."""
        slots = self.slots(number)
        if bool(((slots > 0) & (slots < len(self.embedding_dims))).any()):
            raise ValueError("slots name a size without a row")

    @torch.no_grad()
    def assign(
        self,
        number: int,
        ids: Tensor,
        wanted: Tensor,
        optimizer: RowOptimizer | None = None,
        keys: Keys | None = None,
    ) -> Undo:
        """Let ids own the sizes that are wanted, up to the first that is not."""
        slots = self.slots(number)
        old = slots[ids]
        sizes = len(self.embedding_dims)
        before = torch.where(old > 0, old % sizes, -1)
        after = wanted.to(torch.int32).cumprod(1).sum(1) - 1
        undo: list[Undo] = []
        kept: list[tuple[Tensor, _Kept]] = []
        for n in range(sizes):
            (leaves,) = ((before == n) & (after != n)).nonzero(as_tuple=True)
            if len(leaves):
                arena, rows = self.arena(number, n), old[leaves].long() // sizes
                kept.append((leaves, _Kept(arena, rows, optimizer)))
                arena.release(rows)
                undo.append(partial(_undo_release, kept[-1][1]))
        new = torch.where(before == after, old, 0)
        for n in range(sizes):
            (comes,) = ((after == n) & (before != n)).nonzero(as_tuple=True)
            if len(comes):
                arena = self.arena(number, n)
                rows = arena.take(len(comes))
                new[comes] = (rows * sizes + n).to(new.dtype)
                undo.append(partial(arena.release, rows))
                if keys is not None:
                    drawn = self.drawn(number, keys[comes.numpy()])
                    arena.rows.detach()[rows] = drawn[:, : self.embedding_dims[n]]
                if optimizer is not None:
                    optimizer.reset(arena.rows, rows)
        slots[ids] = new
        for leaves, values in kept:
            to = after[leaves]
            for n in range(sizes):
                (here,) = (to == n).nonzero(as_tuple=True)
                if len(here):
                    rows = new[leaves[here]].long() // sizes
                    values.carry(self.arena(number, n), rows, here)

        def put_back() -> None:
            take_back(undo)
            self.slots(number)[ids] = old

        return put_back

    def rows_of_table(self, name: str, rows: Tensor) -> Tensor:
        """Return the rows [U, D] of ids, zero where they own nothing; differentiable."""
        number = self.number_of(name)
        found = self.arena(number, 0).rows.new_zeros(len(rows), self.row_width)
        for n, own, places in self._by_size(number, rows):
            values = self.arena(number, n).rows.index_select(0, places)
            wide = functional.pad(values, (0, self.row_width - values.shape[1]))
            found = found.index_copy(0, own, wide)
        return found

    def update_rows(self, name: str, rows: Tensor, grad: Tensor, update: RowUpdate) -> None:
        """Let an optimiser step on what ids own."""
        number = self.number_of(name)
        for n, own, places in self._by_size(number, rows):
            part = grad.index_select(0, own)[:, : self.embedding_dims[n]].contiguous()
            update(self.arena(number, n).rows, places, part)

    def _by_size(self, number: int, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each size, which of some ids own it, and their rows in its arena."""
        slots = self.slots(number).index_select(0, rows)
        sizes = len(self.embedding_dims)
        size = torch.where(slots > 0, slots % sizes, -1)
        for n in range(sizes):
            (own,) = (size == n).nonzero(as_tuple=True)
            if len(own):
                yield n, own, slots.index_select(0, own).long() // sizes


class _Kept:
    """Copies of rows of an arena, and of what an optimiser keeps of them."""

    def __init__(self, arena: Arena, rows: Tensor, optimizer: RowOptimizer | None) -> None:
        self.arena, self.rows, self.optimizer = arena, rows, optimizer
        self.values = arena.rows.detach()[rows]
        self.put_back = values_of(arena, rows, optimizer)
        self.kept = None if optimizer is None else optimizer.kept(arena.rows, rows)

    def carry(self, arena: Arena, rows: Tensor, which: Tensor) -> None:
        """Give some of the values to rows [U] of another arena, as far as these reach."""
        values = self.values[which]
        width = min(values.shape[1], arena.rows.shape[1])
        arena.rows.detach()[rows, :width] = values[:, :width]
        if self.optimizer is not None and self.kept is not None:
            kept = {name: value[which] for name, value in self.kept.items()}
            self.optimizer.carry(arena.rows, rows, kept)


def _undo_release(kept: _Kept) -> None:
    kept.arena.take_back(kept.rows)
    kept.put_back()
