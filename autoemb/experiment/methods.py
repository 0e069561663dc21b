"""The four methods of the paper's Table 2, over one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autoemb.bilevel import BilevelTrainer
from autoemb.controller import Controller, PerIdLogits
from autoemb.embedding import FixedEmbedding, SoftEmbedding
from autoemb.models import RatingModel
from autoemb.streaming import InteractionState, Reservoir, StreamLearner
from autoemb.streaming.learner import INITIAL_ROWS
from autoemb.task import TASKS

if TYPE_CHECKING:
    from autoemb.experiment.config import RunConfig


@dataclass(frozen=True)
class Method:
    """What tells one method from another.

    Attributes
    ----------
    name, title : str
        As on the command line; as in the paper.
    controller : {None, "network", "logits"}
        Who mixes the sizes: nobody (one fixed width), a network, or free logits per id.
    joint : bool
        Whether the controller learns with the weights on the training batch, or else on past
        events.
    """

    name: str
    title: str
    controller: str | None
    joint: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("fse", "FSE", controller=None),
        Method("sam", "SAM", controller="network", joint=True),
        Method("darts", "DARTS", controller="logits"),
        Method("autoemb", "AutoEmb", controller="network"),
    )
}


def build_learner(config: RunConfig, fields: int) -> StreamLearner:
    """Return an untrained learner for ``fields`` fields, seeded by the configuration.

    Parameters
    ----------
    config : RunConfig
    fields : int

    Examples
    --------
    >>> from autoemb.experiment import RunConfig
    >>> learner = build_learner(RunConfig(method="darts"), fields=2)
    >>> type(learner.modules[1]).__name__
    'PerIdLogits'
    """
    torch.manual_seed(config.seed)
    method, task, device = METHODS[config.method], TASKS[config.task], config.torch_device
    sizes, rows = len(config.dims), [INITIAL_ROWS] * fields
    state = InteractionState(fields, sizes, device)
    model = RatingModel(_embedding(method, rows, config.dims), task.outputs).to(device)
    controller: torch.nn.Module | None = None
    if method.controller == "network":
        controller = Controller(fields, sizes, state.num_features).to(device)
    elif method.controller == "logits":
        controller = PerIdLogits(rows, sizes).to(device)
    learning_rate, controller_learning_rate = config.rates
    trainer = BilevelTrainer(
        model,
        controller,
        loss=task.loss,
        features=state.features if method.controller == "network" else None,
        joint=method.joint,
        hypergradient=config.hypergradient,
        learning_rate=learning_rate,
        controller_learning_rate=controller_learning_rate,
        optimizer=config.optimizer,
        hard=config.selection == "hard",
    )
    return StreamLearner(
        trainer,
        [model] if controller is None else [model, controller],
        state,
        Reservoir(config.reservoir, config.seed),
        validation=config.validation,
        batch_size=config.batch_size,
        device=device,
    )


def _embedding(
    method: Method, rows: Sequence[int], dims: Sequence[int]
) -> FixedEmbedding | SoftEmbedding:
    return SoftEmbedding(rows, dims) if method.controller else FixedEmbedding(rows, sum(dims))
