"""Which ids own rows of which sizes while a stream runs, within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autoemb.nn.draws import Keys
from autoemb.nn.granted import Granted, take_back
from autoemb.ops import Plan
from autoemb.optim import RowOptimizer
from autoemb.streaming.owned import bytes_of_row

#: Events after which half of an id's traffic is forgotten.
HALF_LIFE = 2**17

#: Share of the budget that a new choice may fill; newcomers get the rest until the next one.
FILL = 0.9

#: What an id has is worth that much more than what it has not, so that rows do not flap.
LOYALTY = 1.25

#: A new choice for all ids is made after so many events for each id: its cost for each event is
#: then that of a sort, whatever the number of ids.
EVENTS_PER_ID = 1.0

#: The fixed width of the paper, and the bytes that a number of its rows takes with its Adagrad sum:
#: what shares are shares of. Of wider sizes, their sum.
FIXED_WIDTH, FIXED_BYTES = 146, 8

_NUMBERS = ("now", "ranked_at", "num_ids", "price", "limit")

#: Rows [U] by table -> the controller's mix [U, N] of each, if there is a controller.
MixOf = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor] | None]

#: (table, rows [U]) -> keys [U] of their ids (:mod:`autoemb.nn.draws`).
KeysOf = Callable[[str, Tensor], Keys]


class Grants:
    """Grant rows of an embedding by what they are worth, and take them back.

    Size n of an id is worth its traffic (events, of which half are forgotten after ``HALF_LIFE``
    others) times a share, and costs the bytes that it adds. The share is halved from size to size
    (``worth="traffic"``), what the controller gives to the size (``"controller"``), or the mean of
    both. Now and then all ids are ranked by worth per byte, and rows go to the first that fit into
    the budget. In between newcomers, and ids whose traffic has grown, get what is worth more than
    the best that was left out, while there is room.

    Parameters
    ----------
    embedding : Granted
    budget : float
        Up to 1: share of what rows of the paper's fixed width (:data:`FIXED_WIDTH`), and their
        Adagrad sums, would take; above, bytes. All that ids own counts, rows get what is left.
    worth : {"traffic", "controller", "both"}, default "traffic"
    mix_of : callable, optional
        What the controller gives.
    optimizer : RowOptimizer, optional
        Of the embedding's rows: what it keeps of them is counted, and goes their way.

    Examples
    --------
    >>> from autoemb.nn.granted_sizes import GrantedEmbedding
    >>> from autoemb.ops import distinct
    >>> embedding = GrantedEmbedding([4], (1, 2), features=["item_id"])
    >>> grants = Grants(embedding, 1000)
    >>> plan = distinct(torch.tensor([0, 0, 1]))
    >>> batch = {"num_ids": {"item_id": 2}, "events": 3, "beside": 990}
    >>> grants.update({"item_id": plan}, **batch)
    >>> embedding.owned(0, slice(2)), grants.limit  # ten bytes are two floats
    (tensor([[ True, False],
            [ True, False]]), 10)
    """

    traffic_bytes = 4  #: of each id

    def __init__(
        self,
        embedding: Granted,
        budget: float,
        *,
        worth: str = "traffic",
        mix_of: MixOf | None = None,
        optimizer: RowOptimizer | None = None,
    ) -> None:
        if not 0 < budget < math.inf:
            raise ValueError(f"budget must be a share in (0, 1], or bytes; got {budget}")
        self.embedding, self.budget, self.optimizer = embedding, budget, optimizer
        self.worth, self.mix_of = worth, mix_of
        tables = len(embedding.row_tables)
        #: log2 of each id's traffic, as if all of it came at event 0.
        self.traffic = [torch.zeros(0) for _ in range(tables)]
        self.now = 0
        self.ranked_at = 0
        self.num_ids = [0] * tables
        self.price = 0.0
        self.limit = 0  # bytes that rows may take, with what the optimiser keeps
        self._undo: list[Callable[[], object]] = []  # while an update is under way
        self._keys_of: KeysOf | None = None
        # Each size adds half as much as the one before (docs/export.md has what narrow rows lack).
        halves = 0.5 ** torch.arange(len(embedding.embedding_dims))
        self._prior = halves / halves.sum()
        self._parts = self._bytes_of_sizes()
        self._costs = self._parts.sum(1)

    @property
    def whole(self) -> int:
        """Bytes of the budget: of so many ids as there are, where it is a share."""
        if self.budget > 1:
            return int(self.budget)
        width = max(FIXED_WIDTH, sum(self.embedding.embedding_dims))
        return int(self.budget * FIXED_BYTES * width * sum(self.num_ids))

    def _bytes_of_sizes(self) -> Tensor:
        """Return the bytes that an id owns more with each size [N], and what is kept of them."""
        embedding = self.embedding
        arenas = [embedding.arena(0, n) for n in range(len(embedding.embedding_dims))]
        whole = [bytes_of_row(arena.rows.detach()[:1], self.optimizer) for arena in arenas]
        costs = torch.tensor(whole, dtype=torch.float64)
        if embedding.nested:  # a size holds those below it
            costs[1:] -= costs[:-1].clone()
        return costs

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the rows that ids own, and of what the optimiser keeps of them."""
        embedding = self.embedding
        owners = [
            [embedding.arena(f, n).num_owned for n in range(len(self._costs))]
            for f in range(len(embedding.row_tables))
        ]
        counts = torch.tensor(owners, dtype=torch.float64).sum(0)
        if embedding.nested:
            counts = counts.flip(0).cumsum(0).flip(0)
        rows, kept = (counts @ self._parts).tolist()
        return int(rows), int(kept)

    @torch.no_grad()
    def update(
        self,
        plans: Mapping[str, Plan],
        num_ids: Mapping[str, int],
        events: int,
        beside: int = 0,
        keys_of: KeysOf | None = None,
    ) -> None:
        """Take in the ids of a batch, once it is learnt, and grant and revoke rows: all or nothing.

        Parameters
        ----------
        plans : mapping of str to Plan
            Distinct ids of the batch, by table.
        num_ids : mapping of str to int
            Ids seen so far, by table.
        events : int
            Of the batch.
        beside : int, default 0
            Bytes that ids own beside rows.
        keys_of : callable, optional
            By which numbers that are granted are drawn; they are zeros without.
        """
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        self._undo, self._keys_of = [partial(vars(self).update, numbers)], keys_of
        try:
            self._update(plans, num_ids, events, beside)
        except BaseException:
            take_back(self._undo)
            raise
        finally:
            self._undo, self._keys_of = [], None

    def _update(
        self, plans: Mapping[str, Plan], num_ids: Mapping[str, int], events: int, beside: int
    ) -> None:
        tables = self.embedding.reading.tables
        self.num_ids = [num_ids[table] for table in tables]
        self.now += events
        self.limit = max(0, self.whole - beside)
        for field, table in enumerate(tables):
            self._count(field, plans[table])
        due = self.now - self.ranked_at >= EVENTS_PER_ID * sum(self.num_ids)
        if due or sum(self.bytes()) > self.limit:
            self._rank_all()
            self.ranked_at = self.now
        self._grant_some({table: plans[table].rows for table in tables})

    def _count(self, field: int, plan: Plan) -> None:
        # As long as the slots, which grow by doubling: no copy of everything at each batch.
        own = self.traffic[field]
        missing = len(self.embedding.slots(field)) - len(own)
        if missing > 0:
            own = torch.cat([own, own.new_full((missing,), -torch.inf)])
            self.traffic[field] = own
        rows = plan.rows
        self._undo.append(partial(own.index_copy_, 0, rows, own[rows]))
        traffic = self._traffic(field, rows) + plan.counts
        own[rows] = (traffic.log2() + self.now / HALF_LIFE).to(own.dtype)

    def _traffic(self, field: int, rows: Tensor | slice) -> Tensor:
        return torch.exp2(self.traffic[field][rows].double() - self.now / HALF_LIFE)

    def _worth(self, rows: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return for each table worth per byte [U, N] and whether it is owned [U, N]."""
        mix = None
        if self.worth != "traffic" and self.mix_of is not None:
            mix = self.mix_of(rows)
        found = []
        for field, (table, own) in enumerate(rows.items()):
            value = self._prior
            if mix is not None:
                value = mix[table].double()
                if self.embedding.nested:  # a size is needed by those above it
                    value = value.flip(1).cumsum(1).flip(1)
                if self.worth == "both":
                    value = (value + self._prior) / 2
            owned = self.embedding.owned(field, own)
            worth = self._traffic(field, own).unsqueeze(1) * value / self._costs
            found.append((torch.where(owned, LOYALTY * worth, worth), owned))
        return found

    def _rank_all(self) -> None:
        tables = self.embedding.reading.tables
        pairs = self._worth({t: torch.arange(n) for t, n in zip(tables, self.num_ids, strict=True)})
        worth = torch.cat([w.flatten() for w, _ in pairs])
        costs = torch.cat([self._costs.expand_as(w).flatten() for w, _ in pairs])
        order = torch.argsort(worth, descending=True, stable=True)
        wanted = torch.zeros(len(worth), dtype=torch.bool)
        wanted[order] = costs[order].cumsum(0) <= FILL * self.limit
        wanted &= worth > 0
        left_out = worth[~wanted]
        self.price = float(left_out.max()) if len(left_out) else 0.0
        parts = torch.split(wanted, [w.numel() for w, _ in pairs])
        changes = [part.view_as(has) for (_, has), part in zip(pairs, parts, strict=True)]
        for narrows in (True, False):  # first make room
            for field, ((_, has), want) in enumerate(zip(pairs, changes, strict=True)):
                less = (has & ~want).any(1)
                ids = (less if narrows else ~less & (want & ~has).any(1)).nonzero().flatten()
                self._assign(field, ids, want[ids])

    def _grant_some(self, rows: Mapping[str, Tensor]) -> None:
        """Give ids of a batch what is worth the price, the best first, while there is room."""
        pairs = self._worth(rows)
        worth = torch.cat([w.flatten() for w, _ in pairs])
        owned = torch.cat([o.flatten() for _, o in pairs])
        (candidates,) = ((worth > self.price) & ~owned).nonzero(as_tuple=True)
        if len(candidates) == 0:
            return
        best = candidates[torch.argsort(worth[candidates], descending=True, stable=True)]
        gained, room = torch.zeros_like(owned), self.limit - sum(self.bytes())
        gained[best] = self._costs[best % len(self._costs)].cumsum(0) <= room
        parts = torch.split(gained, [w.numel() for w, _ in pairs])
        for field, (own, (_, has), part) in enumerate(
            zip(rows.values(), pairs, parts, strict=True)
        ):
            more = part.view_as(has)
            which = more.any(1)
            self._assign(field, own[which], (has | more)[which])

    def _assign(self, field: int, ids: Tensor, wanted: Tensor) -> None:
        if len(ids):
            table = self.embedding.reading.tables[field]
            keys = None if self._keys_of is None else self._keys_of(table, ids)
            self._undo.append(self.embedding.assign(field, ids, wanted, self.optimizer, keys))

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs; the embedding has its own."""
        return {"traffic": self.traffic} | {name: getattr(self, name) for name in _NUMBERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.traffic = [x.clone() for x in state["traffic"]]
        self.now, self.ranked_at = int(state["now"]), int(state["ranked_at"])
        self.num_ids, self.price = list(state["num_ids"]), float(state["price"])
        self.limit = int(state["limit"])
