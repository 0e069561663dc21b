"""What a person should know of data that were read: nothing is left out or guessed in silence."""

from __future__ import annotations

import polars as pl
import torch

from autoemb.batch import MISSING
from autoemb.data.dataset import Dataset
from autoemb.data.message import printable
from autoemb.tasks import task_for


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
    lines += _one_class(data)
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
    values = data.frame[label.column]
    if values.is_empty() or (first := values[0]) is None:
        return []
    name = printable(label.column)
    if label.kind == "rating":
        target = task_for("regression", label).target(torch.from_numpy(values.to_numpy().copy()))
        if bool(target.min() != target.max()):
            return []
        every = "positive" if target[0] else "not positive"
        return [f"every {name} is {every} on the scale of {_scale(label.scale)}: there is nothing "
                "to tell apart; see --scale and --positive-above"]  # fmt: skip
    if values.min() != values.max():
        return []
    shown = label.classes[int(first)] if label.classes else f"{first:g}"
    return [f"every {name} is {printable(shown)}: there is nothing to predict"]


def _scale(scale: tuple[float, float] | None) -> str:
    low, high = scale or (0.0, 0.0)
    return f"{low:g} to {high:g}"
