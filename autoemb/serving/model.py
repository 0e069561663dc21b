"""A model that only predicts: every id owns one row at most, as wide as it needs (Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.batch import Bag, Batch
from autoemb.errors import UserError
from autoemb.nn.dense import DenseTransform
from autoemb.nn.inputs import Inputs
from autoemb.nn.layers import Cross, crossed
from autoemb.nn.models import Told
from autoemb.nn.models.told import added, with_told
from autoemb.nn.reading import taken
from autoemb.schema import Schema
from autoemb.serving.history import ServedHistory
from autoemb.serving.request import as_batch
from autoemb.serving.table import ServedTable
from autoemb.streaming import checkpoint
from autoemb.streaming.encoding import Encoder
from autoemb.streaming.statistics import inputs_width
from autoemb.tasks import Task, task_for

#: What a file says that it holds.
KIND = "autoemb model 4"


class ServedModel:
    """Predict from raw ids: made by ``autoemb export``, read by :func:`load_model`.

    Nothing here is trained, and an id that the model does not know is a newcomer. Any number of
    threads may predict at once. A model with a history is told what earlier labels say of its ids:
    :meth:`observe` lets it know more of them.

    Parameters
    ----------
    schema : Schema
        Features in the order of the network's input, dense ones behind them.
    tables : mapping of str to ServedTable
        Those of the schema, embeddings of one width D.
    hidden : torch.nn.Sequential
        Embeddings, dense inputs and what is told of ids -> logits; frozen here.
    task : Task or str, optional
        By default the one that suits the label.
    crosses : sequence of Cross, optional
        Layers before it, from which its inputs come; frozen here.
    dense : DenseTransform, optional
        Of the schema's dense features, as far as they are known.
    scale : float, default 1.0
        What the tanh of narrow rows is multiplied with: Eq. 7's 1/N.
    linear : bool, default False
        Rows of a fixed width, which no tanh follows.
    about : mapping, optional
        Where the model comes from: plain JSON content, kept in the file.
    history : ServedHistory, optional
        What is known of the ids of all tables, for a network that is told.

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
        crosses: Sequence[Cross] = (),
        dense: DenseTransform | None = None,
        scale: float = 1.0,
        linear: bool = False,
        about: Mapping[str, Any] | None = None,
        history: ServedHistory | None = None,
    ) -> None:
        self.task = task if isinstance(task, Task) else task_for(task, schema.label)
        self.schema, self.tables, self.hidden = schema, dict(tables), hidden
        self.crosses = [*crosses]
        self.scale, self.linear = scale, linear
        self.about, self.history = dict(about or {}), history
        self._check(dense)
        self.hidden.requires_grad_(False)
        for cross in self.crosses:
            cross.requires_grad_(False)
        reads = {feature.column: feature for feature in schema.features}
        self._encoder = Encoder(reads, task=self.task)
        self._encoder.id_tables = {name: table.ids for name, table in self.tables.items()}
        self._encoder.dense = dense

    def _check(self, dense: DenseTransform | None) -> None:
        schema, widths = self.schema, {len(table.newcomer) for table in self.tables.values()}
        if self.tables.keys() != {*schema.tables}:
            known, named = ", ".join(self.tables) or "none", ", ".join(schema.tables)
            raise ValueError(f"the tables are {known}; the schema names {named}")
        for name, table in self.tables.items() if self.history is None else ():
            if sum(map(len, table.rows)) != len(table.ids):
                raise ValueError(f"{len(table.ids)} ids of {name} own fewer rows")
        if len(widths) != 1:
            raise ValueError(f"tables are {sorted(widths)} wide; expected one width")
        if (() if dense is None else dense.features) != schema.dense:
            raise ValueError("the transform is of other dense features than the schema's")
        if self.task.label != schema.label:
            raise ValueError("the task is of another label than the schema's")
        layers = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        found = (layers[0].in_features, layers[-1].out_features) if layers else (0, 0)
        wanted = (
            inputs_of(schema, widths.pop(), inputs_told(schema, self.task, self.history)),
            self.task.outputs,
        )
        if found != wanted:
            raise ValueError(
                f"the network has {found[0]} inputs and {found[1]} outputs; expected {wanted[0]} "
                f"and {wanted[1]}"
            )
        for cross in self.crosses:
            if len(cross.inner) != wanted[0]:
                raise ValueError(
                    f"a cross layer has {len(cross.inner)} inputs; expected {wanted[0]}"
                )
        wide = None if self.history is None else self.history.wide
        inputs = inputs_of(schema, 0, inputs_told(schema, self.task, self.history))
        if wide is not None and (wide.in_features, wide.out_features) != (inputs, wanted[1]):
            raise ValueError(
                f"the linear part has {wide.in_features} inputs and {wide.out_features} outputs; "
                f"expected {inputs} and {wanted[1]}"
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
        wide = None if self.history is None else self.history.wide
        if self.history is not None:
            inputs = with_told(inputs, full=wide is not None)
        embedded = self._embedded(inputs).flatten(1)
        if inputs.dense is not None:
            embedded = torch.cat([embedded, inputs.dense], 1)
        with torch.no_grad():
            logits = self.hidden(crossed(embedded, self.crosses))
            return added(logits, inputs, wide, self.task.expecting)

    def observe(self, events: Batch | Mapping[str, Any]) -> None:
        """Take in the labels of events: what is known of their ids is told from now on.

        Predictions of other threads meanwhile know all of them, or none. Nothing is trained.

        Parameters
        ----------
        events : Batch, or mapping of str to column
            As of :meth:`logits`, and the column of the label [B], as it stands in the data; that of
            the weight where the schema names one. In their order: one event after the other.

        Raises
        ------
        UserError
            For a model without a history, and events that are not what the schema says.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from autoemb import Label, Recipe, Schema, Sparse, build_learner
        >>> from autoemb.serving import Exporter
        >>> schema = Schema(label=Label(column="click", kind="click"),
        ...                 sparse=[Sparse(column="user_id")])
        >>> learner = build_learner(schema, recipe=Recipe(dims=(1, 2), hidden=(4,), history="full"))
        >>> events = {"user_id": np.arange(20)}
        >>> _ = learner.learn(Batch(events, label=torch.arange(20) % 2))
        >>> model, _ = Exporter(learner, schema).export(budget=0.5)
        >>> before = model.predict({"user_id": [99]})
        >>> model.observe({"user_id": [99] * 5, "click": [1] * 5})
        >>> bool(model.predict({"user_id": [99]}) > before)
        True
        """
        if self.history is None:
            raise UserError("the model has no history to let it know of labels; train it with one")
        if not isinstance(events, Batch):
            events = as_batch(events, self.schema, labelled=True)
        self.history.observe(self._encoder, self._encoder.checked(events, labelled=True))

    def predict(self, batch: Batch | Mapping[str, Any]) -> Tensor:
        """Return what the task makes of :meth:`logits`: probabilities or values [B], or classes.

        Of classes, and of the stars of a rating, it is the probability of each [B, outputs].
        """
        return self.task.predict(self.logits(batch))

    def _inputs(self, batch: Batch | Mapping[str, Any]) -> Inputs:
        if not isinstance(batch, Batch):
            batch = as_batch(batch, self.schema)
        batch = self._encoder.checked(batch, labelled=False)
        if self.history is not None:
            return self.history.example(self._encoder, batch).inputs
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
            features are scaled by); ``ids``; ``history``, if there is one.
        """
        pairs = [table.tensors() for table in self.tables.values()]
        known = {} if self.dense is None else self.dense.state_dict()
        linear = None if self.history is None else self.history.wide
        wide = [] if linear is None else [linear.weight, linear.bias]
        parts = {
            "rows": [tensor for rows, _ in pairs for tensor in rows],
            "projections": [tensor for _, others in pairs for tensor in others],
            "network": [
                *(own for cross in self.crosses for own in cross.parameters()),
                *self.hidden.parameters(),
                *wide,
                *known.values(),
            ],
        }
        sizes = {
            name: sum(t.numel() * t.element_size() for t in tensors)
            for name, tensors in parts.items()
        }
        states = [table.ids.state().values() for table in self.tables.values()]
        sizes["ids"] = sum(array.nbytes for state in states for array in state)
        if self.history is not None:
            sizes["history"] = self.history.bytes(self._num_ids())
        return sizes

    def _num_ids(self) -> dict[str, int]:
        return {name: len(table.ids) for name, table in self.tables.items()}

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
            "crosses": [[c.inner, c.outer.weight, c.outer.bias] for c in self.crosses],
            "hidden": [[layer.weight, layer.bias] for layer in layers],
            "tables": {name: table.state() for name, table in self.tables.items()},
            "dense": None if self.dense is None else dict(self.dense.state_dict()),
            "about": self.about,
            "history": None if self.history is None else self.history.state(self._num_ids()),
        }
        checkpoint.save(state, path)


def inputs_of(schema: Schema, width: int, told: int = 0) -> int:
    """Return how many inputs a network has over embeddings of a width, beside what it is told.

    Examples
    --------
    >>> from autoemb.schema import RATINGS
    >>> inputs_of(RATINGS, 128)
    256
    """
    return len(schema.features) * width + schema.num_dense + told


def inputs_told(schema: Schema, task: Task, history: ServedHistory | None) -> int:
    """Return how many inputs of a network say what is known of ids."""
    if history is None:
        return 0
    width = 0 if history.wide is None else inputs_width(task)
    return Told.inputs_of(len(schema.features), width)
