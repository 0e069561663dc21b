"""A model that only predicts: every id owns one row at most, as wide as it needs (Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.batch import Bag, Batch
from autoemb.nn.dense import DenseTransform
from autoemb.nn.inputs import Inputs
from autoemb.nn.reading import taken
from autoemb.schema import Schema
from autoemb.serving.request import as_batch
from autoemb.serving.table import ServedTable
from autoemb.streaming import checkpoint
from autoemb.streaming.encoding import Encoder
from autoemb.tasks import Task, task_for

#: What a file says that it holds.
KIND = "autoemb model 2"


class ServedModel:
    """Predict from raw ids: made by ``autoemb export``, read by :func:`load_model`.

    Nothing here is trained, and an id that the model does not know is a newcomer. Any number of
    threads may predict at once.

    Parameters
    ----------
    schema : Schema
        Features in the order of the network's input, dense ones behind them.
    tables : mapping of str to ServedTable
        Those of the schema, embeddings of one width D.
    hidden : torch.nn.Sequential
        Embeddings and dense inputs [B, F * D + 2 C] -> logits; frozen here.
    task : Task or str, optional
        By default the one that suits the label.
    dense : DenseTransform, optional
        Of the schema's dense features, as far as they are known.
    scale : float, default 1.0
        What the tanh of narrow rows is multiplied with: Eq. 7's 1/N.
    linear : bool, default False
        Rows of a fixed width, which no tanh follows.
    about : mapping, optional
        Where the model comes from: plain JSON content, kept in the file.

    Raises
    ------
    ValueError
        For tables, dense features or a network that do not fit the schema and the task.

    Examples
    --------
    >>> import torch
    >>> from autoemb import IdTable, Label, Schema, Sparse
    >>> from autoemb.nn.layers import mlp
    >>> def table(ids):
    ...     own = IdTable()
    ...     _ = own.rows(ids)
    ...     return ServedTable(own, [torch.ones(len(ids), 1)], [torch.ones(4, 1)],
    ...                        [torch.zeros(4)], torch.zeros(4))
    >>> schema = Schema(label=Label(column="click", kind="click"),
    ...                 sparse=[Sparse(column="user_id"), Sparse(column="item_id")])
    >>> tables = {"user_id": table([7, 9]), "item_id": table(["jaws"])}
    >>> model = ServedModel(schema, tables, mlp(8, (3,), 1))
    >>> model.predict({"user_id": [9, 1], "item_id": ["jaws", "alien"]}).shape
    torch.Size([2])
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, ServedTable],
        hidden: nn.Sequential,
        task: Task | str | None = None,
        *,
        dense: DenseTransform | None = None,
        scale: float = 1.0,
        linear: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = task if isinstance(task, Task) else task_for(task, schema.label)
        self.schema, self.tables, self.hidden = schema, dict(tables), hidden
        self.scale, self.linear = scale, linear
        self.about = dict(about or {})
        self._check(dense)
        self.hidden.requires_grad_(False)
        self._encoder = Encoder({feature.column: feature for feature in schema.features})
        self._encoder.id_tables = {name: table.ids for name, table in self.tables.items()}
        self._encoder.dense = dense

    def _check(self, dense: DenseTransform | None) -> None:
        schema, widths = self.schema, {len(table.newcomer) for table in self.tables.values()}
        if self.tables.keys() != {*schema.tables}:
            known, named = ", ".join(self.tables) or "none", ", ".join(schema.tables)
            raise ValueError(f"the tables are {known}; the schema names {named}")
        if len(widths) != 1:
            raise ValueError(f"tables are {sorted(widths)} wide; expected one width")
        if (() if dense is None else dense.features) != schema.dense:
            raise ValueError("the transform is of other dense features than the schema's")
        if self.task.label != schema.label:
            raise ValueError("the task is of another label than the schema's")
        layers = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        found = (layers[0].in_features, layers[-1].out_features) if layers else (0, 0)
        wanted = inputs_of(schema, widths.pop()), self.task.outputs
        if found != wanted:
            raise ValueError(
                f"the network has {found[0]} inputs and {found[1]} outputs; expected {wanted[0]} "
                f"and {wanted[1]}"
            )

    @property
    def dense(self) -> DenseTransform | None:
        """What is known of dense features."""
        return self._encoder.dense

    def embed(self, batch: Batch | Mapping[str, Any]) -> Tensor:
        """Return the embeddings [B, F, D] of each event's ids, bags pooled."""
        return self._embedded(self._inputs(batch))

    def logits(self, batch: Batch | Mapping[str, Any]) -> Tensor:
        """Return the model's output [B, outputs].

        Parameters
        ----------
        batch : Batch, or mapping of str to column
            Raw ids by feature; labels are not needed. In a mapping a sparse feature has ids [B], a
            bag a list of ids for each event or a :class:`autoemb.Bag`, and a dense feature numbers
            [B], None or NaN where one is missing.

        Raises
        ------
        UserError
            For a batch that is not what the schema says: a feature that is missing or of another
            kind, ids of another kind than those that the model knows, columns of unequal lengths.
        """
        inputs = self._inputs(batch)
        embedded = self._embedded(inputs).flatten(1)
        if inputs.dense is not None:
            embedded = torch.cat([embedded, inputs.dense], 1)
        with torch.no_grad():
            logits: Tensor = self.hidden(embedded)
        return logits

    def predict(self, batch: Batch | Mapping[str, Any]) -> Tensor:
        """Return what the task makes of :meth:`logits`: probabilities or values [B], or classes.

        Of classes, and of the stars of a rating, it is the probability of each [B, outputs].
        """
        return self.task.predict(self.logits(batch))

    def _inputs(self, batch: Batch | Mapping[str, Any]) -> Inputs:
        if not isinstance(batch, Batch):
            batch = as_batch(batch, self.schema)
        batch = self._encoder.checked(batch, labelled=False)
        return self._encoder.example(batch, self._encoder.numbers(batch, insert=False)).inputs

    @torch.no_grad()
    def _embedded(self, inputs: Inputs) -> Tensor:
        found: dict[str, Tensor] = {}
        for name, table in self.tables.items():
            readers = [feature for feature in self.schema.features if feature.table == name]
            parts = [inputs.ids[feature.column] for feature in readers]
            flat = [part.values if isinstance(part, Bag) else part for part in parts]
            numbers, where = torch.unique(torch.cat(flat), return_inverse=True)
            values = table.embeddings(numbers, scale=self.scale, linear=self.linear)
            own = where.split_with_sizes([len(ids) for ids in flat])
            for feature, part, rows in zip(readers, parts, own, strict=True):
                found[feature.column] = taken(feature, part, values, rows)
        return torch.stack([found[feature.column] for feature in self.schema.features], 1)

    def bytes(self) -> dict[str, int]:
        """Return the bytes of each part.

        Returns
        -------
        dict
            ``rows``; ``projections`` (with offsets and newcomers); ``network`` (with what dense
            features are scaled by); ``ids``.
        """
        pairs = [table.tensors() for table in self.tables.values()]
        known = {} if self.dense is None else self.dense.state_dict()
        parts = {
            "rows": [tensor for rows, _ in pairs for tensor in rows],
            "projections": [tensor for _, others in pairs for tensor in others],
            "network": [*self.hidden.parameters(), *known.values()],
        }
        sizes = {
            name: sum(t.numel() * t.element_size() for t in tensors)
            for name, tensors in parts.items()
        }
        states = [table.ids.state().values() for table in self.tables.values()]
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
            "kind": KIND,
            "columns": self.schema.model_dump(mode="json"),
            "task": self.task.name,
            "scale": self.scale,
            "linear": self.linear,
            "hidden": [[layer.weight, layer.bias] for layer in layers],
            "tables": {name: table.state() for name, table in self.tables.items()},
            "dense": None if self.dense is None else dict(self.dense.state_dict()),
            "about": self.about,
        }
        checkpoint.save(state, path)


def inputs_of(schema: Schema, width: int) -> int:
    """Return how many inputs a network has over embeddings of a width and dense features.

    Examples
    --------
    >>> from autoemb.schema import RATINGS
    >>> inputs_of(RATINGS, 128)
    256
    """
    return len(schema.features) * width + schema.num_dense
