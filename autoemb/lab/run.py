"""One run: a method on a stream, recorded and resumable."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import autoemb
from autoemb.errors import UserError
from autoemb.files import write_json
from autoemb.lab.config import RunConfig
from autoemb.lab.folder import RunFolder
from autoemb.lab.methods import METHODS, build_learner
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.recorder import STAGES, Recorder
from autoemb.lab.stopping import Interrupted, stop_requests
from autoemb.nn.granted import GrantedEmbedding
from autoemb.ops import check_ids
from autoemb.streaming import Stream, StreamLearner, checkpoint
from autoemb.tasks import TASKS

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Interactions

FIELDS = ["user_id", "item_id"]

#: Seconds between checkpoints; a killed run loses at most this much work.
CHECKPOINT_SECONDS = 60.0

#: (events done, events in all), after every batch
Progress = Callable[[int, int], None]


def ordered(interactions: Interactions, config: RunConfig) -> Interactions:
    """Return the events in the order and number the configuration asks for.

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> len(ordered(synthetic(1000), RunConfig(order="shuffled", limit=600)))
    600
    """
    if config.order == "shuffled":
        interactions = interactions.shuffled(config.seed)
    return interactions if config.limit is None else interactions.head(config.limit)


def stream_of(events: Interactions, config: RunConfig) -> Stream:
    """Return the batches of events with what the task makes of their ratings."""
    stars = torch.from_numpy(events.rating.to_numpy() * (5 / events.max_rating)).float()
    return Stream(
        [_Column(events.user), _Column(events.item)],
        TASKS[config.task].target(stars),
        events.timestamp.to_numpy(),
        config.batch_size,
    )


def run(
    config: RunConfig,
    interactions: Interactions,
    out: Path | None = None,
    *,
    resume: bool = False,
    checkpoint_at: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run one method over a stream: predict, record, learn.

    Parameters
    ----------
    config : RunConfig
    interactions : Interactions
        As loaded; ordered and limited here.
    out : Path, optional
        Folder for ``metrics.jsonl``, ``summary.json`` (only when complete) and the checkpoint.
    resume : bool, default False
        Continue the run in ``out``, or start it if there is none; a complete run is returned as
        it is.
    checkpoint_at : float, optional
        Share of the stream, in [0, 1], after which the state is kept in ``trained.safetensors``,
        to be exported: at the end of the batch that reaches it.
    progress : callable, optional
        Called before the first batch and after every batch with events done and events in all.

    Returns
    -------
    dict
        The content of ``summary.json``.

    Raises
    ------
    UserError
        If ``out`` already holds a run and ``resume`` is False, or holds one with other options;
        for a ``checkpoint_at`` out of range, without ``out``, or already passed.
    Interrupted
        On SIGINT or SIGTERM, after the current batch.

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> summary = run(RunConfig(method="fse", dims=(4,)), synthetic(1000))
    >>> summary["online"]["interactions"]
    300
    """
    events = ordered(interactions, config)
    task = TASKS[config.task]
    stream = stream_of(events, config)
    identity = {"config": config.as_dict() | {"fields": FIELDS}, "data": describe(events)}
    folder = None if out is None else RunFolder(out, identity)
    keep_at = _event_at(checkpoint_at, len(stream), folder)
    saved = None
    if folder is not None:
        if resume and (summary := folder.complete()) is not None:
            _check_kept(folder, keep_at, config.batch_size)
            if progress is not None:
                progress(len(stream), len(stream))
            return summary
        saved = folder.open(resume)

    learner = build_learner(config, len(FIELDS))
    recorder = Recorder(
        FIELDS,
        len(config.recipe.dims) if METHODS[config.recipe.method].controller else 0,
        task.correct,
        offline=config.offline_events(len(stream)),
        window=config.window,
        path=None if folder is None else folder.metrics,
    )
    parts: dict[str, Any] = {"learner": learner, "recorder": recorder, "stream": stream}
    seconds = 0.0
    if folder is not None and saved is not None:
        try:
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            seconds = float(saved["seconds"])
        except UserError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder.checkpoint} does not hold the state of such a run: {error!r}"
            ) from None

    start = saved_at = time.perf_counter()

    def save(path: Path) -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        elapsed = seconds + time.perf_counter() - start
        checkpoint.save({**identity, **state, "seconds": elapsed}, path)

    if folder is not None and keep_at is not None and keep_at <= stream.position:
        _check_kept(folder, keep_at, config.batch_size)
    if progress is not None:
        progress(stream.position, len(stream))
    with stop_requests() as stop:
        for batch in stream:
            recorder.add(learner.learn(batch))
            if progress is not None:
                progress(stream.position, len(stream))
            if folder is None:
                if stop and stream.position < len(stream):
                    raise Interrupted(stream.position, saved=False)
                continue
            if keep_at is not None and stream.position >= keep_at:
                save(folder.trained)
                keep_at = None
            if stop and stream.position < len(stream):
                save(folder.checkpoint)
                raise Interrupted(stream.position, saved=True)
            if time.perf_counter() - saved_at > CHECKPOINT_SECONDS:
                save(folder.checkpoint)
                saved_at = time.perf_counter()
    recorder.close_window()  # which waits for the device
    check_ids(learner.device)
    seconds += time.perf_counter() - start

    summary = {
        "method": config.recipe.method,
        "task": config.task,
        "data": identity["data"],
        "seed": config.seed,
        **{stage: recorder.stage(stage) for stage in STAGES},
        "seconds": seconds,
        "interactions_per_second": len(stream) / seconds,
        "config": identity["config"],
        "versions": versions() | {"kernels": config.kernels},
        "embeddings": _embeddings(learner),
        "by_popularity": {stage: recorder.by_popularity(stage) for stage in STAGES},
    }
    if folder is not None:
        write_json(folder.summary, summary)
        folder.checkpoint.unlink(missing_ok=True)
    if stop:  # in the last batch: this run is complete, but no other may follow
        raise Interrupted(stream.position, saved=folder is not None)
    return summary


