"""The four methods of the paper's Table 2, over one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autoemb.bilevel import BilevelTrainer
from autoemb.nn.controller import Controller, PerIdLogits
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.granted import GrantedEmbedding
from autoemb.nn.models import RatingModel
from autoemb.nn.soft import SoftEmbedding
from autoemb.streaming import InteractionState, Reservoir, StreamLearner
from autoemb.streaming.grants import Grants
from autoemb.streaming.learner import INITIAL_ROWS
from autoemb.tasks import TASKS

if TYPE_CHECKING:
    from autoemb.lab.config import RunConfig


@dataclass(frozen=True)
class Method:
    """What tells one method from another.

    Attributes
    ----------
    name : str
        As on the command line; :func:`autoemb.lab.report.wording.display` has the paper's.
    controller : {None, "network", "logits"}
        Who mixes the sizes: nobody (one fixed width), a network, or free logits per id.
    joint : bool
        Whether the controller always learns with the weights on the training batch; or else from
        what the option ``validation`` says.
    """

    name: str
    controller: str | None
    joint: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("fse", controller=None),
        Method("sam", controller="network", joint=True),
        Method("darts", controller="logits"),
        Method("autoemb", controller="network"),
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
    >>> from autoemb.lab import RunConfig
    >>> learner = build_learner(RunConfig(method="darts"), fields=2)
    >>> type(learner.modules[1]).__name__
    'PerIdLogits'
    """
    trainer, modules, state = build_trainer(config, [INITIAL_ROWS] * fields)
    embedding: Any = modules[0].embedding
    grants = None
    if config.recipe.budget is not None:
        grants = Grants(embedding, state, config.recipe.budget, trainer.reset_rows)
    return StreamLearner(
        trainer,
        modules,
        state,
        Reservoir(config.recipe.reservoir, config.seed),
        validation=config.recipe.validation,
        batch_size=config.batch_size,
        device=config.torch_device,
        grants=grants,
    )


def build_trainer(
    config: RunConfig, rows: Sequence[int]
) -> tuple[BilevelTrainer, list[torch.nn.Module], InteractionState]:
    """Return the trainer of a method, its modules (model first) and the empty history of its ids.

    Parameters
    ----------
    config : RunConfig
    rows : sequence of int
        Rows that the tables of each field start with.

    Examples
    --------
    >>> from autoemb.lab import RunConfig
    >>> trainer, modules, state = build_trainer(RunConfig(method="fse"), [10, 20])
    >>> trainer.bilevel, [type(module).__name__ for module in modules]
    (False, ['RatingModel'])
    """
    torch.manual_seed(config.seed)
    recipe, task, device = config.recipe, TASKS[config.task], config.torch_device
    method, sizes = METHODS[recipe.method], len(recipe.dims)
    state = InteractionState(len(rows), sizes, device)
    embedding: SoftEmbedding | FixedEmbedding
    if method.controller:
        kind = SoftEmbedding if recipe.budget is None else GrantedEmbedding
        embedding = kind(
            rows,
            recipe.dims,
            norm=recipe.norm,
            eps=recipe.norm_eps,
            average=recipe.mix == "mean",
            init_std=recipe.init_std,
            projection=recipe.projection,
        )
    else:
        embedding = FixedEmbedding(rows, sum(recipe.dims), init_std=recipe.init_std)
    modules: list[torch.nn.Module] = [RatingModel(embedding, task.outputs, hidden=recipe.hidden)]
    if method.controller == "network":
        prior = state.popularity_prior() if recipe.start == "popularity" else None
        hidden = recipe.controller_hidden
        modules.append(Controller(len(rows), sizes, state.num_features, hidden=hidden, prior=prior))
    elif method.controller == "logits":
        modules.append(PerIdLogits(rows, sizes))
    trainer = BilevelTrainer(
        *(module.to(device) for module in modules),
        loss=task.loss,
        features=state.features if method.controller == "network" else None,
        joint=method.joint,
        hypergradient=recipe.hypergradient,
        learning_rate=recipe.learning_rate,
        controller_learning_rate=recipe.controller_learning_rate,
        row_rate=recipe.row_rate,
        optimizer=recipe.optimizer,
        hard=recipe.selection == "hard",
    )
    return trainer, modules, state
