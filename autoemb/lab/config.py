"""The options of a run, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch

from autoemb.bilevel.hypergradient import KINDS
from autoemb.errors import UserError
from autoemb.lab.methods import METHODS
from autoemb.nn.soft import NORMS, PROJECTIONS
from autoemb.ops import cpu
from autoemb.ops.native import kernels_for
from autoemb.optim import OPTIMIZERS
from autoemb.streaming.learner import VALIDATION_SOURCES
from autoemb.tasks import TASK_NAMES


class Recipe(NamedTuple):
    """What a preset decides; an option that is given goes before it.

    Attributes
    ----------
    optimizer : {"adagrad", "adam", "ftrl", "rowwise-adagrad", "sgd"}
    learning_rate, controller_learning_rate : float
    row_rate : float
    norm : {"batch", "running", "none"}
    norm_eps : float
    mix : {"sum", "mean"}
    init_std : float
    projection : {"uniform", "identity"}
    start : {"equal", "popularity"}
    validation : {"reservoir", "last-batch", "new-events"}
    """

    optimizer: str
    learning_rate: float
    controller_learning_rate: float
    row_rate: float
    norm: str
    norm_eps: float
    mix: str
    init_std: float
    projection: str
    start: str
    validation: str


#: docs/study.md tells how the first was chosen; the paper names no optimiser.
PRESETS: dict[str | None, Recipe] = {
    None: Recipe(
        optimizer="adagrad",
        learning_rate=0.003,
        controller_learning_rate=0.002,
        row_rate=16.0,
        norm="none",
        norm_eps=1.0,
        mix="sum",
        init_std=0.1,
        projection="identity",
        start="popularity",
        validation="new-events",
    ),
    "paper": Recipe(
        optimizer="adam",
        learning_rate=0.01,
        controller_learning_rate=0.001,
        row_rate=1.0,
        norm="batch",
        norm_eps=1e-5,
        mix="mean",
        init_std=1.0,
        projection="uniform",
        start="equal",
        validation="reservoir",
    ),
}

#: Larger values are a slip, and past what an index can count.
LARGEST = 2**40
LARGEST_DIM = 2**16

CHOICES = {
    "method": tuple(METHODS),
    "task": TASK_NAMES,
    "order": ("chronological", "shuffled"),
    "hypergradient": KINDS,
    "preset": tuple(PRESETS),
    "norm": (None, *NORMS),
    "mix": (None, "sum", "mean"),
    "projection": (None, *PROJECTIONS),
    "start": (None, "equal", "popularity"),
    "validation": (None, *VALIDATION_SOURCES),
    "optimizer": (None, *OPTIMIZERS),
    "selection": ("soft", "hard"),
    "device": ("auto", "cpu", "cuda"),
}


def _option(default: Any, text: str) -> Any:
    """Return a field whose help the command line shows."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RunConfig:
    """Every option that changes the numbers of a run.

    Attributes
    ----------
    method : {"autoemb", "sam", "darts", "fse"}
    task : {"regression", "classification"}
    order : {"chronological", "shuffled"}
    hypergradient : {"first", "finite-difference", "exact"}
    preset : {None, "paper"}
        "paper" takes the paper's learning rates, BatchNorm and initial embeddings, and Adam.
    dims : tuple of int
        Embedding sizes; fse takes one embedding as wide as their sum.
    batch_size : int
        Events of a training batch and of a validation batch.
    offline_fraction : float
        Share of the stream that is the offline stage.
    seed : int
    limit : int or None
        Use only the first events of the ordered stream.
    window : int
        Events of one line of metrics.jsonl.
    validation : {None, "reservoir", "last-batch", "new-events"}
        What the controller learns from; None takes the preset's.
    reservoir : int
        Past events kept to draw validation batches from.
    optimizer : {None, "adagrad", "adam", "ftrl", "rowwise-adagrad", "sgd"}
        None takes the preset's.
    learning_rate, controller_learning_rate : float or None
        None takes the preset's; without a preset, the optimiser's.
    row_rate : float or None
        Learning rate of the rows of tables as a multiple of the rates above; None as there.
    norm : {None, "batch", "running", "none"}
        What :class:`autoemb.SoftEmbedding` normalises sizes with; None takes the preset's.
    norm_eps : float or None
        What it adds to their variances: sizes that vary much less stay as small as they are.
        None takes the preset's.
    mix : {None, "sum", "mean"}
        Whether sizes are added up by their weights, or that divided by their number (Eq. 7).
        None takes the preset's.
    init_std : float or None
        Standard deviation of the embeddings of ids never seen; None takes the preset's.
    projection : {None, "uniform", "identity"}
        How the projections of sizes start; None takes the preset's.
    start : {None, "equal", "popularity"}
        Weights of sizes that ids start with: equal ones (the paper), or more of the widest the more
        popular they are (:meth:`autoemb.InteractionState.popularity_prior`). Of autoemb and sam;
        None takes the preset's, and equal ones within a budget.
    budget : float or None
        Share of the floats of all sizes of all ids seen that rows may take; ids own rows only in
        the sizes that they are granted. None: every id owns all sizes. On the CPU, with soft
        selection, not for fse.
    selection : {"soft", "hard"}
        How predictions are scored; "hard" takes each id's largest size alone (Eq. 6).
    device : {"auto", "cpu", "cuda"}

    Raises
    ------
    UserError
        For a value outside its choices or range; names the option.

    Examples
    --------
    >>> RunConfig(method="sam", preset="paper", norm="running").recipe[1:]
    (0.01, 0.001, 1.0, 'running', 1e-05, 'mean', 1.0, 'uniform', 'equal', 'reservoir')
    >>> RunConfig(dims=(16, 2))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: --dims is 16,2; expected positive sizes in ascending order
    """

    method: str = _option("autoemb", "Method to run.")
    task: str = _option("regression", "Predict a rating above 3.5 stars, or the stars.")
    order: str = _option("chronological", "Order of the stream.")
    hypergradient: str = _option("first", "How the controller sees the weights' own step.")
    preset: str | None = _option(None, "The recipe of the paper.")
    dims: tuple[int, ...] = _option((2, 16, 128), "Embedding sizes; fse is as wide as their sum.")
    batch_size: int = _option(500, "Events of a batch.")
    offline_fraction: float = _option(0.7, "Share of the stream that is the offline stage.")
    seed: int = _option(0, "Of all random numbers.")
    limit: int | None = _option(None, "Use only the first events of the ordered stream.")
    window: int = _option(1000, "Events of one line of metrics.jsonl.")
    validation: str | None = _option(
        None,
        "What the controller learns from: a sample of the past, the last batch, or events that the "
        "weights have not learnt yet; by default the preset's.",
    )
    reservoir: int = _option(100_000, "Past events kept to sample from.")
    optimizer: str | None = _option(
        None, "Of weights and controller; by default adagrad, or adam with the paper's preset."
    )
    learning_rate: float | None = _option(
        None, "Of the weights; by default the preset's or the optimiser's."
    )
    controller_learning_rate: float | None = _option(
        None, "Of the controller; by default the preset's or the optimiser's."
    )
    row_rate: float | None = _option(
        None,
        "Of the rows of tables, as a multiple of these; by default 1 with the paper's preset, else "
        "16 for adagrad and 300 for adam and sgd.",
    )
    norm: str | None = _option(
        None,
        "Statistics that sizes are normalised with: the batch's, those of batches before, or none; "
        "by default the preset's.",
    )
    norm_eps: float | None = _option(
        None, "What is added to the variances of sizes; by default the preset's."
    )
    mix: str | None = _option(
        None, "Sum of the weighted sizes, or their mean, as in the paper; by default the preset's."
    )
    init_std: float | None = _option(
        None, "Standard deviation of new embeddings; by default the preset's."
    )
    projection: str | None = _option(
        None,
        "How projections of sizes start: at random, or the widest as the identity; by default the "
        "preset's.",
    )
    start: str | None = _option(
        None,
        "Weights that ids start with: equal, or more of the widest size by popularity; by default "
        "the preset's, and equal within a budget.",
    )
    budget: float | None = _option(
        None, "Share of the floats of all sizes that rows may take; ids are granted sizes by worth."
    )
    selection: str = _option("soft", "How predictions are scored; hard: the largest size alone.")
    device: str = _option("auto", "Where to compute.")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                known = ", ".join(str(choice) for choice in choices if choice is not None)
                raise UserError(f"{_flag(name)} is {value}; expected one of {known}")
        given = ",".join(map(str, self.dims))
        if not self.dims or min(self.dims) < 1 or list(self.dims) != sorted(self.dims):
            raise UserError(f"--dims is {given}; expected positive sizes in ascending order")
        if max(self.dims) > LARGEST_DIM:
            raise UserError(f"--dims is {given}; expected sizes of at most {LARGEST_DIM}")
        for name, least in (("batch_size", 2), ("window", 1), ("reservoir", 2), ("limit", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{_flag(name)} is {value}; expected at least {least}")
            if value is not None and value > LARGEST:
                raise UserError(f"{_flag(name)} is {value}; expected at most {LARGEST}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected 0 to 2^63 - 1")
        if not 0 <= self.offline_fraction <= 1:
            raise UserError(f"--offline-fraction is {self.offline_fraction}; expected 0 to 1")
        for name in ("learning_rate", "controller_learning_rate", "row_rate", "norm_eps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{_flag(name)} is {value}; expected a positive number")
        if self.init_std is not None and not 0 <= self.init_std < float("inf"):
            raise UserError(f"--init-std is {self.init_std}; expected a number from 0")
        if self.budget is not None:
            if not 0 < self.budget <= 1:
                raise UserError(f"--budget is {self.budget}; expected a share above 0, at most 1")
            if METHODS[self.method].controller is None:
                raise UserError(
                    f"--budget is {self.budget}; expected none with --method {self.method}, which "
                    "has one size"
                )
            if self.selection == "hard":
                raise UserError(
                    f"--budget is {self.budget}; expected none with --selection hard, as an id may "
                    "not own its largest size"
                )
            if self.torch_device.type != "cpu":
                raise UserError(f"--budget is {self.budget}; expected --device cpu with it")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device is cuda; this machine or this torch has no usable GPU")
        try:
            self.kernels  # noqa: B018
        except (RuntimeError, ValueError) as error:  # what AUTOEMB_BACKEND asks for
            raise UserError(str(error)) from None

    def offline_events(self, events: int) -> int:
        """Return how many of a stream's events are its offline stage.

        Examples
        --------
        >>> RunConfig().offline_events(90)
        63
        """
        # 0.7 x 90 is 62.99999999999999 in floating point.
        return int(self.offline_fraction * events + 1e-6)

    @property
    def recipe(self) -> Recipe:
        """The preset's recipe with the options that were given."""
        recipe = PRESETS[self.preset]
        if self.preset is None and self.optimizer is not None:
            recipe = recipe._replace(**OPTIMIZERS[self.optimizer].rates._asdict())
        if self.budget is not None:
            # Up to 0.6 % better than a start by popularity with a quarter of the floats
            # (docs/study.md).
            recipe = recipe._replace(start="equal")
        given = {name: getattr(self, name) for name in Recipe._fields}
        return recipe._replace(**{k: v for k, v in given.items() if v is not None})

    @property
    def torch_device(self) -> torch.device:
        """The device that "auto" stands for here."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def kernels(self) -> str:
        """Who computes: "cuda", an instruction set of the CPU, or "reference"."""
        device = self.torch_device
        family = kernels_for("auto", [], torch.empty(0, dtype=torch.float32, device=device))
        return {"cpu": cpu.KERNELS, "cuda": "cuda", None: "reference"}[family]

    def as_dict(self) -> dict[str, Any]:
        """Return the options as they are recorded, recipe and device resolved."""
        own = {"dims": list(self.dims), "device": self.torch_device.type}
        return asdict(self) | self.recipe._asdict() | own


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
