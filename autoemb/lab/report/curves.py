"""Recorded windows and buckets, merged over seeds for drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoemb.lab.records import Bucket
from autoemb.lab.report.recording import Run

Array = NDArray[np.float64]
# Larger than any loss worth an axis; also keeps sums of squares inside the figure code finite.
_DRAWABLE = 1e9


@dataclass(frozen=True)
class Curve:
    """A quantity over the stream: position x (events so far), value y, weight (events)."""

    x: Array
    y: Array
    weight: Array


def over_stream(runs: Sequence[Run], metric: str) -> Curve:
    """Average a metric over runs, window by window, weighted by their events.

    Parameters
    ----------
    runs
        Runs of one method with different seeds.
    metric
        "loss", "accuracy" or whatever else the windows hold.

    Returns
    -------
    Curve
        One point for each position at which a run recorded a finite value.
    """
    windows = [window for run in runs for window in run.windows]
    x = np.array([window.interactions for window in windows], dtype=np.float64)
    y = np.array([window.metrics.get(metric, np.nan) for window in windows], dtype=np.float64)
    weight = np.array([window.window for window in windows], dtype=np.float64)
    keep = (np.abs(y) < _DRAWABLE) & (weight > 0)  # False for NaN
    positions, index = np.unique(x[keep], return_inverse=True)
    total = np.bincount(index, weight[keep], minlength=len(positions))
    mean = np.bincount(index, weight[keep] * y[keep], minlength=len(positions)) / total
    return Curve(positions, mean, np.asarray(total, dtype=np.float64))


def minus(curve: Curve, baseline: Curve) -> Curve:
    """Subtract a baseline at the positions both have.

    Examples
    --------
    >>> ones, steps = np.ones(3), np.arange(3.0)
    >>> minus(Curve(steps, 2 * ones, ones), Curve(steps[1:], ones[1:], ones[1:])).y
    array([1., 1.])
    """
    _, mine, theirs = np.intersect1d(curve.x, baseline.x, return_indices=True)
    return Curve(curve.x[mine], curve.y[mine] - baseline.y[theirs], curve.weight[mine])


def thin(curve: Curve, points: int = 300) -> Curve:
    """Merge neighbouring windows so that at most ``points`` are left.

    A figure 360 points wide shows no more, and 20,000 windows would make a page of megabytes.

    Examples
    --------
    >>> thin(Curve(np.arange(4.0), np.array([0.0, 2.0, 4.0, 8.0]), np.array([1.0, 1, 3, 1])), 2).y
    array([1., 5.])
    """
    if len(curve.x) <= points:
        return curve
    edges = np.arange(points) * len(curve.x) // points
    weight = np.add.reduceat(curve.weight, edges)
    last = np.append(edges[1:], len(curve.x)) - 1
    return Curve(curve.x[last], np.add.reduceat(curve.weight * curve.y, edges) / weight, weight)


def smooth(curve: Curve, share: float = 1 / 40) -> Curve:
    """Average with a Gaussian whose deviation is a share of the curve's points.

    Examples
    --------
    >>> flat = Curve(np.arange(120.0), np.full(120, 0.25), np.ones(120))
    >>> bool(np.allclose(smooth(flat).y, 0.25))
    True
    """
    deviation = max(share * len(curve.x), 0.5)
    radius = int(np.ceil(3 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    middle = slice(radius, radius + len(curve.x))
    if len(curve.x) == 0:
        return curve
    total = np.convolve(curve.weight, kernel)[middle]
    return Curve(curve.x, np.convolve(curve.weight * curve.y, kernel)[middle] / total, curve.weight)


def by_popularity(runs: Sequence[Run], stage: str, feature: str) -> list[Bucket]:
    """Merge the buckets of several runs, weighted by their events.

    Returns
    -------
    list of Bucket
        Ascending in popularity, one for each octave with events; a mean is NaN, and the weights
        None, where no run recorded them.
    """
    merged: dict[tuple[int, int], list[Bucket]] = {}
    for run in runs:
        for bucket in run.summary.by_popularity.stage(stage):
            if bucket.feature == feature and bucket.interactions:
                merged.setdefault((bucket.low, bucket.high), []).append(bucket)
    return [_merge(parts) for _, parts in sorted(merged.items())]


def _merge(parts: list[Bucket]) -> Bucket:
    first = parts[0]
    sizes = {len(part.weights) for part in parts if part.weights}
    weights = None
    if len(sizes) == 1:
        weights = tuple(
            _mean([part.weights[n] if part.weights else np.nan for part in parts], parts)
            for n in range(sizes.pop())
        )
    return Bucket(
        feature=first.feature,
        low=first.low,
        high=first.high,
        interactions=min(sum(part.interactions for part in parts), 2**63 - 1),
        loss=_mean([part.loss for part in parts], parts),
        weights=weights,
    )


def _mean(values: list[float], parts: list[Bucket]) -> float:
    known = [
        (value, part.interactions)
        for value, part in zip(values, parts, strict=True)
        if abs(value) < _DRAWABLE
    ]
    events = sum(count for _, count in known)
    return sum(value * count for value, count in known) / events if events else float("nan")