def _event_at(share: float | None, events: int, folder: RunFolder | None) -> int | None:
    """Return the event at which the state is kept."""
    if share is None:
        return None
    if not 0 <= share <= 1:
        raise UserError(f"--checkpoint-at is {share}; expected 0 to 1")
    if folder is None:
        raise UserError("--checkpoint-at keeps a state in the run's folder; name it with --out")
    return max(1, round(share * events))


def _check_kept(folder: RunFolder, keep_at: int | None, batch_size: int) -> None:
    """Check that a run past an event has kept the state of the batch that reached it."""
    if keep_at is None:
        return
    if not folder.trained.exists():
        raise UserError(
            f"--checkpoint-at is event {keep_at:,}, which the run in {folder.path} has passed "
            "without keeping its state"
        )
    kept = checkpoint.load(folder.trained).get("stream")
    position = kept.get("position") if isinstance(kept, dict) else None
    if not isinstance(position, int):
        raise UserError(f"{folder.trained} does not hold the state of a run")
    if not 0 <= position - keep_at <= batch_size:  # the last batch may have one event more
        raise UserError(
            f"--checkpoint-at is event {keep_at:,}, which the run in {folder.path} has passed; it "
            f"has kept its state at event {position:,}"
        )


def _embeddings(learner: StreamLearner) -> dict[str, Any]:
    """Return what the ids own at the end, and who owns it."""
    embedding: Any = learner.modules[0].embedding
    ids = [len(table) for table in learner.id_tables]
    if not isinstance(embedding, GrantedEmbedding):
        width = sum(
            table.shape[1]
            for name, table in embedding.named_parameters()
            if name in embedding.row_fields
        ) // len(ids)
        return {"bytes": 4 * sum(ids) * width}
    widths = [
        ((embedding.slots(field)[:n] > 0) * torch.tensor(embedding.embedding_dims)).sum(1)
        for field, n in enumerate(ids)
    ]
    counts = [state.count[:n] for state, n in zip(learner.state.fields, ids, strict=True)]
    slots = sum(ids) * len(embedding.embedding_dims)
    return {
        "bytes": 4 * (embedding.floats + slots),
        "capacity_bytes": 4 * (embedding.capacity + slots),
        "mean_width": {f: float(w.double().mean()) for f, w in zip(FIELDS, widths, strict=True)},
        "rank_correlation": {
            # Undefined where all own the same.
            f: rank_correlation(count, width) if bool((width != width[0]).any()) else None
            for f, count, width in zip(FIELDS, counts, widths, strict=True)
        },
    }


def versions() -> dict[str, str]:
    """Return what the numbers of a run depend on besides its options."""
    return {
        "autoemb": autoemb.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def versions_of(summaries: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the versions that some runs were made with; runs that were kept may differ in them.

    Examples
    --------
    >>> versions_of([{"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.11"}}])
    {'torch': '2.11, 2.12'}
    """
    values: dict[str, set[str]] = {}
    for summary in summaries:
        for name, version in summary["versions"].items():
            values.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(found)) for name, found in values.items()}


def describe(events: Interactions) -> dict[str, Any]:
    """Return what the data of a run are told by."""
    return {
        "name": events.name,
        "format": events.format,
        "interactions": len(events),
        "users": events.num_users,
        "items": events.num_items,
        "skipped_rows": events.skipped_rows,
        "digest": _digest(events),
    }


def _digest(events: Interactions) -> str:
    """Return a fingerprint of the events in their order."""
    hashed = hashlib.blake2b(digest_size=8)
    for column in (events.user, events.item, events.rating, events.timestamp):
        if not column.dtype.is_numeric():
            hashed.update("\0".join(column.to_list()).encode())
        else:
            hashed.update(np.ascontiguousarray(column.to_numpy()).data)
    return hashed.hexdigest()


class _Column:
    """A column of raw ids that slices to what an IdTable takes."""

    def __init__(self, series: Any) -> None:
        self._series = series

    def __len__(self) -> int:
        return len(self._series)

    def __getitem__(self, part: slice) -> Any:
        piece = self._series[part]
        return piece.to_numpy() if piece.dtype.is_integer() else piece.to_list()
