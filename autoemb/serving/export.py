"""From a trained run to the model that it serves within a budget of bytes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoemb.bilevel.passes import evaluating
from autoemb.errors import UserError
from autoemb.nn.controller import select_hard
from autoemb.nn.rows import RowModule, grow
from autoemb.nn.soft import SoftEmbedding
from autoemb.serving.choice import choose_widths
from autoemb.serving.fit import Fitted, fit, squared_distance
from autoemb.serving.model import ServedField, ServedModel
from autoemb.streaming import IdTable, StreamLearner
from autoemb.tasks import Task

#: Ids of one call of the embedding.
CHUNK = 4096


class Exporter:
    """What a learner needs to become a model of any size.

    What an id's embedding is to the model (its sizes mixed by the controller) is fitted by rows of
    each width, here, once. :meth:`export` then gives each id the width with the least error for its
    bytes. Errors are squared changes of what the first hidden layer adds up, weighted by the square
    root of the id's events.

    Parameters
    ----------
    learner : StreamLearner
        Over a :class:`autoemb.RatingModel`; it may go on learning.
    task : Task
    widths : sequence of int, optional
        To choose from, beside none at all; by default the learner's sizes, or 2, 16 and its own for
        one fixed width.
    about : mapping, optional
        Where the learner comes from: plain JSON content, kept in the model's file.

    Raises
    ------
    UserError
        For a width out of range, or a learner that diverged or counted no events.
    """

    def __init__(
        self,
        learner: StreamLearner,
        task: Task,
        widths: Sequence[int] | None = None,
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        model: Any = learner.modules[0]  # a RatingModel
        embedding = model.embedding
        soft = isinstance(embedding, SoftEmbedding)
        dims = embedding.embedding_dims if soft else (embedding.output_dim,)
        own = dims if soft else [width for width in (2, 16) if width < embedding.output_dim]
        self.learner, self.task, self.about = learner, task, dict(about or {})
        self.model, self.soft, self.dims = model, soft, tuple(dims)
        self.scale = 1 / len(dims) if soft and embedding.average else 1.0
        self.widths = _widths(widths, own, embedding.output_dim)
        importances = [
            state.count[: len(ids)].to(torch.float32).sqrt()
            for state, ids in zip(learner.state.fields, learner.id_tables, strict=True)
        ]
        # Counts are inputs of the controller, too: bad ones would look like a run that diverged.
        for importance in importances:
            if not (torch.isfinite(importance).all() and importance.sum() > 0):
                raise UserError("no events of its ids are counted, which their errors weigh by")
        self.embeddings = mixed_embeddings(learner)
        self.fits: list[list[Fitted]] = []
        self.errors: list[Tensor] = []
        metrics = _metrics(model.hidden[0], embedding.fields)
        for known, metric, importance in zip(self.embeddings, metrics, importances, strict=True):
            if not torch.isfinite(known).all():
                raise UserError("it has diverged: an embedding is not a finite number")
            target, newcomer = known[:-1], known[-1]
            fits = [
                _fit(target / self.scale, importance, metric * self.scale**2, width, soft)
                for width in self.widths
            ]
            none = squared_distance(target - newcomer, metric)
            self.fits.append(fits)
            error = torch.stack([none, *(fit.error for fit in fits)], 1)
            self.errors.append(error * importance.unsqueeze(1))

    def export(self, budget: float) -> tuple[ServedModel, list[Tensor]]:
        """Return a model in which every id keeps one row at most, of the width that it needs.

        Parameters
        ----------
        budget : float
            Share of the floats that all sizes of all ids take, in (0, 1].

        Returns
        -------
        ServedModel
        list of F Tensor[V_f]
            Width of each row of the learner.

        Raises
        ------
        UserError
            For a budget out of range.
        """
        if not 0 < budget <= 1:
            raise UserError(f"--budget is {budget}; expected a share above 0 and at most 1")
        total = sum(map(len, self.errors)) * sum(self.dims)
        choices = choose_widths(self.errors, (0, *self.widths), budget * total)
        served = [
            _field(table, choice, fits, known, self.scale)
            for table, choice, fits, known in zip(
                self.learner.id_tables, choices, self.fits, self.embeddings, strict=True
            )
        ]
        model = ServedModel(
            served,
            copy.deepcopy(self.model.hidden),  # whose weights the learner may go on changing
            self.task,
            scale=self.scale,
            linear=not self.soft,
            about=self.about | {"budget": budget, "widths": list(self.widths)},
        )
        by_index = torch.tensor((0, *self.widths))
        return model, [by_index[choice] for choice in choices]


def _widths(given: Sequence[int] | None, trained: Sequence[int], output: int) -> tuple[int, ...]:
    widths = sorted({*(given or (*trained, output))})
    if widths[0] < 1 or widths[-1] > output:
        raise UserError(
            f"--widths is {','.join(map(str, widths))}; expected widths from 1 to {output}, the "
            "width of the embeddings"
        )
    return tuple(widths)


def _fit(target: Tensor, importance: Tensor, metric: Tensor, width: int, soft: bool) -> Fitted:
    if width == target.shape[1]:  # the embedding itself
        nothing = target.new_empty(0, width)
        return Fitted(target, nothing, target.new_zeros(width), target.new_zeros(len(target)))
    return fit(target, importance, metric, width, linear=not soft)


def _metrics(first: nn.Linear, num_fields: int) -> list[Tensor]:
    """Return F matrices [D, D]: squared change of the first hidden layer's sums."""
    return [part.t() @ part for part in first.weight.detach().chunk(num_fields, 1)]


