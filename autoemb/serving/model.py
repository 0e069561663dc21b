"""A model that only predicts: every id owns one row at most, as wide as it needs (Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional

from autoemb.declared import Declared
from autoemb.errors import UserError
from autoemb.nn.layers import mlp
from autoemb.ops import soft_embedding
from autoemb.schema import STARS
from autoemb.streaming import IdTable, checkpoint
from autoemb.tasks import Task, task_for

_KIND = "autoemb model 1"


@dataclass
class ServedField:
    """What the ids of one field own.

    The ids are numbered width by width, the narrowest first: those of width k have the numbers
    from ``sum(len(rows[j]) for j < k)`` on. So an id has no index beside its row, and an id
    without a row is in no table at all.

    Attributes
    ----------
    ids : IdTable
        Raw ids to numbers.
    rows : list of K Tensor[R_k, d_k]
        Ascending widths. A row as wide as the output is the embedding itself.
    projections : list of K Tensor[D, d_k]
        Of a narrower width; empty [0, d_k] for rows that are the embedding itself.
    offsets : list of K Tensor[D]
    newcomer : Tensor[D]
        The embedding of every id without a row.
    """

    ids: IdTable
    rows: list[Tensor]
    projections: list[Tensor]
    offsets: list[Tensor]
    newcomer: Tensor

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.projections) == len(self.offsets):
            raise ValueError("expected as many projections and offsets as widths")
        width = _size("newcomer", self.newcomer, None)[0]
        for rows, projection, offset in zip(self.rows, self.projections, self.offsets, strict=True):
            _, own = _size("rows", rows, None, None)
            _size("projection", projection, 0 if own == width else width, own)
            _size("offset", offset, width)
        if sum(map(len, self.rows)) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids own {sum(map(len, self.rows))} rows")


def _size(name: str, tensor: Tensor, *expected: int | None) -> tuple[int, ...]:
    """Return a tensor's sizes, if they are those expected; None stands for any but 0.

    Only the number of rows that nobody owns may be 0.
    """
    sizes = tuple(tensor.shape)
    wanted = tuple(
        have if want is None else want for have, want in zip(sizes, expected, strict=False)
    )
    if tensor.dtype != torch.float32 or len(sizes) != len(expected) or sizes != wanted:
        shape = ", ".join("any" if want is None else str(want) for want in expected)
        raise ValueError(f"{name} is {tensor.dtype} {[*sizes]}; expected float32 [{shape}]")
    if sizes[-1] == 0:
        raise ValueError(f"{name} is {[*sizes]}; expected a width above 0")
    return sizes


class ServedModel:
    """Predict from raw ids: made by ``autoemb export``, read by :func:`load_model`.

    An id of width d_k has the embedding ``scale * tanh(rows[k] @ projections[k].T + offsets[k])``,
    or without tanh where ``linear``. Nothing here is trained.

    Parameters
    ----------
    fields : sequence of F ServedField
    hidden : torch.nn.Sequential
        Embeddings [B, F * D] -> logits.
    task : Task
    scale : float, default 1.0
        What the tanh is multiplied with: Eq. 7's 1/N.
    linear : bool, default False
        Rows of a fixed width, which no tanh follows.
    about : mapping, optional
        Where the model comes from: plain JSON content, kept in the file.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from autoemb import IdTable, TASKS
    >>> from autoemb.nn.layers import mlp
    >>> def field(ids):
    ...     table = IdTable()
    ...     _ = table.rows(ids)
    ...     return ServedField(table, [torch.ones(len(ids), 1)], [torch.ones(4, 1)],
    ...                        [torch.zeros(4)], torch.zeros(4))
    >>> model = ServedModel([field([7, 9]), field(["jaws"])], mlp(8, (3,), 1),
    ...                     TASKS["regression"])
    >>> model.predict([np.array([9, 1]), ["jaws", "alien"]]).shape  # unknown ids are newcomers
    torch.Size([2])
    """

    def __init__(
        self,
        fields: Sequence[ServedField],
        hidden: nn.Sequential,
        task: Task,
        *,
        scale: float = 1.0,
        linear: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.fields, self.hidden, self.task = list(fields), hidden, task
        self.scale, self.linear = scale, linear
        self.about = dict(about or {})
        self.hidden.requires_grad_(False)

    @torch.no_grad()
    def embed(self, ids: Sequence[Any]) -> Tensor:
        """Return the embeddings [B, F, D] of F columns of raw ids."""
        lengths = [len(column) if isinstance(column, Sized) else None for column in ids]
        if len(lengths) != len(self.fields) or None in lengths or len({*lengths}) != 1:
            raise UserError(
                f"ids are columns of {lengths} ids; expected {len(self.fields)} of the same length"
            )
        pairs = zip(self.fields, ids, strict=True)
        return torch.stack([self._embed(field, column) for field, column in pairs], 1)

    def _embed(self, field: ServedField, column: Any) -> Tensor:
        numbers = torch.from_numpy(field.ids.rows(column, insert=False))
        output = field.newcomer.expand(len(numbers), -1).clone()
        start = 0
        for k, rows in enumerate(field.rows):
            place = numbers - start
            (events,) = ((place >= 0) & (place < len(rows))).nonzero(as_tuple=True)
            if len(events):
                output[events] = self._expand(field, k, place[events])
            start += len(rows)
        return output

    def _expand(self, field: ServedField, k: int, place: Tensor) -> Tensor:
        """Return the embeddings [B, D] of rows of one width."""
        rows, projection, offset = field.rows[k], field.projections[k], field.offsets[k]
        if not len(projection):
            return rows[place]
        if self.linear:
            return functional.linear(rows[place], projection, offset)
        standard = torch.zeros(1, 1, len(offset)), torch.ones(1, 1, len(offset))
        return soft_embedding(
            [rows],
            place.unsqueeze(1),
            torch.full((len(place), 1, 1), self.scale),
            projection.unsqueeze(0),
            offset.view(1, 1, -1),
            standard,
            dims=(rows.shape[1],),
            eps=0.0,
            average=False,
        ).output.squeeze(1)

    @torch.no_grad()
    def logits(self, ids: Sequence[Any]) -> Tensor:
        """Return the model's output [B, outputs] for F columns of B raw ids.

        Raises
        ------
        UserError
            For ids of another kind than those that the model knows, or columns of another number or
            of unequal lengths.
        """
        output: Tensor = self.hidden(self.embed(ids).flatten(1))
        return output

    def predict(self, ids: Sequence[Any]) -> Tensor:
        """Return probabilities: of a positive rating [B], or of each class [B, outputs]."""
        return predictions_of(self.task, self.logits(ids))

    def bytes(self) -> dict[str, int]:
        """Return the bytes of each part: rows, projections (with offsets), network, ids."""
        parts: dict[str, list[Tensor]] = {
            "rows": [rows for field in self.fields for rows in field.rows],
            "projections": [
                tensor
                for field in self.fields
                for tensor in (*field.projections, *field.offsets, field.newcomer)
            ],
            "network": [*self.hidden.parameters()],
        }
        sizes = {
            name: sum(t.numel() * t.element_size() for t in tensors)
            for name, tensors in parts.items()
        }
        states = [field.ids.state().values() for field in self.fields]
        return sizes | {"ids": sum(array.nbytes for state in states for array in state)}

    def save(self, path: Path) -> None:
        """Write the model as one file, whole or not at all.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        layers = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        state = {
            "kind": _KIND,
            "task": self.task.name,
            "scale": self.scale,
            "linear": self.linear,
            "hidden": [[layer.weight, layer.bias] for layer in layers],
            "fields": [vars(field) | {"ids": field.ids.state()} for field in self.fields],
            "about": self.about,
        }
        checkpoint.save(state, path)


