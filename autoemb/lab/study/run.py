"""A study from its file to study.json: choose on the offline stage, run, compare in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from autoemb.errors import UserError
from autoemb.files import sole_writer, write_json
from autoemb.lab.differences import differences, read_windows
from autoemb.lab.recorder import STAGES
from autoemb.lab.records import Bucket, Summary, Window
from autoemb.lab.stopping import Interrupted
from autoemb.lab.study.config import Options, Study
from autoemb.lab.study.jobs import Execute, Job, job, pool
from autoemb.lab.study.source import Source
from autoemb.lab.summary import versions_of

#: (what is being run, runs done, runs in all)
Progress = Callable[[str, int, int], None]


class Cell(NamedTuple):
    """What methods are compared on."""

    data: Source
    task: str
    order: str

    @property
    def name(self) -> str:
        """Name in files and tables."""
        return f"{self.data.name}, {self.task}, {self.order}"


def run_study(
    study: Study, out: Path, *, processes: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Make all runs of a study, or those that ``out`` does not hold yet, and compare them.

    For every data set, task and order each method's candidates run over the offline stage alone
    with the first seed; that with the lowest loss over its second half then runs over the whole
    stream with every seed.

    Parameters
    ----------
    study : Study
    out : Path
        Gets ``runs/`` and, when all are complete, ``study.json``.
    processes : int, default 1
    progress : callable, optional

    Returns
    -------
    dict
        The content of ``study.json``.

    Raises
    ------
    UserError
        For data that cannot be read, without an offline stage to choose options on, or what a run
        raises.
    StudyInterrupted
        On SIGINT or SIGTERM.
    """
    for source in study.data:
        source.check()
    runs = out / "runs"
    cells = [Cell(*names) for names in product(study.data, study.tasks, study.orders)]
    try:
        with sole_writer(out), pool(processes) as execute:
            chosen = _choose(study, cells, runs, _reporting(execute, "choosing options", progress))
            jobs = _jobs(study, cells, runs, chosen)
            made = _reporting(execute, "running", progress)(jobs.values())
            summaries = {one.folder: summary for one, summary in made}
    except Interrupted as stopped:
        raise StudyInterrupted(stopped.events, saved=True) from None
    content = {
        "results": [
            _result(cell, name, seed, one, summaries[one.folder], chosen[cell, name])
            for (cell, name, seed), one in jobs.items()
        ],
        "differences": [row for cell in cells for row in _compare(study, cell, jobs, summaries)],
        "methods": {
            m.name: {"options": dict(m.options), "candidates": [dict(c) for c in m.candidates]}
            for m in study.methods
        },
        "versions": versions_of(summaries.values()),
    }
    write_json(out / "study.json", content)
    return content


def _jobs(
    study: Study, cells: Sequence[Cell], runs: Path, chosen: dict[tuple[Cell, str], Options]
) -> dict[tuple[Cell, str, int], Job]:
    """Return the runs over the whole stream, by cell, method and seed."""
    found = {}
    for cell, method, seed in product(cells, study.methods, study.seeds):
        own = {"task": cell.task, "order": cell.order, "seed": seed}
        config = study.config(method, chosen[cell, method.name], **own)
        found[cell, method.name, seed] = job(cell.data, config, runs)
    return found


class StudyInterrupted(Interrupted):
    """A study was asked to stop; every run that was begun has kept where it is."""

    def __str__(self) -> str:
        return "interrupted; the same command continues the study"


