"""Embeddings whose ids own rows only in the sizes that they were granted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb.batch import Bag
from autoemb.nn.arena import Arena
from autoemb.nn.draws import Keys, normal_rows, salted
from autoemb.nn.inputs import by_name
from autoemb.nn.logical import LogicalState
from autoemb.nn.places import InPlay, find_rows
from autoemb.nn.reading import Reading, check_id_columns, check_named
from autoemb.nn.rows import RowModule, in_play
from autoemb.nn.soft import Mix
from autoemb.ops import distinct
from autoemb.optim import RowOptimizer

#: Takes back what :meth:`Granted.assign` did.
Undo = Callable[[], object]


class Granted(LogicalState, RowModule):
    """What embeddings have in common whose ids own some sizes and not others.

    Every size of a table keeps its rows in an :class:`autoemb.nn.arena.Arena`. All ids without a
    row share the first one, which is zero and stays so. (A shared row that learns, and is copied,
    did worse: bursts of one newcomer after the other drag it about.) What an id is granted is drawn
    from its key: from zeros the log loss of nycflights13 is .4674 instead of .4656, that of globo
    .5886 instead of .5879 (seed 0). So the op sees no difference between rows owned and shared. A
    mix is shared out among the sizes that an id owns.

    Attributes
    ----------
    nested : bool
        Whether a size holds those below it, so that an id owns the row of one alone.

    Notes
    -----
    It stays on the CPU: which rows a batch updates depends on its data, which a GPU would have to
    tell the host.

    The ``state_dict`` has ``slots.{f}`` and ``arenas.{f}.{n}`` in the place of tables. Arenas take
    the lengths that are loaded.
    """

    reading: Reading
    embedding_dims: tuple[int, ...]
    init_std: float
    nested: bool

    def register_tables(self, num_embeddings: Sequence[int], **options: Any) -> None:
        """Make empty tables, an arena for each size, and the slots of ids."""
        dims = self.embedding_dims
        for f, table in enumerate(self.reading.tables):
            # What stands in a trainer's place for the rows in play.
            self.register_rows(f"table_{f}", table, torch.empty(0, self.row_width, **options))
        # No buffers: a trainer copies those in every virtual pass.
        self._slots = [self.new_slots(ids) for ids in num_embeddings]
        self._arenas = [[Arena(width, **options) for width in dims] for _ in num_embeddings]
        self.arenas = nn.ModuleList(arena for own in self._arenas for arena in own)

    @property
    def row_width(self) -> int:
        """Floats of a row in play."""
        raise NotImplementedError

    def new_slots(self, ids: int) -> Tensor:
        """Return the slots of ids that own nothing, an integer or several for each."""
        raise NotImplementedError

    def owned(self, number: int, rows: Tensor | slice) -> Tensor:
        """Return which sizes ids own [U, N], bool."""
        raise NotImplementedError

    def places(self, number: int, size: int) -> Tensor:
        """Return all ids' rows in the arena of a size [V]; 0 is the shared one."""
        raise NotImplementedError

    def assign(
        self,
        number: int,
        ids: Tensor,
        wanted: Tensor,
        optimizer: RowOptimizer | None = None,
        keys: Keys | None = None,
    ) -> Undo:
        """Let ids own the sizes that are wanted, and no others.

        Parameters
        ----------
        number : int
            Of the table, in the order of the features.
        ids : Tensor[U], int64
            Distinct.
        wanted : Tensor[U, N], bool
        optimizer : RowOptimizer, optional
            Of the arenas' rows: what it keeps of them goes the way of the rows.
        keys : array [U], uint64, optional
            Of the ids (:mod:`autoemb.nn.draws`), by which what they are granted is drawn; without
            them it is zero.

        Returns
        -------
        callable
            Takes it back, if all that came later was taken back.
        """
        raise NotImplementedError

    def drawn(self, number: int, keys: Keys) -> Tensor:
        """Return what ids start with [U, S], before they are granted it."""
        like = self.arena(number, 0).rows.detach()
        keys = salted(keys, f"table_{number}")
        return normal_rows(keys, self.row_width, self.init_std, like)

    def slots(self, number: int) -> Tensor:
        """Return where the rows of a table's ids are [V, ...]; 0 of those that own none."""
        return self._slots[number]

    def arena(self, number: int, size: int) -> Arena:
        """Return the arena of a table and size."""
        return self._arenas[number][size]

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Return the zeros [U, S] that ids without rows share."""
        return self.table(name).new_zeros(len(keys), self.row_width)

    def begin_rows(self, name: str, rows: Tensor, keys: Keys) -> None:
        """Do nothing: new ids own nothing."""

    def num_rows(self, table: str) -> int:
        """Return how many ids the slots of a table have room for."""
        if self._in_play is not None:
            return len(self._in_play.rows[table])
        return len(self.slots(self.reading.tables.index(table)))

    def check_slots(self, number: int) -> None:
        """Raise ValueError for slots of a table that nobody can have."""

    @property
    def floats(self) -> int:
        """Floats of all rows that ids own."""
        return sum(
            self.arena(f, n).num_owned * self.embedding_dims[n] for f, n in self.each_arena()
        )

    @property
    def capacity(self) -> int:
        """Floats of all arenas, free and shared rows included."""
        return sum(self.arena(*place).rows.numel() for place in self.each_arena())

    @property
    def slot_bytes(self) -> int:
        """Bytes that tell of one id which rows it owns."""
        return self.new_slots(1).nbytes

    def each_arena(self) -> Iterator[tuple[int, int]]:
        """Yield number of the table and index of the size of every arena."""
        for f in range(len(self.row_tables)):
            for n in range(len(self.embedding_dims)):
                yield f, n

    @torch.no_grad()
    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Make room for so many ids of each table; new ones own nothing."""
        for number, table in enumerate(self.reading.tables):
            slots = self.slots(number)
            if (missing := num_rows.get(table, 0) - len(slots)) > 0:
                self._slots[number] = torch.cat([slots, self.new_slots(missing)])

    def cut(self, num_rows: Mapping[str, int]) -> None:
        """Make room for at most so many ids of each table; others keep what they own, unreachable.

        A state that is loaded next says who owns what.
        """
        for number, table in enumerate(self.reading.tables):
            slots = self.slots(number)
            self._slots[number] = slots[: num_rows.get(table, len(slots))].clone()

    def shared_by_copies(self) -> Sequence[object]:
        """Return slots and arenas: what a reader must see as it is now."""
        return self._slots, self._arenas, self.arenas, *self.arenas

    def number_of(self, name: str) -> int:
        """Return the number of a parameter's table."""
        return self.reading.tables.index(self.row_tables[name])

    def stored(self, name: str) -> list[nn.Parameter]:
        """Return the rows of the arenas of the parameter's table."""
        number = self.number_of(name)
        return [self.arena(number, size).rows for size in range(len(self.embedding_dims))]

    def forward(self, ids: Any, weights: Mix = None) -> Tensor:
        """Return the mixed embeddings, as they are without grants.

        ``weights`` of each event are taken without a trainer only.
        """
        if self._in_play is not None:
            shared = self._over_owned(weights, self._in_play.rows)
            mixed: Tensor = super().forward(ids, shared)
            return mixed
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
        with in_play([self], InPlay(rows)):
            output: Tensor = functional_call(self, tables, (ids, weights))
        return output

    def _known(self, table: str, ids: Tensor) -> Tensor:
        return find_rows(ids.unsqueeze(1), {table: self.num_rows(table)}).squeeze(1)

    def _over_owned_events(self, ids: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """Return the mix [B, F, N] of events, shared out among the sizes that each id owns."""
        if self.reading.shared:
            raise ValueError("features share tables or are bags: give the mix by table")
        columns = enumerate(ids.values())
        owned = torch.stack([self.owned(number, column) for number, column in columns], 1)
        return _shared_out(weights, owned)

    def _over_owned(self, weights: Mix, rows: Mapping[str, Tensor]) -> Mix:
        """Return the mix [U, N] of rows by table, shared out among the sizes that each id owns."""
        if weights is None:
            n = len(self.embedding_dims)
            like = self.arena(0, 0).rows
            weights = {t: like.new_full((len(own), n), 1 / n) for t, own in rows.items()}
        if isinstance(weights, Tensor):
            return weights
        shared = dict(weights)
        for number, table in enumerate(self.reading.tables):
            slots, own = self.slots(number), rows[table]
            known = own.clamp_max(len(slots) - 1)  # ids never seen have numbers past the last
            owned = self.owned(number, known) & (own == known).unsqueeze(1)
            shared[table] = _shared_out(weights[table], owned)
        return shared

    def _logical(self) -> Iterator[tuple[str, Tensor]]:
        for number in range(len(self.row_tables)):
            yield f"slots.{number}", self.slots(number)
            for size in range(len(self.embedding_dims)):
                yield f"arenas.{number}.{size}", self.arena(number, size).rows

    def _physical(self, prefix: str) -> set[str]:
        return {prefix + name for name in self.row_tables}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for number, size in self.each_arena():
            saved = state_dict.get(f"{prefix}arenas.{number}.{size}")
            arena = self.arena(number, size)
            if isinstance(saved, Tensor) and saved.shape[1:] == arena.rows.shape[1:]:
                arena.resize(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        for number, size in self.each_arena():
            try:  # a file may be broken
                self.check_slots(number)
                self.arena(number, size).own(self.places(number, size))
            except ValueError as error:
                table = self.reading.tables[number]
                raise ValueError(f"table {table!r}, size {size}: {error}") from None

    def extra_repr(self) -> str:
        """Describe ids and rows for ``repr``."""
        ids = [self.num_rows(table) for table in self.reading.tables]
        return f"{ids}, embedding_dims={self.embedding_dims}, floats={self.floats:,}"


def values_of(arena: Arena, rows: Tensor, optimizer: RowOptimizer | None) -> Undo:
    """Return what puts back the values of rows [U], and what an optimiser keeps of them."""
    values = arena.rows.detach()[rows]
    before = None if optimizer is None else optimizer.before(arena.rows, rows)

    def put_back() -> None:
        arena.rows.detach()[rows] = values
        if before is not None:
            before()

    return put_back


def take_back(changes: Sequence[Undo]) -> None:
    """Undo changes, the last one first."""
    for undo in reversed(changes):
        undo()


def _shared_out(weights: Tensor, owned: Tensor) -> Tensor:
    kept = weights * owned
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp_min(1e-20), weights)
