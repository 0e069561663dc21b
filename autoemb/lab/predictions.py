"""Every event's prediction in a Parquet file, also of a run that was interrupted."""

from __future__ import annotations

import fcntl
import os
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import is_folder, make_folder_of, replacing, told
from autoemb.streaming import Step
from autoemb.streaming.transfer import Download
from autoemb.tasks import Task

#: Stands for a timestamp that an event has not.
_NO_TIME = np.iinfo(np.int64).min


class Predictions:
    """Write the predictions of a run as they come.

    They are kept as plain records in a hidden file beside the Parquet file, which is made when the
    run is complete: Parquet files cannot be written to again, as a run that goes on has to.

    Parameters
    ----------
    path : Path
        The Parquet file. Its columns: ``event`` (from 0 on, in the order of the run),
        ``timestamp``, ``label`` (what is to be predicted), and ``prediction``: the probability of a
        positive label, or ``prediction_0``, ``prediction_1``, ... of each class.
    task : Task

    Raises
    ------
    UserError
        From every method, if a file cannot be written or is written by another run.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self.task = path, task
        self.events = 0
        self._records = path.with_name(f".{path.name}.records")
        self._dtype = np.dtype(
            [("timestamp", "<i8"), ("label", "<f4"), ("prediction", "<f4", (task.outputs,))]
        )
        self._steps: Download[tuple[Tensor, Tensor]] = Download()
        self._timestamps: deque[npt.NDArray[np.int64] | int] = deque()
        make_folder_of(path)
        if is_folder(path):
            raise UserError(f"{path} is a folder; --predictions takes a file")
        with told(self._records):
            self._file: BinaryIO = self._records.open("ab")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise UserError(f"{path} is being written by another run") from None

    def begin(self, events: int) -> None:
        """Cut what is there back to the predictions of so many events."""
        size = events * self._dtype.itemsize
        found = self._records.stat().st_size
        if found < size:
            raise UserError(
                f"{self._records} has {found} bytes; expected at least the {size} that the "
                "interrupted run wrote"
            )
        with told(self._records):
            self._file.truncate(size)
        self.events = events

    def add(self, step: Step, timestamp: npt.NDArray[np.int64] | None) -> None:
        """Take in one batch: at once, or when it has arrived from a GPU."""
        self._timestamps.append(_NO_TIME if timestamp is None else timestamp)
        self._steps.add((step.outcome.logits, step.label))
        self._take_arrived()

    def _take_arrived(self, wait: bool = False) -> None:
        with told(self._records):
            for logits, target in self._steps.arrived(wait):
                records = np.empty(len(target), self._dtype)
                records["timestamp"] = self._timestamps.popleft()
                records["label"] = target
                records["prediction"] = self.task.predict(logits).view(len(target), -1)
                self._file.write(records.data)
                self.events += len(records)

    def flush(self) -> int:
        """Return how many events' predictions are on disk: all that were added."""
        self._take_arrived(wait=True)
        with told(self._records):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.events

    def finish(self) -> None:
        """Make the Parquet file of the records."""
        import polars as pl  # which the rest of a run may do without

        self.flush()
        records = np.memmap(self._records, self._dtype, mode="r")
        predictions = records["prediction"].T
        names = ["prediction"] if len(predictions) == 1 else [f"prediction_{k}" for k in range(99)]
        columns: dict[str, Any] = {
            "event": np.arange(len(records)),
            "timestamp": pl.Series(records["timestamp"]).replace(_NO_TIME, None),
            "label": records["label"],
            **dict(zip(names, predictions, strict=False)),
        }
        try:
            with replacing(self.path) as part:
                pl.DataFrame(columns).write_parquet(part)
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{self.path} cannot be written: {error}") from None

    def discard(self) -> None:
        """Remove the records."""
        self._records.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others write the file."""
        with told(self._records):
            self._file.close()
            if self._records.exists() and not self._records.stat().st_size:
                self.discard()
