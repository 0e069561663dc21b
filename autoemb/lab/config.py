"""The options of a run: its protocol, declared here, and its recipe, declared there."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

import torch
from annotated_types import Ge, Le
from pydantic import ConfigDict, Field, model_validator

from autoemb.declared import Declared
from autoemb.ops import cpu
from autoemb.ops.native import kernels_for
from autoemb.recipe import PRESETS, Recipe
from autoemb.tasks import TASK_NAMES

if TYPE_CHECKING:
    TaskName: TypeAlias = str
    PresetName: TypeAlias = str
else:
    TaskName = Literal[TASK_NAMES]
    PresetName = Literal[tuple(PRESETS)]

#: Larger values are a slip, and past what an index can count.
Count = Annotated[int, Le(2**40)]


def _option(text: str) -> Any:
    """Return a field whose help the command line shows."""
    return Field(description=text)


class RunConfig(Declared):
    """Every option that changes the numbers of a run.

    Beside the attributes, every option of :class:`autoemb.recipe.Recipe` is taken by its name. One
    that is given goes before the preset's; ``recipe`` is what comes of both.

    Attributes
    ----------
    task : {"regression", "classification", "click", "value"}, optional
        What is predicted; by default what suits the label.
    order : {"chronological", "shuffled"}
    batch_size : int, default 500
        Events of a training batch and of a validation batch; 1 only without batch statistics.
    offline_fraction : float, default 0.7
        Share of the stream that is the offline stage.
    seed : int, default 0
    limit : int, optional
        Use only the first events of the ordered stream.
    window : int, default 1000
        Events of one line of metrics.jsonl.
    device : {"auto", "cpu", "cuda"}
    preset : {"default", "paper"}
        The recipe to start from; "paper" has the paper's learning rates, BatchNorm and initial
        embeddings.

    Raises
    ------
    UserError
        For a value outside its choices or range; names the option.

    Examples
    --------
    >>> config = RunConfig(method="sam", preset="paper", norm="running")
    >>> config.recipe.norm, config.recipe.optimizer
    ('running', 'adagrad')
    >>> RunConfig(dims=(16, 2))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: dims is 16,2; expected positive sizes in ascending order
    """

    model_config = ConfigDict(extra="allow")  # the recipe's options, which Recipe checks

    task: Annotated[
        TaskName | None, _option("What is predicted; by default what suits the label.")
    ] = None
    order: Annotated[Literal["chronological", "shuffled"], _option("Order of the stream.")] = (
        "chronological"
    )
    batch_size: Annotated[Count, Ge(1), _option("Events of a batch.")] = 500
    offline_fraction: Annotated[
        float, Ge(0), Le(1), _option("Share of the stream that is the offline stage.")
    ] = 0.7
    seed: Annotated[int, Ge(0), Le(2**63 - 1), _option("Of all random numbers.")] = 0
    limit: Annotated[
        Count | None, Ge(2), _option("Use only the first events of the ordered stream.")
    ] = None
    window: Annotated[Count, Ge(1), _option("Events of one line of metrics.jsonl.")] = 1000
    device: Annotated[Literal["auto", "cpu", "cuda"], _option("Where to compute.")] = "auto"
    preset: Annotated[
        PresetName, _option("The recipe that the options below change; paper: the paper's.")
    ] = "default"

    if TYPE_CHECKING:

        def __init__(self, /, **values: Any) -> None: ...

    @model_validator(mode="after")
    def _check(self) -> Self:
        recipe, device = self.recipe, self.torch_device.type
        if self.batch_size < 2 and recipe.norm == "batch":
            raise ValueError(
                f"batch_size is {self.batch_size}; expected at least 2 with norm batch"
            )
        if recipe.label_delay and self.order == "shuffled":
            raise ValueError(
                f"label_delay is {recipe.label_delay:g}; expected 0 with order shuffled, in which "
                "time does not pass"
            )
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda; this machine or this torch has no usable GPU")
        if recipe.budget and device != "cpu":
            raise ValueError(
                f"budget is {recipe.budget:g}; expected 0 with device {device}, as the cpu alone "
                "keeps one"
            )
        try:
            self.kernels  # noqa: B018
        except RuntimeError as error:  # what AUTOEMB_BACKEND asks for
            raise ValueError(str(error)) from None
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The options of the recipe that were given."""
        return {k: v for k, v in (self.model_extra or {}).items() if v is not None}

    @cached_property
    def recipe(self) -> Recipe:
        """The preset's recipe with the options that were given."""
        return Recipe.of(self.preset, **self.given)

    def but(self, **changes: Any) -> RunConfig:
        """Return these options with some changed; the recipe is resolved anew.

        Examples
        --------
        >>> RunConfig(method="fse", seed=1).but(seed=2).recipe.method
        'fse'
        """
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return RunConfig(**own | self.given | changes)

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
    def torch_device(self) -> torch.device:
        """The device that "auto" stands for here: a GPU, unless a budget is to be kept."""
        if self.device == "auto":
            gpu = torch.cuda.is_available() and not self.recipe.budget
            return torch.device("cuda" if gpu else "cpu")
        return torch.device(self.device)

    @property
    def kernels(self) -> str:
        """Who computes: "cuda", an instruction set of the CPU, or "reference"."""
        device = self.torch_device
        family = kernels_for("auto", [], torch.empty(0, dtype=torch.float32, device=device))
        return {"cpu": cpu.KERNELS, "cuda": "cuda", None: "reference"}[family]

    def as_dict(self) -> dict[str, Any]:
        """Return the options as they are recorded, recipe and device resolved."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return own | {"device": self.torch_device.type} | self.recipe.model_dump(mode="json")


#: Every option of a run by name, the protocol's first.
OPTIONS = {**RunConfig.model_fields, **Recipe.model_fields}
