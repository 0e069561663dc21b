"""What a person should know of data that were read: nothing is left out or guessed in silence."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from autoemb.batch import MISSING
from autoemb.data.dataset import Dataset
from autoemb.data.message import printable
from autoemb.tasks import task_for

#: Deviations from 0 of a value's mean that are worth a word.
_FAR = 3.0


def notes_of(data: Dataset, guessed_scale: bool) -> tuple[str, ...]:
    """Return the notes of a data set, a line each.

    Parameters
    ----------
    data : Dataset
    guessed_scale : bool
        Whether the scale of a rating comes from its largest value alone.
    """
    lines = []
    if data.skipped_rows:
        lines.append(f"left out {data.skipped_rows:,} broken rows")
    if data.unused:
        lines.append(f"not used: {printable(', '.join(data.unused), 500)}")
    for name, count in _missing(data).items():
        lines.append(
            f"{printable(name)} is missing in {count:,} events, which share an id of their own"
        )
    label = data.schema.label
    if guessed_scale and label.scale is not None:
        top, high = float(data.frame[label.column].max() or 0), label.scale[1]  # type: ignore[arg-type]
        if top != high:
            lines.append(
                f"{printable(label.column)} reaches {top:g} and is read on a scale of 0 to "
                f"{high:g}; --scale LOW,HIGH says otherwise"
            )
    lines += _one_class(data) + _far_from_zero(data)
    return tuple(f"{data.name}: {line}" for line in lines)


def _missing(data: Dataset) -> dict[str, int]:
    """Return how many events have no id of their own, for the features where some have none."""
    counts = {}
    for feature in data.schema.sparse:
        column = data.frame[feature.column]
        none = "" if column.dtype == pl.String else MISSING
        if count := int((column == none).sum()):
            counts[feature.column] = count
    return counts


def _one_class(data: Dataset) -> list[str]:
    """Say that a label has one value only: any constant predicts it, and accuracy says nothing."""
    label = data.schema.label
    name = printable(label.column)
    values = data.frame[label.column]
    ends: Any = values.min(), values.max()
    if label.kind == "rating":
        low, high = task_for("regression", label).target(torch.tensor(ends)).tolist()
        every = "positive" if high else "not positive"
        text = f"{every} on the scale of {_scale(label.scale)}; --scale and --positive-above"
        return [] if low != high else [f"every {name} is {text} say otherwise"]
    if ends[0] != ends[1]:
        return []
    shown = label.classes[int(ends[0])] if label.classes else f"{ends[0]:g}"
    return [f"every {name} is {printable(shown)}: there is nothing to tell apart"]


def _far_from_zero(data: Dataset) -> list[str]:
    """Say that a value is far from 0, where every prediction starts."""
    label = data.schema.label
    if label.kind != "value":
        return []
    values = data.frame[label.column].to_numpy()
    mean, spread = float(values.mean()), float(values.std())
    if abs(mean) <= _FAR * spread:
        return []
    return [
        f"{printable(label.column)} is {mean:g} give or take {spread:g}, and predictions start at "
        "0; subtract its mean, or they take long to get there"
    ]


def _scale(scale: tuple[float, float] | None) -> str:
    low, high = scale or (0.0, 0.0)
    return f"{low:g} to {high:g}"