def _reporting(execute: Execute, what: str, progress: Progress | None) -> Execute:
    def made(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        distinct = list({one.folder: one for one in jobs}.values())
        for done, result in enumerate(execute(distinct), 1):
            if progress is not None:
                progress(what, done, len(distinct))
            yield result

    return made


def _choose(
    study: Study, cells: Sequence[Cell], runs: Path, execute: Execute
) -> dict[tuple[Cell, str], Options]:
    """Return the options that each method runs with, by cell and method."""
    tried: dict[tuple[Cell, str], list[tuple[Options, Job]]] = {}
    chosen: dict[tuple[Cell, str], Options] = {}
    for cell, method in product(cells, study.methods):
        if len(method.candidates) == 1:
            chosen[cell, method.name] = method.candidates[0]
            continue
        length = len(cell.data.dataset())
        events = study.config(method, {}).offline_events(length)
        if events < 2:
            raise UserError(
                f"{cell.data.name}: options are chosen on the offline stage, which has {events} of "
                f"{length} events"
            )
        own = {"task": cell.task, "order": cell.order, "seed": study.seeds[0], "limit": events}
        configs = [study.config(method, c, **own, offline_fraction=0.5) for c in method.candidates]
        jobs = [job(cell.data, config, runs) for config in configs]
        tried[cell, method.name] = [*zip(method.candidates, jobs, strict=True)]
    every = [one for pairs in tried.values() for _, one in pairs]
    loss = {one.folder: summary["online"]["loss"] for one, summary in execute(every)}

    def rank(pair: tuple[Options, Job]) -> float:
        found = loss[pair[1].folder]
        return math.inf if found is None or math.isnan(found) else float(found)

    return chosen | {key: min(pairs, key=rank)[0] for key, pairs in tried.items()}


def _result(
    cell: Cell, name: str, seed: int, one: Job, summary: dict[str, Any], chosen: Options
) -> dict[str, Any]:
    file = one.folder / "summary.json"
    record = Summary.parse(summary, str(file))
    if record.embeddings is None:
        raise UserError(f"{file}: embeddings is missing")
    dims = None if record.config.get("budget") else record.dims
    return {
        "data": record.data.name,
        "task": cell.task,
        "order": cell.order,
        "method": name,
        "seed": seed,
        "run": f"runs/{one.folder.name}",
        "chosen": dict(chosen),
        **{stage: summary[stage] for stage in STAGES},
        "first_tenth": first_tenth(read_windows(one.folder / "metrics.jsonl", summary)),
        "by_popularity": by_popularity(record.by_popularity.online, dims),
        "embedding_bytes": record.embeddings.bytes,
        "ids": dict(record.ids),
        "owned": dict(record.owned),
        "seconds": summary["seconds"],
    }


def first_tenth(windows: Sequence[Window]) -> float:
    """Return the mean loss of the windows that begin in the first tenth of the stream."""
    total = sum(window.window for window in windows)
    events = 0
    loss = 0.0
    for window in windows:
        if events * 10 >= total:
            break
        events += window.window
        loss += window.window * window.loss
    return loss / events if events else math.nan


def by_popularity(
    octaves: Sequence[Bucket], dims: Sequence[int] | None
) -> dict[str, list[dict[str, Any]]]:
    """Return the loss and the mean width given, by feature and earlier events of its id.

    Parameters
    ----------
    octaves : sequence of Bucket
        Of one stage.
    dims : sequence of int, optional
        The run's sizes. None within a budget: there ids are not given what the controller's weights
        say, but what they own of it.

    Examples
    --------
    >>> octave = Bucket(
    ...     feature="user_id", low=3, high=6, interactions=9, loss=0.2, weights=(0.5, 0.5)
    ... )
    >>> by_popularity([octave], [2, 16])
    {'user_id': [{'low': 3, 'interactions': 9, 'loss': 0.2, 'width': 9.0}]}
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for octave in octaves:
        if octave.interactions:
            kept = {"low": octave.low, "interactions": octave.interactions, "loss": octave.loss}
            if octave.weights and dims and len(octave.weights) == len(dims):
                kept["width"] = sum(w * dim for w, dim in zip(octave.weights, dims, strict=True))
            found.setdefault(octave.feature, []).append(kept)
    return found


def _compare(
    study: Study,
    cell: Cell,
    jobs: dict[tuple[Cell, str, int], Job],
    summaries: dict[Path, dict[str, Any]],
) -> list[dict[str, Any]]:
    names = [method.name for method in study.methods]
    windows = {}
    for name, seed in product(names, study.seeds):
        folder = jobs[cell, name, seed].folder
        windows[name, seed] = read_windows(folder / "metrics.jsonl", summaries[folder])
    where = {"data": cell.data.name, "task": cell.task, "order": cell.order}
    return [where | row for row in differences(windows, names, study.seeds)]
