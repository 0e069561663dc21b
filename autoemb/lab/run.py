"""One run: a method on a stream, recorded and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autoemb.errors import UserError
from autoemb.files import exists, sync, write_json
from autoemb.lab.config import RunConfig
from autoemb.lab.events import ordered, stream_of, task_of
from autoemb.lab.folder import RunFolder
from autoemb.lab.predictions import Predictions
from autoemb.lab.recorder import STAGES, Recorder
from autoemb.lab.saved import SavedRun, check_alike, read_saved
from autoemb.lab.stopping import Interrupted, stop_requests
from autoemb.lab.summary import embeddings_of, versions
from autoemb.lab.trained import (
    NO_SUCH_STATE,
    check_goes_on,
    config_of,
    digest_of,
    kept_file,
    learner_for,
    learner_of,
    no_such_state,
    restore_learner,
    schema_of,
)
from autoemb.learners import METHODS
from autoemb.ops import check_ids
from autoemb.streaming import checkpoint
from autoemb.streaming.owned import owned
from autoemb.tasks import Task

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Dataset

#: Seconds between checkpoints; a killed run loses at most this much work.
CHECKPOINT_SECONDS = 60.0

#: (events done, events in all), after every batch
Progress = Callable[[int, int], None]


class Origin(NamedTuple):
    """The state of another run that a run begins with."""

    saved: SavedRun
    file: Path
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return what summary.json says of it."""
        return {
            "run": str(self.file),
            "data": self.saved.data,
            "position": self.saved.stream.position,
            "state": self.digest,
        }


