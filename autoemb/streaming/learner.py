"""Predict, record, learn: Algorithm 1 on a stream whose ids appear as it runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autoemb.bilevel import Batch, BilevelTrainer, Outcome
from autoemb.nn.rows import grow
from autoemb.ops import check_ids, distinct_columns
from autoemb.streaming.grants import Grants
from autoemb.streaming.graph import StepGraph
from autoemb.streaming.id_table import IdTable
from autoemb.streaming.packed import Layout, tensors_of
from autoemb.streaming.reservoir import Reservoir
from autoemb.streaming.state import InteractionState
from autoemb.streaming.stream import Events
from autoemb.streaming.transfer import Upload

#: Rows a table starts with; it doubles from there.
INITIAL_ROWS = 1024

VALIDATION_SOURCES = ("reservoir", "last-batch", "new-events")


class Step(NamedTuple):
    """One batch after it was predicted, recorded and learnt.

    Attributes
    ----------
    outcome : Outcome
        Predictions and losses, made before the batch was learnt.
    target : Tensor[B]
    popularity : list of F Tensor[B]
        Events of each event's id before this batch.
    """

    outcome: Outcome
    target: Tensor
    popularity: list[Tensor]


class StreamLearner:
    """Train on a stream in the order of the paper's Algorithm 1.

    Each call of :meth:`learn` (1) updates the controller on past events, with the virtual weight
    step on the previous training batch, (2) predicts the new batch and records its losses, and
    (3) updates the weights on it; validated on new events, the controller is updated last, with a
    gradient of before (3). No label is used before its prediction is scored.

    Parameters
    ----------
    trainer : BilevelTrainer
    modules : sequence of torch.nn.Module
        Those whose tables grow with the ids: model and controller.
    state : InteractionState
    reservoir : Reservoir
    validation : {"reservoir", "last-batch", "new-events"}, default "reservoir"
        What the controller learns from: a uniform sample of the past, the previous batch (then the
        virtual step is on the batch before it), or the new batch, which the weights have not learnt
        yet. The weights know past events by heart, and every id of them: what a newcomer needs,
        and which mix generalises, only new events tell.
    batch_size : int, default 500
        Events of a sample of the past.
    device : torch.device or str, default "cpu"
        Of model, controller and state. On a CUDA device the host never waits in :meth:`learn`: it
        prepares the next batch meanwhile.
    grants : Grants, optional
        Which ids own rows of which sizes; on the CPU, with soft selection.
    graph : bool, default True
        On a CUDA device, replay the whole step as one CUDA graph. The numbers are the same
        without. Modules and optimisers must then change by this class alone: whatever else moves
        their tensors, freezes parameters or changes rates goes unnoticed.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from autoemb import Controller, RatingModel, SoftEmbedding, task_for
    >>> from autoemb.schema import STARS
    >>> state = InteractionState(fields=2, sizes=2)
    >>> model = RatingModel(SoftEmbedding([4, 4], (1, 4)), hidden=(8,))
    >>> controller = Controller(2, 2, state.num_features, hidden=(8,))
    >>> trainer = BilevelTrainer(
    ...     model, controller, loss=task_for("regression", STARS).loss, features=state.features
    ... )
    >>> learner = StreamLearner(trainer, [model, controller], state, Reservoir())
    >>> users, items = np.array(["ann", "bob", "ann"]), np.array([10**12, 7, 7])
    >>> events = Events([users, items], torch.tensor([1.0, 0.0, 1.0]), np.arange(3))
    >>> [learner.learn(events).popularity[0].tolist() for _ in range(2)]
    [[0, 0, 0], [2, 1, 2]]
    """

    def __init__(
        self,
        trainer: BilevelTrainer,
        modules: list[torch.nn.Module],
        state: InteractionState,
        reservoir: Reservoir,
        *,
        validation: str = "reservoir",
        batch_size: int = 500,
        device: torch.device | str = "cpu",
        grants: Grants | None = None,
        graph: bool = True,
    ) -> None:
        if validation not in VALIDATION_SOURCES:
            raise ValueError(
                f"validation must be one of {', '.join(VALIDATION_SOURCES)}; got {validation!r}"
            )
        self.trainer, self.modules, self.grants = trainer, modules, grants
        self._check_selection(trainer.hard)
        self.state, self.reservoir = state, reservoir
        self.validation, self.batch_size = validation, batch_size
        self.device = torch.device(device)
        self._cuda = self.device.type == "cuda"
        self._upload = Upload(self.device) if self._cuda else None
        self._graph = StepGraph(self._compute, self.device) if graph and self._cuda else None
        self.id_tables = [IdTable() for _ in state.fields]
        self._rows = [0 for _ in state.fields]  # rows every table has
        self._recent: list[Batch] = []  # the last two batches, newest first, in main memory

    def _check_selection(self, hard: bool) -> None:
        if hard and self.grants is not None:
            raise ValueError("hard selection with grants: an id may not own its largest size")

    def rows(self, ids: list[Any]) -> Tensor:
        """Return row numbers [B, F] of raw ids, giving new ids new rows and growing the tables."""
        return self._host_rows(ids).to(self.device)

    def _host_rows(self, ids: list[Any]) -> Tensor:
        pairs = zip(self.id_tables, ids, strict=True)
        rows = torch.from_numpy(np.stack([table.rows(column) for table, column in pairs], 1))
        need = [len(table) for table in self.id_tables]
        if any(used > have for used, have in zip(need, self._rows, strict=True)):
            pairs_of_rows = zip(need, self._rows, strict=True)
            self._grow([_doubled(used, have) for used, have in pairs_of_rows])
        return rows

    def _grow(self, num_rows: list[int]) -> None:
        if self._graph is not None:
            self._graph.forget()
        self._rows = num_rows
        for module in self.modules:
            grow(module, num_rows)
        self.state.grow(num_rows)

    def learn(self, events: Events) -> Step:
        """Predict, record and learn one batch.

        Parameters
        ----------
        events : Events
            At least two.

        Returns
        -------
        Step

        Raises
        ------
        ValueError
            For fewer; nothing has changed then.
        """
        if len(events.label) < 2:
            raise ValueError(f"{len(events.label)} events to learn; batch statistics need 2")
        batch = Batch(self._host_rows(events.ids), events.label)
        if self.grants is not None:
            # By the ids alone: whoever is new owns rows when the batch is learnt.
            ids = [len(table) for table in self.id_tables]
            self.grants.update(distinct_columns(batch.ids), ids)
        step = self._run([*self._past(), batch])
        if self.trainer.bilevel:
            if self.validation == "reservoir":
                self.reservoir.add(batch)
            self._recent = [batch, *self._recent[:1]]
        return step

    def _past(self) -> list[Batch]:
        """Return the past batches that the controller needs, validation first, if there are."""
        if len(self._recent) < (2 if self.validation == "last-batch" else 1):
            return []
        if self.validation == "last-batch":
            return self._recent
        if self.validation == "reservoir":
            return [self.reservoir.sample(self.batch_size), self._recent[0]]
        return [] if self.trainer.hypergradient == "first" else self._recent[:1]

    def _run(self, batches: list[Batch]) -> Step:
        tensors = tensors_of(batches)
        if self._upload is None:
            return self._compute(tensors)
        check_ids(self.device)  # a replayed graph does not look by itself
        layout = Layout(tensors)
        packed = self._upload(layout, tensors)
        if self._graph is None:
            return self._compute(layout.unpack(packed))
        return self._graph(layout, packed)

    def _compute(self, tensors: list[Tensor]) -> Step:
        """Learn from ids and target of past batches, if any, and of a new one, on the device."""
        *past, batch = map(Batch, tensors[::2], tensors[1::2])
        if self.validation == "new-events":
            outcome = self.trainer.step(batch, validates=True, previous=past[0] if past else None)
        else:
            if past:
                self.trainer.controller_step(*past)
            outcome = self.trainer.step(batch)
        popularity = [
            self.state.count(field, plan.rows).index_select(0, plan.inverse)
            for field, plan in enumerate(outcome.plans)
        ]
        self.state.record(batch.ids, outcome.losses, outcome.weights, outcome.plans)
        # What nobody reads need not travel to the host.
        brief = [plan._replace(order=None, starts=None) for plan in outcome.plans]
        return Step(outcome._replace(plans=brief), batch.target, popularity)

    def predict(self, ids: list[Any], *, hard: bool = False) -> Tensor:
        """Return logits [B, outputs] of raw ids with running statistics; nothing is learnt.

        Ids never seen get the row that they will keep. ``hard`` takes each id's largest size alone
        (Eq. 6).

        Raises
        ------
        ValueError
            For ``hard`` with ``grants``.
        """
        self._check_selection(hard)
        return self.trainer.predict(self.rows(ids), hard=hard)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that :meth:`load_state_dict` needs to continue to the last bit."""
        return {
            "rows": self._rows,
            "ids": [table.state() for table in self.id_tables],
            "trainer": self.trainer.state_dict(),
            "state": self.state.state_dict(),
            "reservoir": self.reservoir.state_dict(),
            "grants": None if self.grants is None else self.grants.state_dict(),
            "recent": [list(batch) for batch in self._recent],
            "random": torch.random.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self._cuda else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a learner built with the same options."""
        self._grow(list(saved["rows"]))  # which also forgets the graph
        self.id_tables = [IdTable.from_state(state) for state in saved["ids"]]
        self.trainer.load_state_dict(saved["trainer"])
        self.state.load_state_dict(saved["state"])
        self.reservoir.load_state_dict(saved["reservoir"])
        if self.grants is not None:
            self.grants.load_state_dict(saved["grants"])
        self._recent = [Batch(*batch) for batch in saved["recent"]]
        torch.random.set_rng_state(saved["random"])
        if self._cuda and saved["cuda_random"] is not None:
            torch.cuda.set_rng_state(saved["cuda_random"], self.device)


def _doubled(used: int, have: int) -> int:
    """Return the smallest doubling of ``have`` that holds ``used`` rows."""
    rows = max(have, INITIAL_ROWS)
    while rows < used:
        rows *= 2
    return rows
