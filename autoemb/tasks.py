"""What a label becomes, how a prediction of it is scored: a class a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from autoemb.errors import UserError
from autoemb.schema import Label

#: The least chance that sums of labels are taken to tell.
RAREST = 0.01


@dataclass(frozen=True)
class Task:
    """A prediction task over a label.

    Parameters
    ----------
    label : Label
        Of one of ``kinds``; a rating with its scale.

    Attributes
    ----------
    name : str
    kinds : tuple of str
        The kinds of labels it is for.
    metrics : tuple of str
        What :class:`autoemb.metrics.Metrics` reports of it.
    odds : bool
        Whether what features say adds up as log-odds.

    Raises
    ------
    UserError
        For a label of another kind, and a rating without a scale.
    """

    label: Label

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    odds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        label = self.label
        if label.kind not in self.kinds:
            raise UserError(
                f"task {self.name} does not fit the label {label.column!r} of kind {label.kind}; "
                f"expected a label of kind {' or '.join(self.kinds)}"
            )
        if label.kind == "rating" and label.scale is None:
            raise UserError(f"the rating {label.column!r} has no scale; expected scale=(low, high)")

    @property
    def outputs(self) -> int:
        """Width of the model's output."""
        return 1

    def target(self, labels: Tensor) -> Tensor:
        """Return what is to be predicted [B], of labels [B] as they stand in the data: float32."""
        return labels.to(torch.float32)

    def check(self, labels: Tensor) -> None:
        """Check that labels [B] are such as they may stand in the data.

        Raises
        ------
        UserError
            For one that is not; names the event and what was expected.
        """
        low, high = self.label.scale or (0.0, 1.0)  # a click may be soft: a number between
        wanted = f"a number from {low:g} to {high:g}"
        _check_labels(labels, (labels >= low) & (labels <= high), wanted)

    def grade(self, labels: Tensor) -> Tensor | None:
        """Return what labels [B] say beyond their targets: a rating's place on its scale, 0 to 1.

        None where a label is its target.
        """
        if self.label.kind != "rating":
            return None
        return _stars(self.label, labels) / 5

    @property
    def start(self) -> float:
        """What a label is expected to be before there is one, of each output."""
        return 0.5

    def measured(self, target: Tensor) -> Tensor:
        """Return targets [B] as the numbers [B, outputs] whose means are predictions, float32."""
        return target.to(torch.float32).unsqueeze(1)

    def expected(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return what targets are expected to be [B, outputs], where nothing adds up as log-odds.

        Parameters
        ----------
        mean : Tensor[B, outputs]
            Of all targets.
        offsets : Tensor[B, F, outputs]
            What each feature adds to it.
        """
        return mean + offsets.sum(1)

    def expecting(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return the logits [B, outputs] that predict what is expected."""
        return torch.logit(self.expected(mean, offsets).clamp(RAREST, 1 - RAREST))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each event [B], differentiable, of logits [B, outputs]."""
        raise NotImplementedError

    def predict(self, logits: Tensor) -> Tensor:
        """Return what logits [B, outputs] say: probabilities [B] or [B, classes], or values [B]."""
        return torch.sigmoid(logits.squeeze(1))

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return whether each prediction is right [B], bool, where "accuracy" is a metric."""
        return (logits.squeeze(1) > 0) == (target > 0.5)


def _check_labels(labels: Tensor, sound: Tensor, wanted: str) -> None:
    if not bool(sound.all()):
        event = int((~sound).nonzero()[0])
        raise UserError(f"event {event}: label is {labels[event]:g}; expected {wanted}")


def _stars(label: Label, ratings: Tensor) -> Tensor:
    """Return ratings on a scale from 0 to 5, in float32 whatever they come in."""
    low, high = label.scale or (0.0, 5.0)
    return (ratings.to(torch.float32) - low) * (5 / (high - low))


class Regression(Task):
    """The paper's first: squared error (Eq. 5) of the chance that a rating is positive.

    Examples
    --------
    >>> import torch
    >>> task = Regression(Label(column="rating", kind="rating", scale=(0, 5)))
    >>> task.target(torch.tensor([0.5, 3.5, 4.0]))
    tensor([0., 0., 1.])
    """

    name = "regression"
    kinds = ("rating",)
    metrics = ("loss", "accuracy", "auc")

    def target(self, labels: Tensor) -> Tensor:
        """Return 1 for positive ratings and 0 for the others, float32."""
        if self.label.positive_above is not None:
            return (labels.to(torch.float32) > self.label.positive_above).to(torch.float32)
        return (_stars(self.label, labels) > 3.5).to(torch.float32)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the squared error of the sigmoid."""
        return (torch.sigmoid(logits.squeeze(1)) - target).square()


class Classification(Task):
    """Cross-entropy over classes; those of a rating are its five stars, rounded up.

    Examples
    --------
    >>> import torch
    >>> task = Classification(Label(column="rating", kind="rating", scale=(0, 5)))
    >>> task.outputs, task.target(torch.tensor([0.5, 3.5, 4.0]))
    (5, tensor([0, 3, 3]))
    """

    name = "classification"
    kinds = ("rating", "classes")
    metrics = ("loss", "accuracy")

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.label.classes) or 5

    def target(self, labels: Tensor) -> Tensor:
        """Return the number of the class, int64; labels of kind "classes" are these numbers."""
        if self.label.kind == "classes":
            return labels.to(torch.int64)
        return (_stars(self.label, labels).ceil().long() - 1).clamp(0, 4)

    def check(self, labels: Tensor) -> None:
        """Check that labels [B] are ratings on their scale, or numbers of classes, int64."""
        if self.label.kind == "rating":
            super().check(labels)
        elif labels.dtype != torch.int64:
            raise UserError(f"labels are {labels.dtype}; expected numbers of classes, torch.int64")
        else:
            sound = (labels >= 0) & (labels < self.outputs)
            _check_labels(labels, sound, f"a class from 0 to {self.outputs - 1}")

    @property
    def start(self) -> float:
        """An equal share for every class."""
        return 1 / self.outputs

    def measured(self, target: Tensor) -> Tensor:
        """Return 1 for the class [B, outputs], and 0 for the others."""
        return functional.one_hot(target, self.outputs).to(torch.float32)

    def expecting(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return the logarithms of the shares."""
        shares = self.expected(mean, offsets).clamp_min(RAREST)
        return torch.log(shares / shares.sum(1, keepdim=True))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the softmax."""
        return functional.cross_entropy(logits, target, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        """Return the probability of each class [B, outputs]."""
        return logits.softmax(1)

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return whether the likeliest class is the right one."""
        return logits.argmax(1) == target


class Click(Task):
    """Log loss of the chance of a 1.

    Examples
    --------
    >>> import torch
    >>> task = Click(Label(column="click", kind="click"))
    >>> task.loss(torch.tensor([[0.0]]), task.target(torch.tensor([1])))
    tensor([0.6931])
    """

    name = "click"
    kinds = ("click",)
    metrics = ("loss", "accuracy", "auc", "normalised_entropy", "calibration")
    odds = True

    def expecting(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return the sum of the features' log-odds."""
        chances = mean, mean.unsqueeze(1) + offsets
        base, odds = (torch.logit(chance.clamp(RAREST, 1 - RAREST)) for chance in chances)
        return base + (odds - base.unsqueeze(1)).sum(1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy, exact for logits of any size."""
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(1), target.to(logits.dtype), reduction="none"
        )


class Value(Task):
    """Squared error of a number.

    Examples
    --------
    >>> import torch
    >>> task = Value(Label(column="minutes", kind="value"))
    >>> task.loss(torch.tensor([[2.0]]), task.target(torch.tensor([5])))
    tensor([9.])
    """

    name = "value"
    kinds = ("value",)
    metrics = ("loss", "mae")

    def check(self, labels: Tensor) -> None:
        """Check nothing: a label may be any number."""

    @property
    def start(self) -> float:
        """Nothing."""
        return 0.0

    def expecting(self, mean: Tensor, offsets: Tensor) -> Tensor:
        """Return what is expected, as it is."""
        return self.expected(mean, offsets)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the squared error of the output as it is."""
        return (logits.squeeze(1) - target).square()

    def predict(self, logits: Tensor) -> Tensor:
        """Return the output as it is."""
        return logits.squeeze(1)

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raise ValueError: of a number, no prediction is right or wrong."""
        raise ValueError("task value has no accuracy; its metrics are loss and mae")


_TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Regression, Classification, Click, Value)
}

#: The names of all tasks.
TASK_NAMES = tuple(_TASKS)

_DEFAULTS = {
    "rating": "regression",
    "classes": "classification",
    "click": "click",
    "value": "value",
}


def task_for(name: str | None, label: Label) -> Task:
    """Return the task of a name over a label.

    Parameters
    ----------
    name : str or None
        One of :data:`TASK_NAMES`. None: "regression" for a rating, "classification" for classes,
        and for the other kinds the task named like the kind.
    label : Label
        A rating with its scale, as in the schema of a loaded data set.

    Raises
    ------
    UserError
        For a name that is no task, one that does not fit the label, a rating without a scale.

    Examples
    --------
    >>> label = Label(column="click", kind="click")
    >>> task_for(None, label).name
    'click'
    >>> task_for("regression", label)
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: task regression does not fit the label 'click' of kind click; \
expected a label of kind rating
    """
    name = _DEFAULTS[label.kind] if name is None else name
    if name not in _TASKS:
        raise UserError(f"task is {name!r}; expected one of {', '.join(TASK_NAMES)}")
    return _TASKS[name](label)