def run(
    config: RunConfig,
    data: Dataset,
    out: Path | None = None,
    *,
    resume: bool = False,
    keep: bool = True,
    checkpoint_at: float | None = None,
    predictions: Path | None = None,
    origin: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run one method over a stream: predict, record, learn.

    Parameters
    ----------
    config : RunConfig
    data : Dataset
        As loaded; ordered and limited here.
    out : Path, optional
        Folder for ``metrics.jsonl``, ``summary.json`` (only when complete), ``trained.safetensors``
        and the checkpoint. One process at a time may write there.
    resume : bool, default False
        Continue the run in ``out``, or start it if there is none; a complete run is returned as
        it is.
    keep : bool, default True
        Keep the final state in ``trained.safetensors``, to be exported or gone on from.
    checkpoint_at : float, optional
        Share of the stream, in [0, 1], after which the state is kept instead: at the end of the
        batch that reaches it.
    predictions : Path, optional
        Parquet file for every event's prediction: see :class:`Predictions`.
    origin : Path, optional
        Folder (or file) of another run whose state this one begins with: its ids, their history and
        all that was learnt. Options that would change the learner must be the same.
    progress : callable, optional
        Called before the first batch and after every batch with events done and events in all.

    Returns
    -------
    dict
        The content of ``summary.json``.

    Raises
    ------
    UserError
        If ``out`` already holds a run and ``resume`` is False, or holds one with other options, or
        is being written; for a ``checkpoint_at`` out of range, without ``out``, or already passed;
        for an ``origin`` of another learner.
    Interrupted
        On SIGINT or SIGTERM, after the current batch.

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> summary = run(RunConfig(method="fse", dims=(4,)), synthetic(1000))
    >>> summary["online"]["interactions"]
    300
    """
    events = ordered(data, config)
    config = config.but(task=task_of(events, config).name)
    begun = None if origin is None else _origin(config, events, origin)
    this = _Run(config, events, out, begun)
    this.keep_at = _event_at(checkpoint_at, len(this.stream), this.folder, keep)
    this.keep_end = keep and checkpoint_at is None
    with nullcontext() if this.folder is None else this.folder.lock():
        if resume and (summary := this.complete(predictions)) is not None:
            if progress is not None:
                progress(len(this.stream), len(this.stream))
            return summary
        saved = None if this.folder is None else this.folder.open(resume)
        this.build()
        with _writing(predictions, this.task, this.folder is not None) as this.predictions:
            this.restore(saved)
            return this.go(progress)


class _Run:
    """The parts of a run, and their state on disk."""

    def __init__(
        self,
        config: RunConfig,
        events: Dataset,
        out: Path | None,
        origin: Origin | None,
    ) -> None:
        self.config, self.origin = config, origin
        self.stream = stream_of(events, config)
        self.schema, self.task = events.schema, task_of(events, config)
        self.identity = {
            "config": config.as_dict() | {"schema": events.schema.model_dump(mode="json")},
            "data": events.describe(),
            "origin": None if origin is None else origin.digest,
        }
        self.folder = None if out is None else RunFolder(out, self.identity)
        self.began = None if origin is None else origin.as_dict()
        self.predictions: Predictions | None = None
        self.keep_at: int | None = None
        self.keep_end = False
        self.seconds = 0.0

    def complete(self, predictions: Path | None) -> dict[str, Any] | None:
        """Return the summary of a complete run, if it kept what is asked for."""
        if self.folder is None or (summary := self.folder.complete()) is None:
            return None
        self._check_kept()
        if predictions is not None and not exists(predictions):
            raise UserError(
                f"{self.folder.path} holds a complete run, which did not write {predictions}"
            )
        return summary

    def build(self) -> None:
        """Make the learner and the recorder as they are before the first event."""
        config = self.config
        if self.origin is None:
            self.learner = learner_of(config, self.schema)
        else:
            self.learner = learner_for(config, self.schema, self.origin.file)
        self.recorder = Recorder(
            self.task,
            {feature.column: feature.table for feature in self.schema.sparse},
            len(config.recipe.dims) if METHODS[config.recipe.method].controller else 0,
            offline=config.offline_events(len(self.stream)),
            window=config.window,
            path=None if self.folder is None else self.folder.metrics,
        )

    def restore(self, saved: SavedRun | None) -> None:
        """Take the state of the interrupted run, or else of the run to begin with, if any."""
        origin, self.origin = self.origin, None  # which may be large
        if self.folder is None or saved is None:
            if origin is not None:
                restore_learner(self.learner, origin.saved, origin.file)
            if self.predictions is not None:
                self.predictions.begin(0)
            return
        position, file = saved.stream.position, self.folder.checkpoint
        try:
            if position > len(self.stream):
                raise ValueError(f"stream.position is {position} of {len(self.stream)} events")
            check_alike(saved.recorder, self.recorder.state_dict(), "recorder")
            self.recorder.load_state_dict(saved.recorder)
        except UserError:
            raise
        except NO_SUCH_STATE as error:
            raise no_such_state(file, error) from None
        restore_learner(self.learner, saved, file)
        self.stream.load_state_dict({"position": position})
        self.seconds = saved.seconds
        if self.predictions is not None:
            if saved.predictions is None:
                raise UserError(
                    f"{self.predictions.path}: the run in {self.folder.path} has passed "
                    f"{position:,} events without writing their predictions"
                )
            self.predictions.begin(saved.predictions)
        if self.keep_at is not None and self.keep_at <= position:
            self._check_kept()
            self.keep_at = None

    def save(self, path: Path) -> None:
        """Write the state, and all that it counts on, to disk."""
        state = {
            "learner": self.learner.state_dict(),
            "recorder": self.recorder.state_dict(),
            "stream": self.stream.state_dict(),
            "seconds": self.seconds,
            "predictions": None if self.predictions is None else self.predictions.flush(),
        }
        if self.folder is not None:
            sync(self.folder.metrics)
        checkpoint.save(self.identity | state, path)

    def go(self, progress: Progress | None) -> dict[str, Any]:
        """Run from where the stream is to its end; return the summary, which is then recorded."""
        with stop_requests() as stop:
            self._learn(stop, progress)
        summary = self._summary()
        # A state that is there already was asked for by --checkpoint-at, before a resumption.
        if self.folder is not None and self.keep_end and not self.folder.trained.exists():
            self.save(self.folder.trained)
        if self.predictions is not None:
            self.predictions.finish()
        if self.folder is not None:
            write_json(self.folder.summary, summary)
            self.folder.checkpoint.unlink(missing_ok=True)
        if self.predictions is not None:  # until here a killed run needs its records to go on
            self.predictions.discard()
        if stop:  # in the last batch: this run is complete, but no other may follow
            raise Interrupted(self.stream.position, saved=self.folder is not None)
        return summary

    def _learn(self, stop: Sequence[int], progress: Progress | None) -> None:
        events, before = len(self.stream), self.seconds
        start = saved_at = time.perf_counter()
        if progress is not None:
            progress(self.stream.position, events)
        for batch in self.stream:
            step = self.learner.learn(batch)
            self.recorder.add(step)
            if self.predictions is not None:
                self.predictions.add(step, batch.timestamp)
            if progress is not None:
                progress(self.stream.position, events)
            now = time.perf_counter()
            self.seconds = before + now - start
            stopped = bool(stop) and self.stream.position < events
            if self.folder is not None:
                if self.keep_at is not None and self.stream.position >= self.keep_at:
                    self.save(self.folder.trained)
                    self.keep_at = None
                if stopped or now - saved_at > CHECKPOINT_SECONDS:
                    self.save(self.folder.checkpoint)
                    saved_at = now
            if stopped:
                raise Interrupted(self.stream.position, saved=self.folder is not None)
        self.recorder.close_window()  # which waits for the device
        check_ids(self.learner.device)
        self.seconds = before + time.perf_counter() - start

    def _summary(self) -> dict[str, Any]:
        return {
            "method": self.config.recipe.method,
            "task": self.config.task,
            "data": self.identity["data"],
            "seed": self.config.seed,
            **{stage: self.recorder.stage(stage) for stage in STAGES},
            "seconds": self.seconds,
            "interactions_per_second": len(self.stream) / self.seconds,
            "config": self.identity["config"],
            "versions": versions() | {"kernels": self.config.kernels},
            "embeddings": embeddings_of(self.learner),
            "ids": self.learner.num_ids(),
            "owned": owned(self.learner),
            "budget_bytes": None if self.learner.grants is None else self.learner.grants.whole,
            "by_popularity": {stage: self.recorder.by_popularity(stage) for stage in STAGES},
        } | ({} if self.began is None else {"from": self.began})

    def _check_kept(self) -> None:
        """Check that a run past an event has kept the state of the batch that reached it."""
        if self.keep_at is None or self.folder is None:
            return
        event, kept = f"--checkpoint-at is event {self.keep_at:,}", self.folder.trained
        passed = f"which the run in {self.folder.path} has passed"
        if not kept.exists():
            raise UserError(f"{event}, {passed} without keeping its state")
        position = read_saved(kept).stream.position
        # The last batch may have one event more.
        if not 0 <= position - self.keep_at <= self.config.batch_size:
            raise UserError(f"{event}, {passed}; it has kept its state at event {position:,}")


def _event_at(share: float | None, events: int, folder: RunFolder | None, keep: bool) -> int | None:
    """Return the event at which the state is kept."""
    if share is None:
        return None
    if not 0 <= share <= 1:
        raise UserError(f"--checkpoint-at is {share}; expected 0 to 1")
    if folder is None:
        raise UserError("--checkpoint-at keeps a state in the run's folder; name it with --out")
    if not keep:
        raise UserError("--checkpoint-at keeps a state and --no-keep none; expected one of them")
    return max(1, round(share * events))


def _origin(config: RunConfig, events: Dataset, path: Path) -> Origin:
    """Return the state that a run begins with, if its options leave the learner as it is."""
    file = kept_file(path)
    saved = read_saved(file)
    check_goes_on(config, config_of(saved, file), file)
    schema = schema_of(saved, file)
    for kind, features in schema.kinds.items():
        if features != events.schema.kinds[kind]:
            known = ", ".join(feature.column for feature in features) or "none"
            raise UserError(f"{file} was trained on other {kind} features: {known}")
    return Origin(saved, file, digest_of(file))


@contextmanager
def _writing(path: Path | None, task: Task, resumable: bool) -> Iterator[Predictions | None]:
    """Yield what writes predictions, if wanted; a run that nobody can resume leaves no records."""
    if path is None:
        yield None
        return
    predictions = Predictions(path, task)
    try:
        yield predictions
    finally:
        if not resumable:
            predictions.discard()
        predictions.close()
