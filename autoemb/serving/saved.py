"""The file of a served model: parsed, never executed, and believed only where it fits together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, JsonValue
from torch import Tensor, nn

from autoemb.declared import Declared
from autoemb.errors import UserError
from autoemb.nn.dense import DenseTransform
from autoemb.nn.layers import Cross, mlp
from autoemb.schema import Schema
from autoemb.serving.history import ServedHistory
from autoemb.serving.model import KIND, ServedModel, inputs_of, inputs_told
from autoemb.serving.table import ServedTable, sizes_of
from autoemb.streaming import IdTable, checkpoint
from autoemb.streaming.queue import Clock
from autoemb.streaming.statistics import Statistics
from autoemb.tasks import Task, task_for


class _Saved(Declared):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class _SavedTable(_Saved):
    """What a file holds of one table: see :class:`ServedTable`."""

    ids: dict[str, np.ndarray[Any, Any]]
    rows: tuple[Tensor, ...]
    projections: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    newcomer: Tensor


class _SavedDense(_Saved):
    """What a file holds of dense features: see :class:`DenseTransform`."""

    count: Tensor
    mean: Tensor
    squares: Tensor


class _SavedHistory(_Saved):
    """What a file holds of a history: see :class:`ServedHistory`."""

    tables: dict[str, np.ndarray[Any, Any]]
    totals: dict[str, np.ndarray[Any, Any]]
    by_event: bool
    seed: int
    wide: tuple[Tensor, Tensor] | None


class _SavedModel(_Saved):
    """What a file holds: see :class:`ServedModel`."""

    kind: Literal["autoemb model 4"]
    columns: Schema
    task: str
    scale: Annotated[float, Field(allow_inf_nan=False)]
    linear: bool
    crosses: tuple[tuple[Tensor, Tensor, Tensor], ...]  # inner, outer and bias of each layer
    hidden: tuple[tuple[Tensor, Tensor], ...]  # weight and bias of each layer
    tables: dict[str, _SavedTable]
    dense: _SavedDense | None
    about: dict[str, JsonValue]
    history: _SavedHistory | None


def load_model(path: Path | str) -> ServedModel:
    """Read a model that ``autoemb export`` wrote. The file is parsed, never executed.

    Parameters
    ----------
    path : path or str

    Raises
    ------
    UserError
        If the file is missing, broken, or something else.

    Examples
    --------
    >>> load_model("nowhere.safetensors")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere.safetensors does not exist
    """
    state = checkpoint.load(Path(path))
    if state.get("kind") != KIND:
        raise UserError(f"{path} is not a model; make one with: autoemb export")
    saved = _SavedModel.parse(state, str(path))
    try:
        return _model(saved)
    except (LookupError, RuntimeError, TypeError, UserError, ValueError) as error:
        said = " ".join(str(error).split())[:150]
        raise UserError(f"{path} does not hold such a model: {said}") from None


def _model(saved: _SavedModel) -> ServedModel:
    schema, task = saved.columns, task_for(saved.task, saved.columns.label)
    tables = {
        name: ServedTable(
            IdTable.from_state(table.ids),
            list(table.rows),
            list(table.projections),
            list(table.offsets),
            table.newcomer,
        )
        for name, table in saved.tables.items()
    }
    if not tables:
        raise ValueError("there are no tables; expected those of the schema")
    width = max(len(table.newcomer) for table in tables.values())
    history = None
    if saved.history is not None:
        history = _history(
            saved.history, schema, task, {t: len(own.ids) for t, own in tables.items()}
        )
    told = inputs_told(schema, task, history)
    return ServedModel(
        schema,
        tables,
        _network(saved.hidden, inputs_of(schema, width, told), task.outputs),
        task,
        crosses=[_cross(number, *cross) for number, cross in enumerate(saved.crosses)],
        dense=_transform(saved.dense, schema),
        scale=saved.scale,
        linear=saved.linear,
        about=saved.about,
        history=history,
    )


def _history(
    saved: _SavedHistory, schema: Schema, task: Task, num_ids: Mapping[str, int]
) -> ServedHistory:
    reads = {feature.column: feature for feature in schema.features}
    statistics = Statistics(reads, task, Clock(saved.by_event))
    if saved.tables.keys() != statistics.tables.keys():
        raise ValueError(f"history is of tables {', '.join(saved.tables) or 'none'}")
    for name, values in saved.totals.items():
        if not np.isfinite(values).all():
            raise ValueError(f"history.{name} holds what is no number")
    parts = {"tables": saved.tables, "totals": saved.totals}
    state: dict[str, Any] = {
        part: {name: torch.from_numpy(values) for name, values in own.items()}
        for part, own in parts.items()
    }
    statistics.load_state_dict(state | {"waiting": None}, num_ids)
    for table, rows in statistics.tables.items():
        if not np.isfinite(rows.read(slice(None))).all():
            raise ValueError(f"history.{table} holds what is no number")
    return ServedHistory(statistics, saved.seed, _linear("wide", saved.wide))


def _transform(saved: _SavedDense | None, schema: Schema) -> DenseTransform | None:
    if not schema.dense:
        if saved is not None:
            raise ValueError("dense is given; the schema has no dense features")
        return None
    if saved is None:
        raise ValueError("dense is missing; the schema has dense features")
    for name, values in vars(saved).items():
        if values.dtype != torch.float64 or values.shape != (len(schema.dense),):
            raise ValueError(
                f"dense.{name} is {values.dtype} {[*values.shape]}; expected torch.float64 "
                f"[{len(schema.dense)}]"
            )
        least = -torch.inf if name == "mean" else 0.0
        if not bool((torch.isfinite(values) & (values >= least)).all()):
            raise ValueError(f"dense.{name} holds what none of its features can have")
    transform = DenseTransform(schema.dense)
    transform.load_state_dict(vars(saved))
    return transform


def _linear(name: str, saved: tuple[Tensor, Tensor] | None) -> nn.Linear | None:
    if saved is None:
        return None
    weight, bias = saved
    outputs, inputs = sizes_of(f"weight of {name}", weight, None, None)
    sizes_of(f"bias of {name}", bias, outputs)
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs)
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def _cross(number: int, inner: Tensor, outer: Tensor, bias: Tensor) -> Cross:
    """Return a cross layer of a file, as it is in memory."""
    width, rank = sizes_of(f"inner of cross layer {number}", inner, None, None)
    sizes_of(f"outer of cross layer {number}", outer, width, rank)
    sizes_of(f"bias of cross layer {number}", bias, width)
    with torch.device("meta"):
        layer = Cross(width, rank)
    own = {"inner": inner, "outer.weight": outer, "outer.bias": bias}
    layer.load_state_dict(own, assign=True)
    return layer


def _network(layers: Sequence[tuple[Tensor, Tensor]], inputs: int, outputs: int) -> nn.Sequential:
    """Return the layers of a file, whose sizes must fit together, as they are in memory."""
    if not layers:
        raise ValueError("hidden is empty; expected a layer")
    sizes = [inputs]
    for number, (weight, bias) in enumerate(layers):
        last = outputs if number == len(layers) - 1 else None
        sizes.append(sizes_of(f"weight of layer {number}", weight, last, sizes[-1])[0])
        sizes_of(f"bias of layer {number}", bias, sizes[-1])
    with torch.device("meta"):  # nothing is allocated or drawn for what is replaced at once
        network = mlp(inputs, sizes[1:-1], outputs)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(linear, layers, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return network
