"""From a trained learner to the model that it serves within a budget of bytes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoemb.errors import UserError
from autoemb.nn import DCN, MLP, MODELS
from autoemb.nn.layers import Cross
from autoemb.nn.models import Told
from autoemb.nn.soft import SoftEmbedding
from autoemb.schema import Schema
from autoemb.serving.choice import choose_widths
from autoemb.serving.fit import Fitted, fit, squared_distance
from autoemb.serving.history import ServedHistory, reordered
from autoemb.serving.mixed import mixed_embeddings
from autoemb.serving.model import ServedModel
from autoemb.serving.table import ServedTable
from autoemb.streaming import IdTable, StreamLearner
from autoemb.tasks import Task, task_for

#: Models that can be exported: hidden layers over embeddings side by side, crossed or not.
EXPORTED = (MLP, DCN)


class Exporter:
    """What a learner needs to become a model of any size.

    What an id's embedding is to the model (its sizes mixed by the controller) is fitted by rows of
    each width, here, once, table by table. :meth:`export` then gives each id the width with the
    least error for its bytes. Errors are squared changes of what the first hidden layer adds up
    (of inputs that are not crossed), weighted by the square root of the id's events. Where several
    features read a table, the squared changes that an id makes through each of them are added; a
    bag counts as if it held that id alone. What labels say of ids goes with the model, of those
    without a row, too.

    Parameters
    ----------
    learner : StreamLearner
        Over an :class:`autoemb.MLP` or :class:`autoemb.nn.DCN`, told or not; it is left as it is
        and may go on learning.
    schema : Schema
        What it learns from, as of :func:`autoemb.build_learner`.
    task : Task or str, optional
        By default the one that suits the label.
    widths : sequence of int, optional
        To choose from, beside none at all; by default the learner's sizes, or 2, 16 and its own for
        one fixed width.
    about : mapping, optional
        Where the learner comes from: plain JSON content, kept in the model's file.

    Raises
    ------
    UserError
        For another model or schema, a width out of range, or a learner that diverged or counted no
        events.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from autoemb import Batch, Label, Recipe, Schema, Sparse, build_learner
    >>> label = Label(column="click", kind="click")
    >>> schema = Schema(label=label, sparse=[Sparse(column="user_id")])
    >>> learner = build_learner(schema, recipe=Recipe(dims=(1, 2), hidden=(4,)))
    >>> users = {"user_id": np.arange(20)}
    >>> _ = learner.learn(Batch(users, label=torch.arange(20) % 2))
    >>> model, widths = Exporter(learner, schema).export(budget=0.5)
    >>> model.predict(users).shape, bool(widths["user_id"].sum() <= 0.5 * 20 * 3)
    (torch.Size([20]), True)
    """

    def __init__(
        self,
        learner: StreamLearner,
        schema: Schema,
        task: Task | str | None = None,
        widths: Sequence[int] | None = None,
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        given: Any = learner.modules[0]
        model: Any = given.model if isinstance(given, Told) else given
        _check_model(model, learner, schema)
        embedding = model.embedding
        soft = isinstance(embedding, SoftEmbedding)
        dims = getattr(embedding, "embedding_dims", (embedding.output_dim,))
        own = dims if len(dims) > 1 else [width for width in (2, 16) if width < dims[0]]
        self.learner, self.schema, self.about = learner, schema, dict(about or {})
        self.task = task if isinstance(task, Task) else task_for(task, schema.label)
        self.model, self.soft, self.dims = model, soft, tuple(dims)
        self.crosses: list[Cross] = [*getattr(model, "crosses", ())]
        self.scale = 1 / len(dims) if soft and embedding.average else 1.0
        self.widths = _widths(widths, own, embedding.output_dim)
        # Counts are inputs of the controller, too: bad ones would look like a run that diverged.
        importances = {table: _importance(learner, table) for table in schema.tables}
        self.told = given if isinstance(given, Told) else None
        self.embeddings = mixed_embeddings(learner, embedding)
        _check_finite(self.embeddings, model, self.told)
        self.fits: dict[str, list[Fitted]] = {}
        self.errors: dict[str, Tensor] = {}
        for table, metric in _metrics(model.hidden[0], schema, embedding.output_dim).items():
            known, importance = self.embeddings[table], importances[table]
            target, newcomer = known[:-1], known[-1]
            self.fits[table] = fits = [
                _fit(target / self.scale, importance, metric * self.scale**2, width, soft)
                for width in self.widths
            ]
            none = squared_distance(target - newcomer, metric)
            error = torch.stack([none, *(fit.error for fit in fits)], 1)
            self.errors[table] = error * importance.unsqueeze(1)

    def export(self, budget: float) -> tuple[ServedModel, dict[str, Tensor]]:
        """Return a model in which every id keeps one row at most, of the width that it needs.

        Parameters
        ----------
        budget : float
            Share of the floats that all sizes of all ids take, in (0, 1].

        Returns
        -------
        ServedModel
        dict of str to Tensor[V]
            Width of each row of the learner, by table.

        Raises
        ------
        UserError
            For a budget out of range.
        """
        if not 0 < budget <= 1:
            raise UserError(f"--budget is {budget}; expected a share above 0 and at most 1")
        total = sum(map(len, self.errors.values())) * sum(self.dims)
        found = choose_widths([*self.errors.values()], (0, *self.widths), budget * total)
        choices = dict(zip(self.errors, found, strict=True))
        model = ServedModel(
            self.schema,
            {table: self._table(table, choice) for table, choice in choices.items()},
            copy.deepcopy(self.model.hidden).cpu(),  # whose weights the learner may go on changing
            self.task,
            crosses=[copy.deepcopy(cross).cpu() for cross in self.crosses],
            dense=copy.deepcopy(self.learner.encoder.dense),
            scale=self.scale,
            linear=not self.soft,
            about=self.about | {"budget": budget, "widths": list(self.widths)},
            history=self._history(choices),
        )
        by_index = torch.tensor((0, *self.widths))
        return model, {table: by_index[choice] for table, choice in choices.items()}

    def _table(self, table: str, choice: Tensor) -> ServedTable:
        ids = self.learner.encoder.id_tables[table].ids()
        fits, kept, rows = self.fits[table], IdTable(), []
        for number in self._order(choice):
            kept.rows(ids[number] if isinstance(ids, np.ndarray) else [ids[i] for i in number])
        for k, fitted in enumerate(fits, start=1):
            (own,) = (choice == k).nonzero(as_tuple=True)
            verbatim = not len(fitted.projection)
            rows.append(fitted.rows[own] * (self.scale if verbatim else 1))
        return ServedTable(
            kept,
            rows,
            [fit.projection for fit in fits],
            [fit.offset for fit in fits],
            self.embeddings[table][-1],
        )

    def _order(self, choice: Tensor) -> list[npt.NDArray[np.int64]]:
        """Return the learner's rows of the ids of a served table, width by width.

        Those without a row come last, where something else is known of them.
        """
        every = [*range(1, 1 + len(self.widths)), *([] if self.told is None else [0])]
        return [(choice == k).nonzero(as_tuple=True)[0].numpy() for k in every]

    def _history(self, choices: Mapping[str, Tensor]) -> ServedHistory | None:
        statistics = self.learner.statistics
        if self.told is None or statistics is None:
            return None
        orders = {t: np.concatenate(self._order(choice)) for t, choice in choices.items()}
        wide = copy.deepcopy(self.told.wide)
        own = None if wide is None else wide.cpu()
        return ServedHistory(reordered(statistics, orders), self.learner.seed, own)


def _check_model(model: Any, learner: StreamLearner, schema: Schema) -> None:
    """Check that a model can be exported, and that it reads what the schema says."""
    if type(model) not in EXPORTED:
        names: dict[type[nn.Module], str] = {kind: name for name, kind in MODELS.items()}
        known = ", ".join(names[kind] for kind in EXPORTED)
        found = names.get(type(model), type(model).__name__)
        raise UserError(f"the model is {found}; an export is of: {known}")
    transform = learner.encoder.dense
    dense = () if transform is None else transform.features
    for kind, has, says in (
        ("features", tuple(model.embedding.features), schema.features),
        ("dense features", dense, schema.dense),
    ):
        if has != says:
            own, other = (", ".join(f.column for f in part) or "none" for part in (has, says))
            raise UserError(f"the {kind} of the learner ({own}) are not the schema's ({other})")


def _importance(learner: StreamLearner, table: str) -> Tensor:
    """Return the square root of each id's events; an id that none counted for has one."""
    count = learner.history.tables[table].count[: learner.num_ids()[table]].cpu()
    counted = any(f.counts for f in learner.trainer.reads.values() if f.table == table)
    if bool((count < 0).any()) or (counted and len(count) and not bool(count.any())):
        raise UserError(f"no events of the ids of {table} are counted, which their errors weigh by")
    return count.clamp_min(1).to(torch.float32).sqrt()


