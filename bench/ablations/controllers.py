"""Other controllers, inputs and ways to learn: what the package does not offer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoemb import Batch, Controller, History, StreamLearner
from autoemb.batch import Known
from autoemb.bilevel.outcome import Update
from autoemb.streaming import Step
from autoemb.streaming.history import POPULARITY_WIDTH

SHARE_HELD_OUT = 0.05


def tempered(temperature: float) -> type[Controller]:
    """Return a controller whose logits are divided by a temperature."""

    class Tempered(Controller):
        def forward(
            self, rows: Mapping[str, Tensor], features: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            mixes = super().forward(rows, features)
            return {t: torch.softmax(mix.log() / temperature, 1) for t, mix in mixes.items()}

    return Tempered


class _Bonus(torch.autograd.Function):
    """The identity, whose gradient has that of a bonus for the mean entropy of the rows added."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.strength = strength
        return weights.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grad + ctx.strength / len(weights) * (weights.clamp_min(1e-12).log() + 1), None


def with_entropy_bonus(strength: float) -> type[Controller]:
    """Return a controller that also learns to raise the entropy of its weights."""

    class WithBonus(Controller):
        def forward(
            self, rows: Mapping[str, Tensor], features: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            mixes = super().forward(rows, features)
            return {t: _Bonus.apply(mix, strength) for t, mix in mixes.items()}  # type: ignore[no-untyped-call]

    return WithBonus


class Gates(Controller):
    """Each size has a weight of its own in (0, 1) instead of a share: 1/3 for a logit of 0."""

    def forward(
        self, rows: Mapping[str, Tensor], features: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        # The softmax of (x, 0, 0) is the sigmoid of x - log 2.
        return {
            table: torch.sigmoid(logits - math.log(2))
            for table, logits in self.logits(features).items()
        }


class RandomStart(Controller):
    """The last layer starts as PyTorch starts any, so ids start with different weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for network in self.networks:
            network[-1].reset_parameters()  # type: ignore[index, operator]


class WidestStart(History):
    """A history whose prior gives every id, newcomers too, most of the widest size."""

    def popularity_prior(self) -> Tensor:
        prior = super().popularity_prior()
        prior[:POPULARITY_WIDTH, -1] = prior.max()  # the encoding of popularity adds up to 1
        return prior


def without_inputs(*groups: str) -> type[History]:
    """Return a history that gives zeros for some groups: popularity, weights, losses."""

    class Blinded(History):
        def features(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {t: self._blinded(own.clone()) for t, own in super().features(rows).items()}

        def _blinded(self, features: Tensor) -> Tensor:
            last, count, mean = range(features.shape[1] - 3, features.shape[1])
            columns = {
                "popularity": [*range(POPULARITY_WIDTH), count],
                "weights": [*range(POPULARITY_WIDTH, last)],
                "losses": [last, mean],
            }
            for group in groups:
                features[:, columns[group]] = 0
            return features

    return Blinded


def every(steps: int) -> type[StreamLearner]:
    """Return a learner whose controller learns from the past at every so many batches."""

    class Sometimes(StreamLearner):
        _batches = 0

        def _past(self) -> list[Batch]:
            self._batches += 1
            return super()._past() if self._batches % steps == 0 else []

    return Sometimes


class HeldOut(StreamLearner):
    """The controller learns from a share of events that the weights never learn from.

    Those are predicted and scored like all others.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._random = torch.Generator().manual_seed(0)
        self._weights_learn = False
        self._held = torch.empty(0, dtype=torch.bool)
        loss, compute = self.trainer.loss, self.trainer.compute

        def masked(logits: Tensor, target: Tensor) -> Tensor:
            losses = loss(logits, target)
            if not self._weights_learn:
                return losses
            return torch.where(self._held, losses.detach(), losses)

        def computed(*examples: Any, **options: Any) -> Update:
            self._weights_learn = True
            try:
                return compute(*examples, **options)
            finally:
                self._weights_learn = False

        self.trainer.loss, self.trainer.compute = masked, computed  # type: ignore[method-assign]

    def learn(self, batch: Batch) -> Step:
        self._held = torch.rand(len(batch), generator=self._random) < SHARE_HELD_OUT
        return super().learn(batch)

    def _past(self) -> list[Batch]:
        return super()._past() if self.reservoir is not None and len(self.reservoir) else []

    def _remember(self, batch: Batch) -> None:
        held = self._held.numpy()
        sparse = {name: ids[held] for name, ids in batch.sparse.items()}  # type: ignore[call-overload]
        label = None if batch.label is None else batch.label[self._held]
        known = batch.known
        if known is not None:
            known = Known(*(own[self._held] for own in known))
        super()._remember(Batch(sparse, label=label, known=known))
        self._recent = [batch]
