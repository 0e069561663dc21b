"""Paired differences between methods that saw the same events, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoemb.errors import UserError
from autoemb.lab import records
from autoemb.lab.recorder import STAGES
from autoemb.lab.records import Window
from autoemb.metrics import MEANS

CONFIDENCE = 0.95
RESAMPLES = 4000


def read_windows(path: Path, summary: Mapping[str, Any]) -> list[Window]:
    """Return the lines of a run's ``metrics.jsonl``.

    Raises
    ------
    UserError
        If they do not cover the events of the run's ``summary.json``.
    """
    lines = [*records.read_windows(path)]
    covered = sum(line.window for line in lines)
    events = sum(summary[stage]["interactions"] for stage in STAGES)
    if covered != events:
        raise UserError(f"{path} covers {covered:,} events; the run beside it had {events:,}")
    return lines


def differences(
    windows: dict[tuple[str, int], list[Window]], methods: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the paired differences between the last method and each other one, by stage.

    Parameters
    ----------
    windows : dict
        The lines of each method's and seed's run, over the same events.
    methods, seeds : sequence

    Returns
    -------
    list of dict
        Mean and interval [low, high] of each stage, baseline and metric.
    """
    *baselines, method = methods
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        lines = {key: [w for w in run if w.stage == stage] for key, run in windows.items()}
        cuts = {tuple((w.interactions, w.window) for w in run) for run in lines.values()}
        if len(cuts) > 1:
            raise UserError(f"the runs' windows of the {stage} stage differ; expected the same")
        events = np.array([window for _, window in cuts.pop()], dtype=np.float64)
        every = [window.metrics for run in lines.values() for window in run]
        metrics = [name for name in MEANS if every and all(name in found for found in every)]
        for baseline, metric in product(baselines, metrics):
            mine, theirs = (
                np.array([[w.metrics[metric] for w in lines[m, seed]] for seed in seeds])
                for m in (method, baseline)
            )  # [seeds, windows]: of one seed, both methods saw the same events
            mean, low, high = block_bootstrap(mine - theirs, events)
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