def _check_finite(embeddings: Mapping[str, Tensor], model: nn.Module, told: Told | None) -> None:
    found = {f"an embedding of {table}": known for table, known in embeddings.items()}
    if told is not None and told.wide is not None:
        found |= {f"{name} of the linear part": own for name, own in told.wide.named_parameters()}
    network = {n: own for n, own in model.named_parameters() if not n.startswith("embedding.")}
    found |= {f"{name} of the network": own for name, own in network.items()}
    for name, values in found.items():
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"it has diverged: {name} is not a finite number")


def _widths(given: Sequence[int] | None, trained: Sequence[int], output: int) -> tuple[int, ...]:
    widths = sorted({*(given or (*trained, output))})
    if widths[0] < 1 or widths[-1] > output:
        raise UserError(
            f"--widths is {','.join(map(str, widths))}; expected widths from 1 to {output}, the "
            "width of the embeddings"
        )
    return tuple(widths)


def _fit(target: Tensor, importance: Tensor, metric: Tensor, width: int, soft: bool) -> Fitted:
    output = target.shape[1]
    if width == output or len(target) == 0:  # the embedding itself, or nothing to fit
        projection = target.new_zeros(0 if width == output else output, width)
        return Fitted(
            target[:, :width], projection, target.new_zeros(output), target.new_zeros(len(target))
        )
    return fit(target, importance, metric, width, linear=not soft)


def _metrics(first: nn.Linear, schema: Schema, width: int) -> dict[str, Tensor]:
    """Return a matrix [D, D] a table: squared change of the first hidden layer's sums.

    It is the sum over the features that read the table, each by its columns of the layer.
    """
    weight = first.weight.detach().cpu()
    found: dict[str, Tensor] = {}
    for number, feature in enumerate(schema.features):
        part = weight[:, number * width : (number + 1) * width]
        own = part.t() @ part
        found[feature.table] = found[feature.table] + own if feature.table in found else own
    return found
