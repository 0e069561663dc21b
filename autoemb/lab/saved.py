"""What the checkpoint of a run holds, checked before anything is built of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import torch
from annotated_types import Ge, Le
from pydantic import Field, JsonValue, model_validator

from autoemb.declared import Declared
from autoemb.errors import UserError
from autoemb.streaming import checkpoint

Count = Annotated[int, Ge(0), Le(2**62)]


class Position(Declared):
    """Where in its stream a run is."""

    position: Count


class SavedRun(Declared):
    """The state of a run after a batch.

    Attributes
    ----------
    config, data : dict
        What makes the run this run and no other.
    origin : str or None
        Digest of the state that it began with, if that was another run's.
    learner, recorder : dict
        What these load.
    stream : Position
    seconds : float
        Spent so far.
    predictions : int or None
        Events whose predictions were written, where they are.
    """

    config: dict[str, JsonValue]
    data: dict[str, JsonValue]
    origin: str | None
    learner: dict[str, Any]
    recorder: dict[str, Any]
    stream: Position
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    predictions: Count | None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        done = self.stream.position
        events = self.recorder.get("events")
        if type(events) is not int or events != done:
            raise ValueError(f"recorder.events is not stream.position, {done}")
        if self.predictions not in (None, done):
            raise ValueError(f"predictions is {self.predictions}; expected {done} or none")
        return self


def read_saved(file: Path) -> SavedRun:
    """Read the checkpoint of a run.

    Raises
    ------
    UserError
        If the file is missing, broken, or not that of a run.
    """
    saved = checkpoint.load(file)
    if "learner" not in saved:
        raise UserError(f"{file} does not hold the state of a run")
    return SavedRun.parse(saved, str(file))


def check_alike(found: object, wanted: object, place: str) -> None:
    """Check that a state has the names, kinds and shapes of another.

    Raises
    ------
    ValueError
        Names the first place that differs.

    Examples
    --------
    >>> check_alike({"sums": torch.zeros(2)}, {"sums": torch.ones(3)}, "recorder")
    Traceback (most recent call last):
        ...
    ValueError: recorder.sums is torch.float32 [2]; expected torch.float32 [3]
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        if found.keys() != wanted.keys():
            raise ValueError(f"{place} has {[*found]}; expected {[*wanted]}")
        for name in wanted:
            check_alike(found[name], wanted[name], f"{place}.{name}")
    elif _kind(found) != _kind(wanted):
        raise ValueError(f"{place} is {_kind(found)}; expected {_kind(wanted)}")


def _kind(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {[*value.shape]}"
    return type(value).__name__
