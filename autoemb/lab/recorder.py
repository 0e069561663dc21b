"""Sums of losses over windows, stages and popularity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import json_text
from autoemb.streaming import Step
from autoemb.streaming.history import POPULARITY_WIDTH, popularity_bucket
from autoemb.streaming.transfer import Download

STAGES = ("offline", "online")


class Recorder:
    """Collect what a run reports.

    Parameters
    ----------
    features : mapping of str to str
        Sparse features, and the table of each.
    sizes : int
        N, or 0 for a method without weights.
    correct : callable
        (logits, target) -> whether each prediction is right [B].
    offline : int
        Events of the offline stage; a batch that straddles its end is split between the stages.
    window : int
        Events of one line; a line is written at the first end of a batch or stage at which the
        window is full.
    path : Path, optional
        ``metrics.jsonl``; appended to.
    """

    def __init__(
        self,
        features: Mapping[str, str],
        sizes: int,
        correct: Callable[[Tensor, Tensor], Tensor],
        offline: int,
        window: int,
        path: Path | None = None,
    ) -> None:
        self.features, self.sizes, self.correct = dict(features), sizes, correct
        self.offline, self.window, self.path = offline, window, path
        self.events = 0
        self._steps: Download[Step] = Download()
        # Last dimension of every sum: events, loss, correct predictions, weights of the N sizes.
        width = 3 + sizes
        self._window = torch.zeros(len(features), width, dtype=torch.float64)
        self._stages = torch.zeros(
            len(STAGES), len(features), POPULARITY_WIDTH, width, dtype=torch.float64
        )

    def add(self, step: Step) -> None:
        """Take in one batch: at once, or when it has arrived from a GPU."""
        self._steps.add(step)
        self._take_arrived()

    def _take_arrived(self, wait: bool = False) -> None:
        for step in self._steps.arrived(wait):
            self._take(step)

    def _take(self, step: Step) -> None:
        outcome = step.outcome
        scores = torch.stack(
            [
                torch.ones_like(outcome.losses),
                outcome.losses,
                self.correct(outcome.logits, step.label).to(outcome.losses.dtype),
            ],
            1,
        )
        events = len(scores)
        cut = min(max(self.offline - self.events, 0), events)
        for part, stage in ((slice(0, cut), 0), (slice(cut, events), 1)):
            if part.start == part.stop:
                continue
            for number, (feature, table) in enumerate(self.features.items()):
                values = scores[part]
                if outcome.mix is not None:
                    mixed = outcome.mix[table][outcome.places[feature][part]]
                    values = torch.cat([values, mixed], 1)
                values = values.to(torch.float64)
                bucket = popularity_bucket(step.popularity[feature][part])
                self._stages[stage, number].index_add_(0, bucket, values)
                self._window[number] += values.sum(0)
            self.events += part.stop - part.start
            if self._window[0, 0] >= self.window or self.events == self.offline:
                self._write_window()

    def close_window(self) -> None:
        """Write the line of the open window, if it holds any event."""
        self._take_arrived(wait=True)
        self._write_window()

    def _write_window(self) -> None:
        events, loss, correct = self._window[0, :3].tolist()
        if events == 0:
            return
        line = {
            "interactions": self.events,
            "stage": STAGES[self.events > self.offline],
            "loss": loss / events,
            "accuracy": correct / events,
            "weights": self._weights(self._window),
            "window": int(events),
        }
        self._window.zero_()
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json_text(line) + "\n")
            except OSError as error:
                raise UserError(f"{self.path} cannot be written: {error.strerror}") from None

    def _weights(self, sums: Tensor) -> dict[str, list[float]] | None:
        if self.sizes == 0:
            return None
        means = (sums[:, 3:] / sums[:, :1]).tolist()
        return dict(zip(self.features, means, strict=True))

    def stage(self, name: str) -> dict[str, float | int | None]:
        """Return loss, accuracy and number of events of a stage; None where there were none."""
        self._take_arrived(wait=True)
        events, loss, correct = self._stages[STAGES.index(name), 0].sum(0)[:3].tolist()
        return {
            "loss": loss / events if events else None,
            "accuracy": correct / events if events else None,
            "interactions": int(events),
        }

    def by_popularity(self, name: str) -> list[dict[str, Any]]:
        """Return a stage's figures for each feature and octave of popularity that occurred."""
        self._take_arrived(wait=True)
        rows = []
        found = self._stages[STAGES.index(name)]
        for feature, buckets in zip(self.features, found, strict=True):
            for octave, sums in enumerate(buckets.tolist()):
                events, loss, correct, *weights = sums
                if events == 0:
                    continue
                rows.append(
                    {
                        "feature": feature,
                        "low": 2**octave - 1,
                        "high": 2 ** (octave + 1) - 2,
                        "interactions": int(events),
                        "loss": loss / events,
                        "accuracy": correct / events,
                        "weights": [w / events for w in weights] if self.sizes else None,
                    }
                )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and how much of the file was written."""
        self._take_arrived(wait=True)
        return {
            "events": self.events,
            "window": self._window,
            "stages": self._stages,
            "file_size": self._file_size(),
        }

    def _file_size(self) -> int:
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` and cut the file back to what it was then."""
        self.events, self._steps = state["events"], Download()
        self._window, self._stages = state["window"].clone(), state["stages"].clone()
        if self.path is not None:
            size = self._file_size()
            if size < state["file_size"]:
                raise UserError(
                    f"{self.path} has {size} bytes; expected at least the {state['file_size']} "
                    "that the interrupted run wrote"
                )
            try:
                with self.path.open("ab") as file:  # which makes it where nothing was written yet
                    file.truncate(state["file_size"])
            except OSError as error:
                raise UserError(f"{self.path} cannot be written: {error.strerror}") from None
