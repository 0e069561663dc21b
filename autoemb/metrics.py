"""Prequential metrics: sums that stay on the step's device until somebody asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from autoemb.tasks import Task

#: Buckets of logits, by the upper 16 bits of their float32: sign, exponent and 7 bits of mantissa,
#: so that logits of a bucket differ by at most 0.8 %.
BUCKETS = 1 << 16

#: Metrics that are means over events: those of windows make up that of a stage.
MEANS = ("loss", "accuracy", "mae")

_SUMS = ("weight", "loss", "correct", "label", "prediction", "error")


class Metrics:
    """Accumulate what a task reports of predictions, each made before its event was learnt.

    Adding never waits for the device, and its shapes depend on the batch size alone, so that it may
    be part of a CUDA graph. Metrics of parts of a stream, as of windows or processes, merge into
    those of the whole.

    Parameters
    ----------
    task : Task
    device : torch.device or str, default "cpu"

    Notes
    -----
    - "loss": mean of the task's loss; "accuracy": share of right predictions; "mae": mean absolute
      error of a value.
    - "auc": chance that a positive event is ranked above a negative one, ties counting half. Logits
      count as equal within a bucket of :data:`BUCKETS`.
    - "normalised_entropy": log loss over that of always predicting the share of positives.
    - "calibration": mean prediction over the share of positives.

    A metric that does not exist is None: all of them without events; the AUC and the normalised
    entropy of one class, the calibration without positives; and what is not finite.

    Examples
    --------
    >>> import torch
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import task_for
    >>> metrics = Metrics(task_for(None, Label(column="click", kind="click")))
    >>> metrics.add(torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1.0, 0.0, 0.0]))
    >>> values = metrics.compute()
    >>> list(values)
    ['loss', 'accuracy', 'auc', 'normalised_entropy', 'calibration']
    >>> round(values["loss"], 3), values["auc"]
    (0.471, 1.0)
    """

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self.task = task
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        ranked = 2 * BUCKETS if "auc" in task.metrics else 0
        # Negative events, then positive ones. Counts are whole numbers, exact up to 2**53.
        self._ranks = torch.zeros(ranked, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Take in a batch.

        Parameters
        ----------
        logits : Tensor[B, outputs]
        target : Tensor[B]
            As of the task.
        weight : Tensor[B], optional
            Of each event, from 0; 1 by default.
        """
        ones = torch.ones(len(target), dtype=torch.float64, device=logits.device)
        weight = ones if weight is None else weight.to(torch.float64)
        nothing = torch.zeros_like(ones)
        names, task = self.task.metrics, self.task
        binary = "calibration" in names
        of_events = {
            "weight": ones,
            "loss": task.loss(logits, target),
            "correct": task.correct(logits, target) if "accuracy" in names else nothing,
            "label": target if binary else nothing,
            "prediction": task.predict(logits) if binary else nothing,
            "error": (task.predict(logits) - target).abs() if "mae" in names else nothing,
        }
        scores = torch.stack([of_events[name].to(torch.float64) for name in _SUMS])  # [sums, B]
        self._sums += (scores * weight).sum(1)
        if len(self._ranks):
            place = bucket(logits.squeeze(1)) + BUCKETS * (target > 0.5)
            self._ranks.index_add_(0, place, weight)

    def merge(self, other: Metrics) -> None:
        """Add what another has accumulated of the same task."""
        self._sums += other._sums.to(self._sums.device)
        self._ranks += other._ranks.to(self._ranks.device)

    def reset(self) -> None:
        """Forget everything."""
        self._sums.zero_()
        self._ranks.zero_()

    def compute(self) -> dict[str, float | None]:
        """Return the task's metrics by name; this waits for the device."""
        sums = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        total = sums["weight"]
        loss = _ratio(sums["loss"], total)
        share = _ratio(sums["label"], total)
        values = {
            "loss": loss,
            "accuracy": _ratio(sums["correct"], total),
            "mae": _ratio(sums["error"], total),
            "auc": None if loss is None else self._auc(),
            "normalised_entropy": _ratio(loss, _entropy(share)),
            "calibration": _ratio(_ratio(sums["prediction"], total), share),
        }
        return {name: values[name] for name in self.task.metrics}

    def _auc(self) -> float | None:
        if not len(self._ranks):
            return None
        negative, positive = self._ranks.view(2, BUCKETS)
        below = negative.cumsum(0) - negative / 2
        pairs = negative.sum() * positive.sum()
        return _ratio(float((positive * below).sum()), float(pairs))

    def state_dict(self) -> dict[str, Any]:
        """Return what was accumulated, on the CPU."""
        return {"sums": self._sums.cpu().clone(), "ranks": self._ranks.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what was accumulated, of the same task.

        Raises
        ------
        ValueError
            For sums of another shape.
        """
        for name, own in (("sums", self._sums), ("ranks", self._ranks)):
            if state[name].shape != own.shape:
                raise ValueError(
                    f"{name} has shape {tuple(state[name].shape)}; expected {tuple(own.shape)}"
                )
        self._sums.copy_(state["sums"])
        self._ranks.copy_(state["ranks"])

    def to(self, device: torch.device | str) -> Self:
        """Move the sums to a device."""
        self._sums, self._ranks = self._sums.to(device), self._ranks.to(device)
        return self


def bucket(logits: Tensor) -> Tensor:
    """Return the bucket of each logit, int64 from 0 to :data:`BUCKETS` - 1, in their order.

    Examples
    --------
    >>> bucket(torch.tensor([-1.0, -0.0, 0.0, 1.0])).tolist()
    [16511, 32768, 32768, 49024]
    """
    single = logits.to(torch.float32) + 0.0  # -0 is 0
    bits = single.view(torch.int32).to(torch.int64)
    # As integers, floats from 0 ascend and those below descend: flip the latter.
    ordered = torch.where(bits < 0, -bits - 1 - 2**31, bits)
    return (ordered >> 16) + BUCKETS // 2


def _ratio(value: float | None, by: float | None) -> float | None:
    """Return a quotient, or None where there is none."""
    if value is None or by is None or by == 0 or not math.isfinite(value):
        return None
    return value / by


def _entropy(share: float | None) -> float | None:
    """Return the log loss of always predicting the share of positives."""
    if share is None or not 0 < share < 1:
        return None
    return -(share * math.log(share) + (1 - share) * math.log1p(-share))
