"""SoftEmbedding whose ids own rows only in the sizes that they were granted."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb.batch import Bag
from autoemb.nn.draws import Keys
from autoemb.nn.inputs import by_name
from autoemb.nn.places import InPlay, find_rows
from autoemb.nn.reading import check_id_columns, check_named
from autoemb.nn.rows import RowUpdate, in_play, replace_table
from autoemb.nn.soft import Mix, SoftEmbedding
from autoemb.ops import distinct
from autoemb.ops.sizes import size_slices

#: Rows an arena starts with; it grows by half.
_FIRST_ROWS = 64


class GrantedEmbedding(SoftEmbedding):
    """A :class:`SoftEmbedding` in which an id owns a row of a size only once it is granted one.

    Every size of a table keeps its rows in an arena of its own. All ids without a row share the
    first one, which is zero and stays so: what it is projected to is the bias, learnt from all who
    share it. A row that is granted starts as zero, too. (A shared row that learns, and is copied,
    did worse: bursts of one newcomer after the other drag it about.) So the op sees no difference
    between rows owned and shared. Weights are shared out among the sizes that an id owns.

    Parameters
    ----------
    num_embeddings, embedding_dims, **options
        As of :class:`SoftEmbedding`; not ``sparse``.

    Attributes
    ----------
    arena_0_0, arena_0_1, ... : Parameter[R, d_n]
        Rows of table f and size n.

    Notes
    -----
    It stays on the CPU: which rows a batch updates depends on its data, which a GPU would have to
    tell the host.

    The ``state_dict`` has ``slots.{f}`` and ``arenas.{f}.{n}`` in the place of ``tables.{f}.{n}``;
    the rest is that of :class:`SoftEmbedding`. Arenas take the lengths that are loaded.

    Examples
    --------
    >>> import torch
    >>> embedding = GrantedEmbedding([1000, 500], (2, 4), norm="running")
    >>> embedding.grant(0, torch.tensor([7, 9]), size=1)
    tensor([1, 2])
    >>> embedding.num_granted(0, 1), embedding.floats
    (2, 8)
    >>> weights = torch.full((2, 2, 2), 0.5)
    >>> embedding(torch.tensor([[7, 0], [8, 1]]), weights).shape
    torch.Size([2, 2, 4])
    """

    def register_tables(self, num_embeddings: Sequence[int], **options: Any) -> None:
        """Make empty tables, an arena for each size, and the slots of ids."""
        self._free: list[list[list[int]]] = []
        self._slots: list[Tensor] = []
        for f, (table, ids) in enumerate(zip(self.reading.tables, num_embeddings, strict=True)):
            # What stands in a trainer's place for the rows in play.
            self.register_rows(
                f"table_{f}", table, torch.empty(0, sum(self.embedding_dims), **options)
            )
            # No buffer: a trainer copies those in every virtual pass.
            self._slots.append(torch.zeros(ids, len(self.embedding_dims), dtype=torch.int32))
            for n, width in enumerate(self.embedding_dims):
                arena = torch.zeros(_FIRST_ROWS, width, **options)
                self.register_parameter(f"arena_{f}_{n}", nn.Parameter(arena))
            self._free.append([[*range(1, _FIRST_ROWS)] for _ in self.embedding_dims])

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Return the zeros [U, S] that ids without rows share."""
        return self.table(name).new_zeros(len(keys), sum(self.embedding_dims))

    def begin_rows(self, name: str, rows: Tensor, keys: Keys) -> None:
        """Do nothing: new ids own nothing."""

    def slots(self, number: int) -> Tensor:
        """Return each id's row in the arena of each size, [V_f, N] int32; 0 is the shared one."""
        return self._slots[number]

    def arena(self, number: int, size: int) -> nn.Parameter:
        """Return the arena [R, d_n] of a table and size."""
        return self.get_parameter(f"arena_{number}_{size}")

    def num_rows(self, table: str) -> int:
        """Return how many ids the slots of a table have room for."""
        if self._in_play is not None:
            return len(self._in_play.rows[table])
        return len(self.slots(self.reading.tables.index(table)))

    def num_granted(self, number: int, size: int) -> int:
        """Return how many ids own a row of a size."""
        return len(self.arena(number, size)) - 1 - len(self._free[number][size])

    @property
    def floats(self) -> int:
        """Floats of all rows that ids own."""
        return sum(self.num_granted(f, n) * self.embedding_dims[n] for f, n in self._arenas())

    @property
    def capacity(self) -> int:
        """Floats of all arenas, free and shared rows included."""
        return sum(self.arena(*place).numel() for place in self._arenas())

    def _arenas(self) -> Iterator[tuple[int, int]]:
        """Yield number of the table and index of the size of every arena."""
        yield from product(range(len(self.row_tables)), range(len(self.embedding_dims)))

    @torch.no_grad()
    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table; new ones own nothing."""
        for number, table in enumerate(self.reading.tables):
            slots = self.slots(number)
            if (missing := num_rows.get(table, 0) - len(slots)) > 0:
                new = slots.new_zeros(missing, slots.shape[1])
                self._slots[number] = torch.cat([slots, new])

    def cut(self, num_rows: Mapping[str, int]) -> None:
        """Make room for at most so many ids of each table; others keep what they own, unreachable.

        A state that is loaded next says who owns what.
        """
        for number, table in enumerate(self.reading.tables):
            slots = self.slots(number)
            self._slots[number] = slots[: num_rows.get(table, len(slots))].clone()

    @torch.no_grad()
    def grant(self, number: int, ids: Tensor, size: int) -> Tensor:
        """Give ids a row of a size each, zero at first.

        Parameters
        ----------
        number : int
            Of the table, in the order of the features.
        ids : Tensor[U], int64
            Distinct; without such a row.
        size : int
            Index of the size.

        Returns
        -------
        Tensor[U], int64
            Their rows of the arena: the lowest free ones.

        Raises
        ------
        ValueError
            For an id that has such a row already.
        """
        slots = self.slots(number)
        if bool(slots[ids, size].any()):
            table = self.reading.tables[number]
            raise ValueError(f"an id of table {table!r} has a row of size {size} already")
        free = self._free[number][size]
        if len(free) < len(ids):
            self._enlarge(number, size, len(ids) - len(free))
        arena = self.arena(number, size)
        rows = torch.tensor(
            [heapq.heappop(free) for _ in range(len(ids))], dtype=torch.int64, device=arena.device
        )
        arena[rows] = 0
        slots[ids, size] = rows.to(slots.dtype)
        return rows

    @torch.no_grad()
    def revoke(self, number: int, ids: Tensor, size: int) -> None:
        """Take the rows of a size from ids, which share the common one from now on.

        Raises
        ------
        ValueError
            For an id that has no such row.
        """
        slots = self.slots(number)
        rows = slots[ids, size]
        if not bool(rows.all()):
            table = self.reading.tables[number]
            raise ValueError(f"an id of table {table!r} has no row of size {size}")
        for row in rows.tolist():
            heapq.heappush(self._free[number][size], row)
        slots[ids, size] = 0

    @torch.no_grad()
    def give_back(self, number: int, ids: Tensor, size: int, rows: Tensor) -> None:
        """Take back what :meth:`revoke` did: ids [U] own free rows [U] of a size again."""
        taken = set(rows.tolist())
        free = [row for row in self._free[number][size] if row not in taken]
        heapq.heapify(free)
        self._free[number][size] = free
        self.slots(number)[ids, size] = rows.to(torch.int32)

    def _enlarge(self, number: int, size: int, missing: int) -> None:
        arena = self.arena(number, size)
        rows = len(arena)
        new = arena.new_zeros(max(missing, rows // 2), arena.shape[1])
        replace_table(arena, torch.cat([arena.detach(), new]))
        for row in range(rows, rows + len(new)):
            heapq.heappush(self._free[number][size], row)

    def shared_by_copies(self) -> Sequence[object]:
        """Return slots and free rows: what a reader must see as it is now."""
        return self._slots, self._free

    def _number(self, name: str) -> int:
        return self.reading.tables.index(self.row_tables[name])

    def stored(self, name: str) -> list[nn.Parameter]:
        """Return the arenas of the parameter's table."""
        number = self._number(name)
        return [self.arena(number, size) for size in range(len(self.embedding_dims))]

    def rows_of_table(self, name: str, rows: Tensor) -> Tensor:
        """Return the rows [U, S] of ids, owned or shared, sizes side by side; differentiable."""
        number = self._number(name)
        slots = self.slots(number).index_select(0, rows).long()
        parts = enumerate(slots.unbind(1))
        return torch.cat([self.arena(number, n).index_select(0, own) for n, own in parts], 1)

    def update_rows(self, name: str, rows: Tensor, grad: Tensor, update: RowUpdate) -> None:
        """Let an optimiser step on the rows that ids own; the shared one stays zero."""
        number = self._number(name)
        slots = self.slots(number).index_select(0, rows).long()
        for n, columns in enumerate(size_slices(self.embedding_dims)):
            own, part = slots[:, n] > 0, grad[:, columns]
            update(self.arena(number, n), slots[own, n], part[own])

    def forward(self, ids: Any, weights: Mix = None) -> Tensor:
        """Return the mixed embeddings, as :meth:`SoftEmbedding.forward` does.

        ``weights`` of each event are taken without a trainer only.
        """
        if self._in_play is not None:
            return super().forward(ids, self._over_owned(weights, self._in_play.rows))
        given: dict[str, list[Tensor]] = {table: [] for table in self.reading.tables}
        if isinstance(ids, Tensor):
            check_id_columns(ids, len(self.row_tables), self.features)
            for table, column in zip(self.reading.tables, ids.unbind(1), strict=True):
                given[table].append(column)
        else:
            parts = check_named(by_name(ids, self.features), self.features)
            for feature, part in zip(self.features, parts, strict=True):
                given[feature.table].append(part.values if isinstance(part, Bag) else part)
        known = {t: self._known(t, torch.cat(parts)) for t, parts in given.items()}
        rows = {table: distinct(own).rows for table, own in known.items()}
        if isinstance(weights, Tensor):
            weights = self._over_owned_events(known, weights)
        elif weights is not None:
            weights = {table: weights[table].index_select(0, own) for table, own in rows.items()}
        tables = {n: self.rows_of_table(n, rows[table]) for n, table in self.row_tables.items()}
        with in_play(self, InPlay(rows)):
            output: Tensor = functional_call(self, tables, (ids, weights))
        return output

    def _known(self, table: str, ids: Tensor) -> Tensor:
        return find_rows(ids.unsqueeze(1), {table: self.num_rows(table)}).squeeze(1)

    def _over_owned_events(self, ids: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """Return the mix [B, F, N] of events, shared out among the sizes that each id owns."""
        if self.reading.shared:
            raise ValueError("features share tables or are bags: give the mix by table")
        columns = enumerate(ids.values())
        owned = torch.stack([self.slots(number)[column] > 0 for number, column in columns], 1)
        return _shared_out(weights, owned)

    def _over_owned(self, weights: Mix, rows: Mapping[str, Tensor]) -> Mix:
        """Return the mix [U, N] of rows by table, shared out among the sizes that each id owns."""
        if weights is None:
            n = len(self.embedding_dims)
            weights = {t: self.projection.new_full((len(own), n), 1 / n) for t, own in rows.items()}
        if isinstance(weights, Tensor):
            return weights
        shared = dict(weights)
        for number, table in enumerate(self.reading.tables):
            slots, own = self.slots(number), rows[table]
            known = own.clamp_max(len(slots) - 1)  # ids never seen have numbers past the last
            owned = (slots.index_select(0, known) > 0) & (own == known).unsqueeze(1)
            shared[table] = _shared_out(weights[table], owned)
        return shared

    def _logical(self) -> Iterator[tuple[str, Tensor]]:
        for key, view in super()._logical():
            if not key.startswith("tables."):
                yield key, view
        for number in range(len(self.row_tables)):
            yield f"slots.{number}", self.slots(number)
            for size in range(len(self.embedding_dims)):
                yield f"arenas.{number}.{size}", self.arena(number, size)

    def _physical(self, prefix: str) -> set[str]:
        return super()._physical(prefix) | {f"{prefix}arena_{f}_{n}" for f, n in self._arenas()}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for number, size in self._arenas():
            saved = state_dict.get(f"{prefix}arenas.{number}.{size}")
            arena = self.arena(number, size)
            if isinstance(saved, Tensor) and saved.shape[1:] == arena.shape[1:]:
                replace_table(arena, arena.detach().new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._find_free()

    def _find_free(self) -> None:
        """Tell the free rows of each arena by the slots, which may come from a broken file."""
        for number, size in self._arenas():
            table, rows = self.reading.tables[number], len(self.arena(number, size))
            slots = self.slots(number)[:, size].long().cpu()
            if rows == 0 or bool(((slots < 0) | (slots >= rows)).any()):
                raise ValueError(f"table {table!r}: slots of size {size} exceed its {rows} rows")
            owners = torch.bincount(slots, minlength=rows)
            owners[0] = 1  # shared by all who own none
            if bool((owners > 1).any()):
                raise ValueError(f"table {table!r}: two ids own one row of size {size}")
            self._free[number][size] = (owners == 0).nonzero().flatten().tolist()

    def extra_repr(self) -> str:
        """Describe ids and rows for ``repr``."""
        ids = [self.num_rows(table) for table in self.reading.tables]
        return f"{ids}, embedding_dims={self.embedding_dims}, floats={self.floats:,}"


def _shared_out(weights: Tensor, owned: Tensor) -> Tensor:
    kept = weights * owned
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp_min(1e-20), weights)
