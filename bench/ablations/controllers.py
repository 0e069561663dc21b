"""Other controllers, inputs and ways to learn: what the package does not offer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoemb import Controller, InteractionState, StreamLearner
from autoemb.bilevel import Batch
from autoemb.streaming import Events, Step
from autoemb.streaming.state import POPULARITY_WIDTH

SHARE_HELD_OUT = 0.05


def tempered(temperature: float) -> type[Controller]:
    """Return a controller whose logits are divided by a temperature."""

    class Tempered(Controller):
        def forward(self, ids: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
            mixes = super().forward(ids, features)
            return [torch.softmax(mix.log() / temperature, 1) for mix in mixes]

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
        def forward(self, ids: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
            mixes = super().forward(ids, features)
            return [_Bonus.apply(mix, strength) for mix in mixes]  # type: ignore[no-untyped-call]

    return WithBonus


class Gates(Controller):
    """Each size has a weight of its own in (0, 1) instead of a share: 1/3 for a logit of 0."""

    def forward(self, ids: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
        # The softmax of (x, 0, 0) is the sigmoid of x - log 2.
        return [
            torch.sigmoid(self._logits(network, inputs) - math.log(2))
            for network, inputs in zip(self.networks, features, strict=True)
        ]


class RandomStart(Controller):
    """The last layer starts as PyTorch starts any, so ids start with different weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for network in self.networks:
            network[-1].reset_parameters()  # type: ignore[index, operator]


class WidestStart(InteractionState):
    """A history whose prior gives every id, newcomers too, most of the widest size."""

    def popularity_prior(self) -> Tensor:
        prior = super().popularity_prior()
        prior[:POPULARITY_WIDTH, -1] = prior.max()  # the encoding of popularity adds up to 1
        return prior


def without_inputs(*groups: str) -> type[InteractionState]:
    """Return a history that gives zeros for some groups: popularity, weights, losses."""

    class Blinded(InteractionState):
        def features(self, field: int, rows: Tensor) -> Tensor:
            features = super().features(field, rows)
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
        self._target: Tensor | None = None
        self._held = torch.empty(0, dtype=torch.bool)
        loss = self.trainer.loss

        def masked(logits: Tensor, target: Tensor) -> Tensor:
            losses = loss(logits, target)
            if target is not self._target:
                return losses
            return torch.where(self._held, losses.detach(), losses)

        self.trainer.loss = masked

    def learn(self, events: Events) -> Step:
        batch = Batch(self._host_rows(events.ids), events.label)
        self._held = torch.rand(len(batch.ids), generator=self._random) < SHARE_HELD_OUT
        self._target = batch.target
        past = (
            [self.reservoir.sample(self.batch_size), *self._recent[:1]]
            if len(self.reservoir)
            else []
        )
        step = self._run([*past, batch])
        self.reservoir.add(Batch(batch.ids[self._held], batch.target[self._held]))
        self._recent = [batch]
        return step
