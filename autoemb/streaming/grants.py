"""Which ids own rows of which sizes while a stream runs, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autoemb.nn.granted import GrantedEmbedding
from autoemb.ops import Plan
from autoemb.optim import RowOptimizer
from autoemb.streaming.history import History

#: Events after which half of an id's traffic is forgotten.
HALF_LIFE = 2**17

#: Share of the budget that a new choice may fill; newcomers get the rest until the next one.
FILL = 0.9

#: What an id has is worth that much more than what it has not, so that rows do not flap.
LOYALTY = 1.25

#: A new choice for all ids is made after so many events for each id: its cost for each event is
#: then that of a sort, whatever the number of ids.
EVENTS_PER_ID = 0.25

_NUMBERS = ("now", "ranked_at", "num_ids", "price")


class Grants:
    """Grant rows of an embedding by what they are worth, and take them back.

    Size n of an id is worth its traffic (events, of which half are forgotten after ``HALF_LIFE``
    others) times the mean of two shares, and costs d_n floats: the weight that the controller last
    gave to size n, and what size n adds to those below it. The weight alone would let a controller
    that favours the widest size for everybody leave most ids with nothing. Now and then all ids are
    ranked by worth per float, and rows go to the first that fit into the budget. In between
    newcomers, and ids whose traffic has grown, get what is worth more than the best that was left
    out, while there is room.

    Parameters
    ----------
    embedding : GrantedEmbedding
    history : History
        Mix last given.
    budget : float
        Share of the floats that all sizes of all ids seen would take, in (0, 1].
    optimizer : RowOptimizer, optional
        Of the embedding's rows: it forgets what it keeps of rows that change hands.

    Examples
    --------
    >>> from autoemb.ops import distinct
    >>> embedding = GrantedEmbedding([4], (1, 2), features=["item_id"])
    >>> history = History(["item_id"], 2)
    >>> history.grow({"item_id": 4})
    >>> grants = Grants(embedding, history, 0.5)
    >>> plan = distinct(torch.tensor([0, 0, 1]))
    >>> take_back = grants.update({"item_id": plan}, num_ids={"item_id": 2}, events=3)
    >>> embedding.floats, grants.limit  # both own size 1; one of size 2 would be too much
    (2, 3)
    >>> take_back()
    >>> embedding.floats, grants.limit
    (0, 0)
    """

    def __init__(
        self,
        embedding: GrantedEmbedding,
        history: History,
        budget: float,
        optimizer: RowOptimizer | None = None,
    ) -> None:
        if not 0 < budget <= 1:
            raise ValueError(f"budget must be a share in (0, 1]; got {budget}")
        self.embedding, self.history = embedding, history
        self.budget, self.optimizer = budget, optimizer
        self.traffic = [torch.zeros(0, dtype=torch.float64) for _ in embedding.row_tables]
        self.last = [torch.zeros(0, dtype=torch.int64) for _ in embedding.row_tables]
        self.now = 0
        self.ranked_at = 0
        self.num_ids = [0] * len(embedding.row_tables)
        self.price = 0.0
        self._undo: list[Callable[[], object]] = []  # while an update is under way
        # Each size adds half as much as the one before (docs/export.md has what narrow rows lack).
        halves = 0.5 ** torch.arange(len(embedding.embedding_dims))
        self._prior = halves / halves.sum()

    @property
    def limit(self) -> int:
        """Floats that the rows of ids may take now."""
        return int(self.budget * sum(self.num_ids) * sum(self.embedding.embedding_dims))

    @torch.no_grad()
    def update(
        self, plans: Mapping[str, Plan], num_ids: Mapping[str, int], events: int
    ) -> Callable[[], None]:
        """Take in the ids of a batch, before it is learnt, and grant and revoke rows.

        Parameters
        ----------
        plans : mapping of str to Plan
            Distinct ids of the batch, by table.
        num_ids : mapping of str to int
            Ids seen so far, by table.
        events : int
            Of the batch.

        Returns
        -------
        callable
            Takes all of it back, before the next update.
        """
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        self._undo = [partial(vars(self).update, numbers)]
        tables = self.embedding.reading.tables
        self.num_ids = [num_ids[table] for table in tables]
        self.now += events
        own = [plans[table] for table in tables]
        for field, plan in enumerate(own):
            self._count(field, plan)
        if self.now - self.ranked_at >= EVENTS_PER_ID * sum(self.num_ids):
            self._rank_all()
            self.ranked_at = self.now
        self._grant_some(own)
        undo, self._undo = self._undo, []
        return partial(_take_back, undo)

    def _count(self, field: int, plan: Plan) -> None:
        # As long as the slots, which grow by doubling: no copy of everything at each batch.
        missing = len(self.embedding.slots(field)) - len(self.traffic[field])
        if missing > 0:
            self.traffic[field] = torch.cat([self.traffic[field], torch.zeros(missing).double()])
            self.last[field] = torch.cat([self.last[field], torch.zeros(missing).long()])
        rows = plan.rows
        for counter in (self.traffic[field], self.last[field]):
            self._undo.append(partial(counter.index_copy_, 0, rows, counter[rows]))
        self.traffic[field][rows] = self._traffic(field, rows) + plan.counts
        self.last[field][rows] = self.now

    def _traffic(self, field: int, rows: Tensor | slice) -> Tensor:
        age = self.now - self.last[field][rows]
        return self.traffic[field][rows] * torch.exp2(-age / HALF_LIFE)

    def _worth(self, field: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return worth per float [U, N] and whether it is owned [U, N]."""
        table = self.embedding.reading.tables[field]
        weights = self.history.tables[table].mix[rows]
        owned = self.embedding.slots(field)[rows] > 0
        costs = torch.tensor(self.embedding.embedding_dims)
        value = (weights + self._prior) / 2
        worth = self._traffic(field, rows).unsqueeze(1) * value / costs
        return torch.where(owned, LOYALTY * worth, worth), owned

    def _rank_all(self) -> None:
        pairs = [self._worth(field, slice(ids)) for field, ids in enumerate(self.num_ids)]
        dims = torch.tensor(self.embedding.embedding_dims)
        worth = torch.cat([w.flatten() for w, _ in pairs])
        owned = torch.cat([o.flatten() for _, o in pairs])
        costs = torch.cat([dims.expand_as(w).flatten() for w, _ in pairs])
        order = torch.argsort(worth, descending=True, stable=True)
        fits = costs[order].cumsum(0) <= FILL * self.limit
        wanted = torch.zeros_like(owned)
        wanted[order] = fits
        wanted &= worth > 0
        left_out = worth[~wanted]
        self.price = float(left_out.max()) if len(left_out) else 0.0
        parts = torch.split(wanted, [w.numel() for w, _ in pairs])
        changes = []
        for field, ((_, has), part) in enumerate(zip(pairs, parts, strict=True)):
            want = part.view_as(has)
            changes.append((field, want & ~has, has & ~want))
        for field, _, lost in changes:  # first make room
            for size, column in enumerate(lost.unbind(1)):
                self._revoke(field, column.nonzero().flatten(), size)
        for field, gained, _ in changes:
            for size, column in enumerate(gained.unbind(1)):
                self._grant(field, column.nonzero().flatten(), size)

    def _grant_some(self, plans: list[Plan]) -> None:
        """Give ids of a batch what is worth the price, the best first, while there is room."""
        pairs = [self._worth(field, plan.rows) for field, plan in enumerate(plans)]
        worth = torch.cat([w.flatten() for w, _ in pairs])
        owned = torch.cat([o.flatten() for _, o in pairs])
        (candidates,) = ((worth > self.price) & ~owned).nonzero(as_tuple=True)
        best = candidates[torch.argsort(worth[candidates], descending=True, stable=True)]
        dims = torch.tensor(self.embedding.embedding_dims)
        room = self.limit - self.embedding.floats
        wanted = torch.zeros_like(owned)
        wanted[best] = dims[best % len(dims)].cumsum(0) <= room
        parts = torch.split(wanted, [w.numel() for w, _ in pairs])
        for field, (plan, part) in enumerate(zip(plans, parts, strict=True)):
            for size, column in enumerate(part.view(-1, len(dims)).unbind(1)):
                self._grant(field, plan.rows[column], size)

    def _grant(self, field: int, ids: Tensor, size: int) -> None:
        if len(ids):
            rows = self.embedding.grant(field, ids, size)
            self._undo.append(partial(self.embedding.revoke, field, ids, size))
            if self.optimizer is not None:
                self.optimizer.reset(self.embedding.arena(field, size), rows)

    def _revoke(self, field: int, ids: Tensor, size: int) -> None:
        arena, rows = self.embedding.arena(field, size), self.embedding.slots(field)[ids, size]
        rows = rows.long()
        # Until it is granted again a row keeps its values, but that may be now.
        self._undo.append(partial(arena.detach().index_copy_, 0, rows, arena.detach()[rows]))
        if self.optimizer is not None:
            self._undo.append(self.optimizer.before(arena, rows))
        self._undo.append(partial(self.embedding.give_back, field, ids, size, rows))
        self.embedding.revoke(field, ids, size)

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs; the embedding has its own."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"traffic": self.traffic, "last": self.last} | numbers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.traffic = [x.clone() for x in state["traffic"]]
        self.last = [x.clone() for x in state["last"]]
        self.now, self.ranked_at = int(state["now"]), int(state["ranked_at"])
        self.num_ids, self.price = list(state["num_ids"]), float(state["price"])


def _take_back(changes: list[Callable[[], object]]) -> None:
    for undo in reversed(changes):
        undo()