def predictions_of(task: Task, logits: Tensor) -> Tensor:
    """Return probabilities: of a positive rating [B], or of each class [B, outputs].

    Examples
    --------
    >>> predictions_of(TASKS["regression"], torch.zeros(2, 1))
    tensor([0.5000, 0.5000])
    """
    return torch.sigmoid(logits.squeeze(1)) if task.outputs == 1 else logits.softmax(1)


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
    if state.get("kind") != _KIND:
        raise UserError(f"{path} is not a model; make one with: autoemb export")
    saved = _SavedModel.parse(state, str(path))
    try:
        return _model(saved)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold such a model: {error}") from None


class _SavedField(Declared):
    """What a file holds of one field: see :class:`ServedField`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    ids: dict[str, np.ndarray[Any, Any]]
    rows: tuple[Tensor, ...]
    projections: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    newcomer: Tensor


class _SavedModel(Declared):
    """What a file holds: see :class:`ServedModel`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["autoemb model 1"]
    task: str
    scale: Annotated[float, Field(allow_inf_nan=False)]
    linear: bool
    hidden: tuple[tuple[Tensor, Tensor], ...]  # weight and bias of each layer
    fields: tuple[_SavedField, ...]
    about: dict[str, JsonValue]


def _model(saved: _SavedModel) -> ServedModel:
    fields = [
        ServedField(
            IdTable.from_state(field.ids),
            list(field.rows),
            list(field.projections),
            list(field.offsets),
            field.newcomer,
        )
        for field in saved.fields
    ]
    widths = [len(field.newcomer) for field in fields]
    if len({*widths}) != 1:
        raise ValueError(f"fields are {widths} wide; expected one width")
    task = task_for(saved.task, STARS)
    return ServedModel(
        fields,
        _network(saved.hidden, sum(widths), task.outputs),
        task,
        scale=saved.scale,
        linear=saved.linear,
        about=saved.about,
    )


def _network(layers: Sequence[tuple[Tensor, Tensor]], inputs: int, outputs: int) -> nn.Sequential:
    """Return the layers of a file, whose sizes must fit together, as they are in memory."""
    if not layers:
        raise ValueError("hidden is empty; expected a layer")
    sizes = [inputs]
    for number, (weight, bias) in enumerate(layers):
        last = outputs if number == len(layers) - 1 else None
        sizes.append(_size(f"weight of layer {number}", weight, last, sizes[-1])[0])
        _size(f"bias of layer {number}", bias, sizes[-1])
    with torch.device("meta"):  # nothing is allocated or drawn for what is replaced at once
        network = mlp(inputs, sizes[1:-1], outputs)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(linear, layers, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return network
