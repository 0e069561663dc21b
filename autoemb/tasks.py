"""The two tasks of the paper: what a rating becomes, how a prediction is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Task:
    """A prediction task over ratings.

    Attributes
    ----------
    name : str
    outputs : int
        Width of the model's output.
    target : callable
        Stars [B] on a scale that ends at 5 -> targets [B].
    loss : callable
        (logits [B, outputs], targets [B]) -> loss of each event [B], differentiable.
    correct : callable
        (logits [B, outputs], targets [B]) -> whether each prediction is right [B], bool.

    Examples
    --------
    >>> import torch
    >>> stars = torch.tensor([0.5, 3.5, 4.0])
    >>> TASKS["regression"].target(stars), TASKS["classification"].target(stars)
    (tensor([0., 0., 1.]), tensor([0, 3, 3]))
    """

    name: str
    outputs: int
    target: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    correct: Callable[[Tensor, Tensor], Tensor]


def _is_positive(stars: Tensor) -> Tensor:
    return (stars > 3.5).to(torch.float32)


def _squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Eq. 5: squared error of the sigmoid."""
    return (torch.sigmoid(logits.squeeze(1)) - target).square()


def _right_side(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.squeeze(1) > 0) == (target > 0.5)


def _star_class(stars: Tensor) -> Tensor:
    return (stars.ceil().long() - 1).clamp(0, 4)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits, target, reduction="none")


def _right_class(logits: Tensor, target: Tensor) -> Tensor:
    return logits.argmax(1) == target


TASKS = {
    task.name: task
    for task in (
        Task("regression", 1, _is_positive, _squared_error, _right_side),
        Task("classification", 5, _star_class, _cross_entropy, _right_class),
    )
}
