"""Predict, record, learn: Algorithm 1 on a stream whose ids appear as it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autoemb.batch import Batch
from autoemb.bilevel import BilevelTrainer, Example
from autoemb.nn.draws import Keys, id_keys
from autoemb.nn.rows import begin, cut, grow
from autoemb.ops import check_ids
from autoemb.schema import Dense
from autoemb.streaming.columns import copy_of
from autoemb.streaming.encoding import Encoder
from autoemb.streaming.grants import Grants
from autoemb.streaming.graph import StepGraph
from autoemb.streaming.history import History
from autoemb.streaming.memory import keep_freed_memory
from autoemb.streaming.newcomers import new_ids, on_device, view_of_strangers
from autoemb.streaming.owned import owned
from autoemb.streaming.packed import Layout, tensors_of, with_tensors
from autoemb.streaming.queue import Clock, Waiting
from autoemb.streaming.reservoir import Reservoir
from autoemb.streaming.restoring import restore, state_of
from autoemb.streaming.statistics import Statistics, told
from autoemb.streaming.step import Step
from autoemb.streaming.transfer import Upload
from autoemb.tasks import Task

#: Rows a table starts with; it doubles from there.
INITIAL_ROWS = 1024

VALIDATION_SOURCES = ("new-events", "reservoir", "last-batch")


class StreamLearner:
    """Train on a stream in the order of the paper's Algorithm 1.

    Each call of :meth:`learn` (1) updates the controller on past events, with the virtual weight
    step on the previous training batch, (2) predicts the new batch and records its losses, and
    (3) updates the weights on it; validated on new events, the controller is updated last, with a
    gradient of before (3). No label is used before its prediction is scored.

    :func:`autoemb.build_learner` makes one from a schema, a task and a recipe. One thread may
    learn while others :meth:`predict`. Copies (``copy``, ``pickle``) go on to the same bits.

    Parameters
    ----------
    trainer : BilevelTrainer
        Its model names the features that a batch must hold.
    history : History
        Of the trainer's tables.
    reservoir : Reservoir, optional
        Needed for ``validation="reservoir"``.
    validation : {"new-events", "reservoir", "last-batch"}, default "new-events"
        What the controller learns from: the new batch, which the weights have not learnt yet; a
        uniform sample of the past; or the previous batch (then the virtual step is on the batch
        before it). The weights know past events by heart, and every id of them: what a newcomer
        needs, and which mix generalises, only new events tell.
    batch_size : int, default 500
        Events of a sample of the past.
    dense : sequence of Dense
        Dense features, in the order of a batch's columns.
    task : Task, optional
        Which labels a batch may hold; by default any that are finite.
    seed : int, default 0
        With table and raw id it decides what an id starts with.
    initial_rows : int, default 1024
        Rows that tables have at first; they double from there. It changes no number.
    device : torch.device or str, default "cpu"
        Of model, controller and history. On a CUDA device the host never waits in :meth:`learn`: it
        prepares the next batch meanwhile.
    grants : Grants, optional
        Which ids own rows of which sizes, decided anew once a batch is learnt; on the CPU.
    graph : bool, default True
        On a CUDA device, replay the whole step as one CUDA graph. The numbers are the same
        without. Modules and optimisers must then change by this class alone: whatever else moves
        their tensors, freezes parameters or changes rates goes unnoticed.
    statistics : Statistics, optional
        What labels say of each id, for a model that reads it.
    clock : Clock, optional
        When labels are known; by default once they are given.
    learn_chunk : int, optional
        Events that the network learns at a time; by default those of a batch. With it, or with
        labels that come late, a batch is predicted first, in eval mode, and learnt in a pass of its
        own once its labels are known.

    Raises
    ------
    ValueError
        For an unknown ``validation``, a history that lacks a table or has another number of sizes
        than the controller, no initial rows, or ``validation="reservoir"`` without a reservoir.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from autoemb import Batch, Label, Schema, Sparse, build_learner
    >>> schema = Schema(
    ...     label=Label(column="click", kind="click"),
    ...     sparse=[Sparse(column="user_id"), Sparse(column="item_id")],
    ... )
    >>> learner = build_learner(schema, "click")
    >>> ids = {"user_id": ["ann", "bob", "ann"], "item_id": np.array([10**12, 7, 7])}
    >>> batch = Batch(ids, label=torch.tensor([1.0, 0.0, 1.0]))
    >>> [learner.learn(batch).popularity["user_id"].tolist() for _ in range(2)]
    [[0, 0, 0], [2, 1, 2]]
    """

    def __init__(
        self,
        trainer: BilevelTrainer,
        history: History,
        reservoir: Reservoir | None = None,
        *,
        validation: str = "new-events",
        batch_size: int = 500,
        dense: Sequence[Dense] = (),
        task: Task | None = None,
        seed: int = 0,
        initial_rows: int = INITIAL_ROWS,
        device: torch.device | str = "cpu",
        grants: Grants | None = None,
        graph: bool = True,
        statistics: Statistics | None = None,
        clock: Clock | None = None,
        learn_chunk: int | None = None,
    ) -> None:
        if validation not in VALIDATION_SOURCES:
            raise ValueError(
                f"validation must be one of {', '.join(VALIDATION_SOURCES)}; got {validation!r}"
            )
        if validation == "reservoir" and reservoir is None and trainer.bilevel:
            raise ValueError('validation="reservoir" needs a reservoir to sample from')
        if initial_rows < 1:
            raise ValueError(f"initial_rows must be positive; got {initial_rows}")
        history.check(trainer)
        self.trainer, self.history, self.reservoir = trainer, history, reservoir
        self.grants, self.statistics, self.seed = grants, statistics, seed
        self._check_selection(trainer.hard)
        self.validation, self.batch_size = validation, batch_size
        self.device = torch.device(device)
        self._cuda = self.device.type == "cuda"
        self._graphed = graph and self._cuda
        self.encoder = Encoder(trainer.reads, dense, task)
        self._rows = dict.fromkeys(trainer.tables, 0)  # that every table has
        self._recent: list[Batch] = []  # the last two batches that were learnt, newest first
        self.waiting: Waiting | None = None
        if learn_chunk is not None or (clock is not None and clock.delay):
            self.waiting = Waiting(Clock() if clock is None else clock, learn_chunk)
        self._prepare()
        self._resize(dict.fromkeys(trainer.tables, initial_rows))

    def _prepare(self) -> None:
        """Make what no copy takes along: locks, and what belongs to a device."""
        self._upload = Upload(self.device) if self._cuda else None
        self._graph = StepGraph(self._compute, self.device) if self._graphed else None
        self._stepping = threading.RLock()  # held for a whole step
        self._lock = threading.RLock()  # held while anything that a prediction reads changes
        self._change = ExitStack()  # holds it from the first such change of a step to the last
        self._undo = ExitStack()  # takes back what a step that fails has changed
        if not self._cuda:
            keep_freed_memory()

    def __getstate__(self) -> dict[str, Any]:
        """Return all but locks and what belongs to a device, as it is between two steps."""
        with self._stepping:
            left_out = ("_upload", "_graph", "_stepping", "_lock", "_change", "_undo", "_layout")
            return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the learner whose state is given."""
        vars(self).update(state)
        self._prepare()

    @property
    def modules(self) -> list[torch.nn.Module]:
        """The model, and the controller if there is one."""
        parts = filter(None, (self.trainer.model, self.trainer.controller))
        return [part.function.module for part in parts]

    def num_ids(self) -> dict[str, int]:
        """Return how many ids each table knows."""
        return {table: len(ids) for table, ids in self.encoder.id_tables.items()}

    def _check_selection(self, hard: bool) -> None:
        if hard and self.grants is not None and not self.grants.embedding.nested:
            raise ValueError("hard selection with grants: an id may not own its largest size")

    def _grow(self, num_rows: Mapping[str, int]) -> None:
        if self._graph is not None:
            self._graph.forget()
        self._rows = dict(num_rows)
        for module in self.modules:
            grow(module, num_rows)
        self.history.grow(num_rows)
        if self.statistics is not None:
            self.statistics.grow(num_rows)

    def _resize(self, num_rows: Mapping[str, int]) -> None:
        """Give tables exactly so many rows."""
        self._grow(num_rows)
        for module in self.modules:
            cut(module, num_rows)

    def learn(self, batch: Batch) -> Step:
        """Predict, record and learn one batch: all of it or, where an error is raised, nothing.

        Where labels come late, or the network learns in chunks, that holds of each chunk: one that
        cannot be learnt waits for the next call.

        Parameters
        ----------
        batch : Batch
            With labels.

        Returns
        -------
        Step

        Raises
        ------
        UserError
            For a batch that is not what the schema says; names feature or event, and what was
            expected.
        ValueError
            For a loss of another shape, and one event where the model takes batch statistics.
        """
        batch = self.encoder.checked(batch, labelled=True)
        with self._stepping:
            if self.waiting is None:
                return self._arrive(batch)
            self.waiting.clock.check(batch.timestamp)
            late = self.waiting.clock.delay > 0
            if late and batch.timestamp is not None:
                self._learn_due(float(batch.timestamp[0]))
            step = self._arrive(batch)
            if not late:
                self._learn_due()
        return step

    def _arrive(self, batch: Batch) -> Step:
        """Take in a checked batch: predict it, and learn it unless that comes later."""
        with self._change, ExitStack() as self._undo:
            self._undo.callback(torch.random.set_rng_state, torch.random.get_rng_state())
            with self._lock:
                example, advance = self._inserted(batch), None
                if self.statistics is not None:
                    advance = self.statistics.advance(example, batch.timestamp)
                    example = told(example, advance.known)
            batch = replace(batch, known=example.inputs.known)
            step = self._learn(example) if self.waiting is None else self._predicted(example)
            self._undo.pop_all()
            self._change.enter_context(self._lock)
            if self.statistics is not None and advance is not None:
                self.statistics.commit(advance)
            if self.waiting is None:
                self._remember(batch)
            else:
                self.waiting.add(batch)
            if self.grants is not None:
                # Of the next batch: a prediction is by what was known before its batch came.
                plans, own = step.outcome.plans, (self._beside(), self._keys_of)
                self.grants.update(plans, self.num_ids(), len(batch), *own)
        return step

    def _keys_of(self, table: str, rows: Tensor) -> Keys:
        """Return the keys [U] of the ids of rows [U] of a table."""
        ids = self.encoder.id_tables[table].at(rows.numpy())
        return id_keys(ids, self.seed, table)

    def _beside(self) -> int:
        """Return the bytes that ids own beside what they are granted."""
        every = sum(owned(self).values())
        return every if self.grants is None else every - sum(self.grants.bytes())

    def _learn_due(self, now: float = math.inf) -> None:
        """Learn the chunks whose labels are known at a time: each wholly or, with an error, not."""
        for batch in self.waiting.due(now) if self.waiting is not None else ():
            with self._change, ExitStack() as self._undo:
                self._undo.callback(torch.random.set_rng_state, torch.random.get_rng_state())
                with self._lock:
                    example = self._seen(batch)
                self._learn(example)
                self._undo.pop_all()
                self._remember(batch)

    def _predicted(self, example: Example) -> Step:
        """Return what is predicted for a batch that is learnt later."""
        trainer = self.trainer
        example = on_device(self.device, example)
        with self._lock:
            outcome = trainer.score(example)
            popularity = self.history.popularity(trainer.reads, outcome)
        return Step(outcome, example.label, example.weight, popularity)

    def _learn(self, example: Example) -> Step:
        """Learn a batch, or a chunk of one."""
        with self._lock:
            examples = [*(self._seen(one) for one in self._past()), example]
        return self._run(examples)

    def _remember(self, batch: Batch) -> None:
        """Keep what a batch that was learnt leaves, for dense features and for the controller."""
        if self.encoder.dense is not None and batch.dense is not None:
            self._change.enter_context(self._lock)
            self.encoder.dense.update(batch.dense)
        if not self.trainer.bilevel:
            return
        if self.validation == "reservoir" and self.reservoir is not None:
            self.reservoir.add(batch)
        self._recent = [copy_of(batch), *self._recent[:1]]

    def _inserted(self, batch: Batch) -> Example:
        """Return a batch with rows for its ids; new ones get the next rows of their tables."""
        known = self.num_ids()
        self._undo.callback(self._forget, known)
        numbers = self.encoder.numbers(batch, insert=True)
        used = self.num_ids()
        # One row more than there are ids: what is known of a stranger (see `newcomers`).
        if any(rows + 1 > self._rows[table] for table, rows in used.items()):
            self._grow({t: _doubled(rows + 1, self._rows[t]) for t, rows in used.items()})
        for table, ids in new_ids(self.trainer.reads, batch, numbers, known).items():
            rows = torch.arange(known[table], used[table], device=self.device)
            keys = id_keys(ids, self.seed, table)
            for part in filter(None, (self.trainer.model, self.trainer.controller)):
                begin(part.function.rows, table, rows, keys)
            if self.statistics is not None:
                self.statistics.begin(table, slice(known[table], used[table]), keys)
        return self.encoder.example(batch, numbers)

    def _forget(self, known: Mapping[str, int]) -> None:
        """Take back the ids that were inserted last, down to so many of each table."""
        with self._lock:
            for table, rows in known.items():
                self.encoder.id_tables[table].truncate(rows)

    def _seen(self, batch: Batch) -> Example:
        """Return a batch of the past with the rows of its ids."""
        example = self.encoder.example(batch, self.encoder.numbers(batch, insert=False))
        return told(example, batch.known)

    def _past(self) -> list[Batch]:
        """Return the past batches that the controller needs, validation first, if there are."""
        if len(self._recent) < (2 if self.validation == "last-batch" else 1):
            return []
        if self.validation == "last-batch":
            return self._recent
        if self.validation == "reservoir" and self.reservoir is not None:
            self._undo.callback(self.reservoir.rewind, self.reservoir.random_state())
            return [self.reservoir.sample(self.batch_size), self._recent[0]]
        return [] if self.trainer.hypergradient == "first" else self._recent[:1]

    def _run(self, examples: list[Example]) -> Step:
        tensors = tensors_of(examples)
        self._layout = examples  # how to put them together again
        if self._upload is None:
            return self._compute(tensors)
        check_ids(self.device)  # a replayed graph does not look by itself
        layout = Layout(tensors)
        packed = self._upload(layout, tensors)
        self._change.enter_context(self._lock)  # the device does things in the order of launches
        if self._graph is None:
            return self._compute(layout.unpack(packed))
        return self._graph(layout, packed)

    def _compute(self, tensors: list[Tensor]) -> Step:
        """Learn from past batches, if any, and a new one, on the device."""
        *past, example = with_tensors(self._layout, iter(tensors))
        trainer = self.trainer
        if self.validation == "new-events":
            previous = past[0] if past else None
            update = trainer.compute(example, validates=True, previous=previous)
        else:
            if past:
                change = trainer.compute_controller(*past)
                self._change.enter_context(self._lock)
                if self._graph is None and trainer.controller is not None:
                    self._undo.callback(trainer.controller.before(change.rows))
                trainer.apply_controller(change)
            update = trainer.compute(example)
        outcome, history = update.outcome, self.history
        popularity = history.popularity(trainer.reads, outcome)
        self._change.enter_context(self._lock)
        trainer.apply(update)
        history.take_in(trainer.reads, example, outcome)
        # What nobody reads need not travel to the host.
        plans = {t: p._replace(order=None, starts=None) for t, p in outcome.plans.items()}
        brief = outcome._replace(plans=plans)
        return Step(brief, example.label, example.weight, popularity)

    def predict(self, batch: Batch, *, hard: bool = False) -> Tensor:
        """Return logits [B, outputs] with running statistics; nothing is learnt or inserted.

        An id never seen is predicted for by the row that it would start with. May run in other
        threads while one learns: the prediction is by the state between two steps.

        Parameters
        ----------
        batch : Batch
            Labels are not needed.
        hard : bool, default False
            Take each id's largest size alone (Eq. 6).

        Raises
        ------
        UserError
            For a batch that is not what the schema says.
        ValueError
            For ``hard`` with ``grants`` of a row for each size.
        """
        self._check_selection(hard)
        batch = self.encoder.checked(batch, labelled=False)
        with self._lock:
            snapshot = view_of_strangers(self, batch)
            if self.grants is not None:  # whose slots are read where they are
                return self.trainer.reader.logits(snapshot, hard=hard)
        return self.trainer.reader.logits(snapshot, hard=hard)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that :meth:`load_state_dict` needs to continue to the last bit.

        Nested dicts and lists of tensors, numbers and strings: ``torch.load`` reads what
        ``torch.save`` wrote of it with ``weights_only=True``. Later steps change the tensors.
        """
        with self._stepping:
            return state_of(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` into a learner built with the same options.

        Tables get as many rows as the state has, whatever they had.

        Raises
        ------
        UserError, ValueError
            For a state whose parts do not fit together, or another learner's. The learner may then
            have some parts of it and is of no further use.
        """
        with self._stepping, self._lock:
            restore(self, saved)


def _doubled(used: int, have: int) -> int:
    """Return the smallest doubling of ``have`` that holds ``used`` rows."""
    rows = max(have, 1)
    while rows < used:
        rows *= 2
    return rows
