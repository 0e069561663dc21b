"""Sums of losses over windows, stages and popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import json_text, told
from autoemb.metrics import Metrics
from autoemb.streaming import Step
from autoemb.streaming.history import POPULARITY_WIDTH, popularity_bucket
from autoemb.streaming.transfer import Download
from autoemb.tasks import Task

STAGES = ("offline", "online")

#: Sums over events: their number, their weight, loss, right predictions.
_SUMS = 4


class Recorder:
    """Collect what a run reports.

    Parameters
    ----------
    task : Task
    features : mapping of str to str
        Sparse features, and the table of each.
    sizes : int
        N, or 0 for a method without a mix.
    offline : int
        Events of the offline stage; a batch that straddles its end is split between the stages.
    window : int
        Events of one line; a line is written at the first end of a batch or stage at which the
        window is full.
    path : Path, optional
        ``metrics.jsonl``; appended to.

    Notes
    -----
    Where events have weights, every mean is weighted.
    """

    def __init__(
        self,
        task: Task,
        features: Mapping[str, str],
        sizes: int,
        offline: int,
        window: int,
        path: Path | None = None,
    ) -> None:
        self.task, self.features, self.sizes = task, dict(features), sizes
        self.offline, self.window, self.path = offline, window, path
        self.events = 0
        self._steps: Download[Step] = Download()
        # Last dimension of every sum: events, their weight, loss, right predictions; of features
        # also the mix of the N sizes.
        shape = len(STAGES), len(features), POPULARITY_WIDTH, _SUMS + sizes
        self._octaves = torch.zeros(shape, dtype=torch.float64)
        self._stages = torch.zeros(len(STAGES), _SUMS, dtype=torch.float64)
        self._window = torch.zeros(_SUMS, dtype=torch.float64)
        self._window_mix = torch.zeros(len(features), sizes, dtype=torch.float64)
        self._metrics = {name: Metrics(task) for name in (*STAGES, "window")}

    def add(self, step: Step) -> None:
        """Take in one batch: at once, or when it has arrived from a GPU."""
        self._steps.add(step)
        self._take_arrived()

    def _take_arrived(self, wait: bool = False) -> None:
        for step in self._steps.arrived(wait):
            self._take(step)

    def _take(self, step: Step) -> None:
        outcome = step.outcome
        losses = outcome.losses
        events = len(losses)
        ones = torch.ones_like(losses)
        right = torch.zeros_like(losses)
        if "accuracy" in self.task.metrics:
            right = self.task.correct(outcome.logits, step.label).to(losses.dtype)
        scores = torch.stack([ones, losses, right], 1)
        if step.weight is not None:
            scores *= step.weight.unsqueeze(1)
        scores = torch.cat([ones.unsqueeze(1), scores], 1)  # [B, sums]
        cut = min(max(self.offline - self.events, 0), events)
        for part, stage in ((slice(0, cut), 0), (slice(cut, events), 1)):
            if part.start < part.stop:
                self._take_part(step, scores, part, stage)

    def _take_part(self, step: Step, scores: Tensor, part: slice, stage: int) -> None:
        """Take in some events of a batch, all of one stage."""
        outcome = step.outcome
        weight = None if step.weight is None else step.weight[part]
        total = scores[part].to(torch.float64).sum(0)
        self._window += total
        self._stages[stage] += total
        self._metrics["window"].add(outcome.logits[part], step.label[part], weight)
        for number, (feature, table) in enumerate(self.features.items()):
            values = scores[part]
            if outcome.mix is not None:
                mixed = outcome.mix[table][outcome.places[feature][part]]
                mixed = mixed if weight is None else mixed * weight.unsqueeze(1)
                values = torch.cat([values, mixed], 1)
            values = values.to(torch.float64)
            octave = popularity_bucket(step.popularity[feature][part])
            self._octaves[stage, number].index_add_(0, octave, values)
            if outcome.mix is not None:
                self._window_mix[number] += values[:, _SUMS:].sum(0)
        self.events += part.stop - part.start
        if self._window[0] >= self.window or self.events == self.offline:
            self._write_window()

    def close_window(self) -> None:
        """Write the line of the open window, if it holds any event."""
        self._take_arrived(wait=True)
        self._write_window()

    def _write_window(self) -> None:
        events = int(self._window[0])
        if events == 0:
            return
        stage, metrics = STAGES[self.events > self.offline], self._metrics["window"]
        line = {
            "interactions": self.events,
            "stage": stage,
            **self._means(self._window, metrics),
            "weights": self._mixes(),
            "window": events,
        }
        self._metrics[stage].merge(metrics)
        metrics.reset()
        self._window.zero_()
        self._window_mix.zero_()
        if self.path is not None:
            with told(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json_text(line) + "\n")

    def _means(self, sums: Tensor, metrics: Metrics) -> dict[str, float | None]:
        """Return the task's metrics, the loss first."""
        return {**metrics.compute(), **self._loss_and_accuracy(sums.tolist())}

    def _loss_and_accuracy(self, sums: Sequence[float]) -> dict[str, float | None]:
        _, weight, loss, right = sums[:_SUMS]
        found = {"loss": loss / weight if weight else None}
        if "accuracy" in self.task.metrics:
            found["accuracy"] = right / weight if weight else None
        return found

    def _mix_of(self, sums: Sequence[float]) -> list[float] | None:
        return [w / sums[1] for w in sums[_SUMS:]] if self.sizes and sums[1] else None

    def _mixes(self) -> dict[str, list[float]] | None:
        if self.sizes == 0:
            return None
        means = (self._window_mix / self._window[1]).tolist()
        return dict(zip(self.features, means, strict=True))

    def stage(self, name: str) -> dict[str, float | int | None]:
        """Return metrics and number of events of a stage; None where there were none."""
        self._take_arrived(wait=True)
        sums, metrics = self._stages[STAGES.index(name)], Metrics(self.task)
        metrics.merge(self._metrics[name])
        if STAGES[self.events > self.offline] == name:
            metrics.merge(self._metrics["window"])
        return {**self._means(sums, metrics), "interactions": int(sums[0])}

    def by_popularity(self, name: str) -> list[dict[str, Any]]:
        """Return a stage's figures for each feature and octave of popularity that occurred."""
        self._take_arrived(wait=True)
        rows = []
        found = self._octaves[STAGES.index(name)]
        for feature, buckets in zip(self.features, found, strict=True):
            for octave, sums in enumerate(buckets.tolist()):
                if sums[0] == 0:
                    continue
                rows.append(
                    {
                        "feature": feature,
                        "low": 2**octave - 1,
                        "high": 2 ** (octave + 1) - 2,
                        "interactions": int(sums[0]),
                        **self._loss_and_accuracy(sums),
                        "weights": self._mix_of(sums),
                    }
                )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and how much of the file was written."""
        self._take_arrived(wait=True)
        return {
            "events": self.events,
            "window": self._window,
            "window_mix": self._window_mix,
            "stages": self._stages,
            "octaves": self._octaves,
            "metrics": {name: metrics.state_dict() for name, metrics in self._metrics.items()},
            "file_size": self._file_size(),
        }

    def _file_size(self) -> int:
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` and cut the file back to what it was then."""
        self.events, self._steps = state["events"], Download()
        self._window, self._stages = state["window"].clone(), state["stages"].clone()
        self._window_mix, self._octaves = state["window_mix"].clone(), state["octaves"].clone()
        for name, metrics in self._metrics.items():
            metrics.load_state_dict(state["metrics"][name])
        if self.path is not None:
            size = self._file_size()
            if size < state["file_size"]:
                raise UserError(
                    f"{self.path} has {size} bytes; expected at least the {state['file_size']} "
                    "that the interrupted run wrote"
                )
            # Opening makes it where nothing was written yet.
            with told(self.path), self.path.open("ab") as file:
                file.truncate(state["file_size"])
