"""Methods x seeds on the same events, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoemb.errors import UserError
from autoemb.experiment.config import RunConfig
from autoemb.experiment.methods import METHODS
from autoemb.experiment.recorder import STAGES
from autoemb.experiment.run import Progress, run, versions
from autoemb.files import write_json
from autoemb.json_object import JsonObject, read_lines

if TYPE_CHECKING:  # polars, which the rest of the package does without
    from autoemb.data import Interactions

CONFIDENCE = 0.95
RESAMPLES = 4000


def compare(
    config: RunConfig,
    interactions: Interactions,
    out: Path,
    *,
    methods: Sequence[str] = ("fse", "sam", "darts", "autoemb"),
    seeds: Sequence[int] = (0, 1, 2),
    resume: bool = False,
    progress: Callable[[str, int], Progress | None] | None = None,
) -> dict[str, Any]:
    """Run every method with every seed on the same events and compare them in pairs.

    Parameters
    ----------
    config : RunConfig
        Options of every run but method and seed.
    interactions : Interactions
    out : Path
        Gets a folder for every run, and ``compare.json`` when all are complete.
    methods, seeds : sequence
        The last method is compared with each other one.
    resume : bool, default False
        Keep complete runs and continue incomplete ones.
    progress : callable, optional
        (method, seed) -> what :func:`run` takes as ``progress``.

    Returns
    -------
    dict
        The content of ``compare.json``.

    Raises
    ------
    UserError
        For no or repeated methods or seeds, or what :func:`run` raises.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from autoemb.data import synthetic
    >>> options, out = RunConfig(dims=(2, 4)), pathlib.Path(tempfile.mkdtemp())
    >>> result = compare(options, synthetic(2000), out, methods=["fse", "darts"], seeds=[0])
    >>> [(row["method"], row["seed"]) for row in result["results"]]
    [('fse', 0), ('darts', 0)]
    """
    for name, values in (("--methods", methods), ("--seeds", seeds)):
        if not values or len(set(values)) != len(values):
            given = ",".join(map(str, values))
            raise UserError(f"{name} is {given!r}; expected different values separated by commas")
    for method in methods:
        if method not in METHODS:
            known = ", ".join(METHODS)
            raise UserError(f"--methods names {method}; expected some of {known}")
    configs = [replace(config, method=m, seed=s) for m in methods for s in seeds]
    if (out / "compare.json").exists() and not resume:
        raise UserError(f"{out} already holds a comparison; pass --resume or choose another --out")
    results, windows = [], {}
    for one in configs:
        name = f"{one.method}-seed{one.seed}"
        report = None if progress is None else progress(one.method, one.seed)
        summary = run(one, interactions, out / name, resume=resume, progress=report)
        windows[one.method, one.seed] = _windows(out / name / "metrics.jsonl", summary)
        results.append(
            {"method": one.method, "seed": one.seed, "run": name}
            | {key: summary[key] for key in (*STAGES, "seconds")}
        )
    options = summary["config"] | {"methods": list(methods), "seeds": list(seeds)}
    comparison = {
        "results": results,
        "differences": _differences(windows, methods, seeds),
        "data": summary["data"],
        "task": config.task,
        "config": {k: v for k, v in options.items() if k not in ("method", "seed")},
        "versions": versions(),
    }
    write_json(out / "compare.json", comparison)
    return comparison


def _windows(path: Path, summary: dict[str, Any]) -> list[JsonObject]:
    lines = [*read_lines(path)]
    covered = sum(line.count("window") for line in lines)
    events = sum(summary[stage]["interactions"] for stage in STAGES)
    if covered != events:
        raise UserError(f"{path} covers {covered:,} events; the run beside it had {events:,}")
    return lines


def _differences(
    windows: dict[tuple[str, int], list[JsonObject]], methods: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    *baselines, method = methods
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        lines = {key: [w for w in run if w.text("stage") == stage] for key, run in windows.items()}
        events = np.array([w.count("window") for w in lines[method, seeds[0]]], dtype=np.float64)
        for baseline in baselines if len(events) else []:
            for metric in ("loss", "accuracy"):
                ours, theirs = (
                    np.array([[w.number(metric) for w in lines[m, seed]] for seed in seeds])
                    for m in (method, baseline)
                )  # [seeds, windows]: of one seed, both methods saw the same events
                mean, low, high = block_bootstrap(ours - theirs, events)
                rows.append(
                    {
                        "method": method,
                        "baseline": baseline,
                        "stage": stage,
                        "metric": metric,
                        "mean": mean,
                        "low": low,
                        "high": high,
                        "confidence": CONFIDENCE,
                        "windows": len(events),
                        "seeds": len(seeds),
                    }
                )
    return rows


def block_bootstrap(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the weighted mean of some series and its confidence interval.

    Drawn with replacement are the seeds, and blocks of sqrt(n) consecutive windows, since
    neighbouring windows of a stream resemble each other (circular block bootstrap, fixed random
    numbers). With one seed the interval covers other stretches of the stream only.

    Parameters
    ----------
    values : array [S, n]
        A series of n windows for each of S seeds.
    weights : array [n]
        Events of each window.

    Returns
    -------
    mean, low, high : float

    Examples
    --------
    >>> import numpy as np
    >>> block_bootstrap(np.full((2, 30), 0.5), np.ones(30))
    (0.5, 0.5, 0.5)
    """
    seeds, n = values.shape
    length = max(1, round(n**0.5))
    blocks = -(-n // length)
    random = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):  # one at a time: 20,000 windows at once would take gigabytes
        drawn = values[random.integers(0, seeds, seeds)].mean(0)
        starts = random.integers(0, n, (blocks, 1))
        chosen = ((starts + np.arange(length)) % n).ravel()[:n]
        means[i] = np.average(drawn[chosen], weights=weights[chosen])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(np.average(values.mean(0), weights=weights)), float(low), float(high)
