"""From a schema, a task and a recipe to a learner: what library and command line share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from autoemb.bilevel import BilevelTrainer
from autoemb.bilevel.part import MakeOptimizer, MakeSchedule
from autoemb.bilevel.working_set import read_by
from autoemb.nn import MODELS, Controller, FixedEmbedding, PerIdLogits, SoftEmbedding
from autoemb.nn.granted import Granted
from autoemb.nn.granted_nested import GrantedNestedEmbedding
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.nn.models import FM, Bias, Logistic, Mean, Told, Trivial
from autoemb.nn.nested import NestedEmbedding
from autoemb.recipe import OPPONENTS, Recipe
from autoemb.schema import Schema
from autoemb.streaming import History, Reservoir, StreamLearner
from autoemb.streaming.grants import Grants
from autoemb.streaming.learner import INITIAL_ROWS
from autoemb.streaming.queue import Clock
from autoemb.streaming.statistics import Statistics, inputs_width
from autoemb.tasks import Task, task_for


@dataclass(frozen=True)
class Method:
    """What tells one method from another.

    Attributes
    ----------
    name : str
        As in a recipe and on the command line.
    controller : {None, "network", "logits"}
        Who mixes the sizes: nobody (one fixed width), a network, or free logits per id.
    joint : bool
        Whether the controller always learns with the weights on the training batch; or else from
        what the recipe's ``validation`` says.
    opponent : {None, "mean", "bias", "logistic", "fm"}
        A model of its own, in the place of the recipe's.
    """

    name: str
    controller: str | None = None
    joint: bool = False
    opponent: str | None = None


METHODS = {
    method.name: method
    for method in (
        *(Method(name, opponent=name) for name in OPPONENTS),
        Method("fse"),
        Method("sam", controller="network", joint=True),
        Method("darts", controller="logits"),
        Method("autoemb", controller="network"),
    )
}


def twin(recipe: Recipe) -> str | None:
    """Return the method that computes the same as a recipe's, to the last bit, if there is one.

    Where the controller learns from new events, first order, AutoEmb is joint training: SAM.

    Examples
    --------
    >>> twin(Recipe(method="sam")), twin(Recipe.of("paper", method="sam"))
    ('autoemb', None)
    """
    joint = (recipe.validation, recipe.hypergradient) == ("new-events", "first")
    return "autoemb" if recipe.method == "sam" and joint else None


#: Factors of an id in the method "fm".
FACTORS = 8

#: (embedding, outputs, hidden, num_dense) -> a model: one of MODELS, or your own.
MakeModel = Callable[..., nn.Module]


def build_embedding(schema: Schema, recipe: Recipe) -> SoftEmbedding | FixedEmbedding:
    """Return the embedding of all features of a schema that hold ids.

    Examples
    --------
    >>> from autoemb.schema import Label, Sparse
    >>> schema = Schema(label=Label(column="x", kind="value"), sparse=[Sparse(column="city")])
    >>> build_embedding(schema, Recipe(method="fse")).output_dim
    146
    """
    rows = [INITIAL_ROWS] * len(schema.tables)
    if METHODS[recipe.method].controller is None:
        width = sum(recipe.dims)
        return FixedEmbedding(rows, width, features=schema.features, init_std=recipe.init_std)
    if recipe.rows == "nested":
        nested = GrantedNestedEmbedding if recipe.budget else NestedEmbedding
        return nested(rows, recipe.dims, features=schema.features, init_std=recipe.init_std)
    kind = GrantedEmbedding if recipe.budget else SoftEmbedding
    return kind(
        rows,
        recipe.dims,
        features=schema.features,
        norm=recipe.norm,
        eps=recipe.norm_eps,
        average=recipe.mix == "mean",
        init_std=recipe.init_std,
        projection=recipe.projection,
    )


def build_learner(
    schema: Schema,
    task: Task | str | None = None,
    recipe: Recipe | None = None,
    *,
    model: MakeModel | nn.Module | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
    initial_rows: int = INITIAL_ROWS,
    dense_optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    max_grad_norm: float | None = None,
) -> StreamLearner:
    """Return an untrained learner, the same to the last bit for the same arguments.

    Parameters
    ----------
    schema : Schema
    task : Task or str, optional
        By default the one that suits the label (:func:`autoemb.tasks.task_for`).
    recipe : Recipe, optional
        By default the recipe of the command line.
    model : torch.nn.Module, or callable, optional
        By default the recipe's. A callable makes one of
        ``(embedding, outputs=, hidden=, num_dense=)``, and finds the recipe's history among its
        dense inputs. Your own module takes (inputs, mix), see :class:`autoemb.BilevelTrainer`;
        ``inputs.known`` has what labels say of ids, if its ``reads_known``, or that of a part, is
        true. The default budget is not kept for one whose rows nobody grants.
    seed : int, default 0
        Of all random numbers.
    device : torch.device or str, default "cpu"
    batch_size : int, default 500
        Events of a sample of the past, for ``validation="reservoir"``.
    initial_rows : int, default 1024
        Rows that tables have at first; it changes no number.
    dense_optimizer, schedule, max_grad_norm
        As of :class:`autoemb.BilevelTrainer`.

    Raises
    ------
    UserError
        For a task that does not suit the label.
    ValueError
        For a model that does not fit the schema; names what and where.

    Examples
    --------
    >>> from autoemb import Label, Schema, Sparse
    >>> schema = Schema(
    ...     label=Label(column="click", kind="click"),
    ...     sparse=[Sparse(column="user_id"), Sparse(column="item_id")],
    ... )
    >>> learner = build_learner(schema, recipe=Recipe(method="darts"))
    >>> [type(module).__name__ for module in learner.modules]
    ['Told', 'PerIdLogits']
    """
    recipe = Recipe() if recipe is None else recipe
    if task is None or isinstance(task, str):
        task = task_for(task, schema.label)
    torch.manual_seed(seed)
    method = METHODS[recipe.method]
    model = _model(schema, task, recipe, model)
    tables = _tables_read(model, schema)
    clock = Clock(recipe.freshness == "event", recipe.label_delay)
    sizes, losses = len(recipe.dims), recipe.controller_history == "full"
    history = History(tables, sizes, device, losses=losses)
    controller = _controller(tables, history, recipe)
    trainer = BilevelTrainer(
        model.to(device),
        None if controller is None else controller.to(device),
        loss=task.loss,
        features=history.features if method.controller == "network" else None,
        joint=method.joint,
        hypergradient=recipe.hypergradient,
        learning_rate=recipe.learning_rate,
        controller_learning_rate=recipe.controller_learning_rate,
        row_rate=recipe.row_rate,
        row_weight_decay=recipe.row_weight_decay,
        optimizer=recipe.optimizer,
        hard=recipe.selection == "hard",
        dense_optimizer=dense_optimizer,
        schedule=schedule,
        max_grad_norm=max_grad_norm,
    )
    return StreamLearner(
        trainer,
        history,
        Reservoir(recipe.reservoir, seed),
        validation=recipe.validation,
        batch_size=batch_size,
        dense=schema.dense,
        task=task,
        seed=seed,
        initial_rows=initial_rows,
        device=device,
        grants=_grants(model, recipe, trainer),
        statistics=_statistics(model, task, clock),
        clock=clock,
        learn_chunk=recipe.learn_chunk,
    )


def _model(
    schema: Schema, task: Task, recipe: Recipe, model: MakeModel | nn.Module | None
) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    opponent = METHODS[recipe.method].opponent
    if model is None and opponent is not None:
        return _opponent(opponent, schema, task, recipe)
    make: MakeModel = MODELS[recipe.model] if model is None else model
    told, full = recipe.history != "none", recipe.history == "full"
    width = inputs_width(task) if full else 0
    inputs = schema.num_dense + told * Told.inputs_of(len(schema.features), width)
    embedding = build_embedding(schema, recipe)
    made = make(embedding, outputs=task.outputs, hidden=recipe.hidden, num_dense=inputs)
    if not told:
        return made
    return Told(made, inputs, task.outputs, task.expecting if full else None)


def _opponent(name: str, schema: Schema, task: Task, recipe: Recipe) -> Trivial:
    features, num_dense = schema.features, schema.num_dense
    if name == "fm":
        rows = [INITIAL_ROWS] * len(schema.tables)
        embedding = FixedEmbedding(rows, FACTORS, features=features, init_std=recipe.init_std)
        return FM(embedding, task.expecting, task.outputs, num_dense)
    if name == "logistic":
        return Logistic(features, task.expecting, inputs_width(task), task.outputs, num_dense)
    return (Mean if name == "mean" else Bias)(features, task.expecting)


def _statistics(model: nn.Module, task: Task, clock: Clock) -> Statistics | None:
    """Return what keeps the labels of ids, for a model of which some part reads them."""
    if not any(getattr(module, "reads_known", False) for module in model.modules()):
        return None
    return Statistics(read_by(model), task, clock)


def _controller(
    tables: tuple[str, ...], history: History, recipe: Recipe
) -> Controller | PerIdLogits | None:
    kind, sizes = METHODS[recipe.method].controller, len(recipe.dims)
    if kind is None:
        return None
    if kind == "logits":
        return PerIdLogits(tables, [INITIAL_ROWS] * len(tables), sizes)
    prior = history.popularity_prior() if recipe.start == "popularity" else None
    shared = recipe.controller == "shared"
    return Controller(tables, sizes, history.num_features, recipe.controller_hidden, prior, shared)


def _tables_read(model: nn.Module, schema: Schema) -> tuple[str, ...]:
    """Return the tables that a model reads, in the schema's order."""
    read = read_by(model)
    known = {feature.column: feature for feature in schema.features}
    for name, feature in read.items():
        if name not in known or known[name].table != feature.table:
            where = known[name].table if name in known else None
            has = f"has it in table {where!r}" if where else f"has {', '.join(known)}"
            raise ValueError(
                f"the model reads feature {name!r} of table {feature.table!r}; the schema {has}"
            )
    tables = {feature.table for feature in read.values()}
    return tuple(table for table in schema.tables if table in tables)


def _grants(model: nn.Module, recipe: Recipe, trainer: BilevelTrainer) -> Grants | None:
    if not recipe.budget:
        return None
    inside = [m for m in model.modules() if isinstance(m, Granted)]
    if not inside and "budget" not in recipe.model_fields_set:
        return None  # a module of one's own, by the defaults
    if len(inside) != 1:
        raise ValueError(
            f"a budget is kept by one embedding whose rows are granted; the model has {len(inside)}"
        )
    device = inside[0].arena(0, 0).rows.device
    if device.type != "cpu":
        raise ValueError(f"budget is {recipe.budget:g}; expected 0 on {device}: the cpu keeps one")
    return Grants(
        inside[0],
        recipe.budget,
        worth=recipe.worth,
        mix_of=trainer.mix,
        optimizer=trainer.model.row_optimizer,
    )