def _field(
    table: IdTable, choice: Tensor, fits: Sequence[Fitted], known: Tensor, scale: float
) -> ServedField:
    ids = table.ids()
    kept, rows = IdTable(), []
    for k, fitted in enumerate(fits, start=1):
        (own,) = (choice == k).nonzero(as_tuple=True)
        if len(own):
            kept.rows(ids[own.numpy()] if isinstance(ids, np.ndarray) else [ids[i] for i in own])
        verbatim = not len(fitted.projection)
        rows.append(fitted.rows[own] * (scale if verbatim else 1))
    return ServedField(
        kept, rows, [fit.projection for fit in fits], [fit.offset for fit in fits], known[-1]
    )


@torch.no_grad()
def mixed_embeddings(learner: StreamLearner) -> list[Tensor]:
    """Return the embeddings [V_f + 1, D] of all ids of each field, a newcomer's last.

    Sizes are normalised with the running statistics and mixed by the controller as it knows each
    id now. A newcomer has rows of zeros, the mean of what new rows are drawn from.
    """
    num_ids = [len(table) for table in learner.id_tables]
    _add_newcomers(learner, num_ids)
    model, *controllers = learner.modules
    embedding: Any = model.embedding
    parts: list[list[Tensor]] = [[] for _ in num_ids]
    with evaluating(learner.modules):
        for start in range(0, max(num_ids) + 1, CHUNK):
            rows = torch.arange(start, min(start + CHUNK, max(num_ids) + 1))
            # A shorter field repeats its newcomer; those rows are cut off below.
            columns = [rows.clamp_max(last) for last in num_ids]
            weights = None
            if controllers:
                features = [learner.state.features(f, c) for f, c in enumerate(columns)]
                weights = torch.stack(controllers[0](columns, features), 1)
                if learner.trainer.hard:
                    weights = select_hard(weights)
            output = embedding(torch.stack(columns, 1), weights)
            for f, part in enumerate(parts):
                part.append(output[:, f])
    return [torch.cat(part)[: n + 1] for part, n in zip(parts, num_ids, strict=True)]


def _add_newcomers(learner: StreamLearner, num_ids: Sequence[int]) -> None:
    """Give every field a row after its ids that nobody has seen."""
    wanted = [n + 1 for n in num_ids]
    learner.state.grow(wanted)
    for module in learner.modules:
        grow(module, wanted)
        for part in module.modules():
            if isinstance(part, RowModule):
                for name, field in part.row_fields.items():
                    # Where sizes are granted, newcomers own none and share zeros.
                    part.get_parameter(name)[num_ids[field] : num_ids[field] + 1].zero_()
