"""A model that only predicts: every id owns one row at most, as wide as it needs (Eq. 6)."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        for tensor in (*self.rows, *self.projections, *self.offsets, self.newcomer):
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
                raise ValueError(f"expected float32 tensors, not {reprlib.repr(tensor)}")
        width = len(self.newcomer)
        for rows, projection, offset in zip(self.rows, self.projections, self.offsets, strict=True):
            verbatim = rows.shape[1] == width
            expected = (0 if verbatim else width, rows.shape[1])
            if projection.shape != expected or offset.shape != (width,):
                raise ValueError(f"a projection is {[*projection.shape]}, not {[*expected]}")
        if sum(map(len, self.rows)) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids own {sum(map(len, self.rows))} rows")


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
    >>> from autoemb import IdTable, task_for
    >>> from autoemb.schema import STARS
    >>> from autoemb.nn.layers import mlp
    >>> def field(ids):
    ...     table = IdTable()
    ...     _ = table.rows(ids)
    ...     return ServedField(table, [torch.ones(len(ids), 1)], [torch.ones(4, 1)],
    ...                        [torch.zeros(4)], torch.zeros(4))
    >>> model = ServedModel([field([7, 9]), field(["jaws"])], mlp(8, (3,), 1),
    ...                     task_for("regression", STARS))
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
        logits = self.logits(ids)
        return torch.sigmoid(logits.squeeze(1)) if self.task.outputs == 1 else logits.softmax(1)

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
    try:
        return _model(state)
    except UserError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold such a model: {error!r}") from None


def _model(state: Mapping[str, Any]) -> ServedModel:
    fields = [
        ServedField(**content | {"ids": IdTable.from_state(content["ids"])})
        for content in state["fields"]
    ]
    task = task_for(state["task"], STARS)
    weights = [weight for weight, _ in state["hidden"]]
    hidden = mlp(
        sum(len(field.newcomer) for field in fields),
        [len(weight) for weight in weights[:-1]],
        task.outputs,
    )
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(layers, state["hidden"], strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    scale, linear, about = float(state["scale"]), bool(state["linear"]), dict(state["about"])
    return ServedModel(fields, hidden, task, scale=scale, linear=linear, about=about)
