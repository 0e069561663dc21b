"""What one batch gave, before it was learnt."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from autoemb.bilevel import Outcome


class Step(NamedTuple):
    """One batch after it was predicted, recorded and learnt.

    Attributes
    ----------
    outcome : Outcome
        Predictions and losses, made before the batch was learnt.
    label : Tensor[B]
    weight : Tensor[B], or None
    popularity : dict of str to Tensor[B]
        Of each sparse feature: events of each event's id before this batch.
    """

    outcome: Outcome
    label: Tensor
    weight: Tensor | None
    popularity: dict[str, Tensor]

    @property
    def losses(self) -> Tensor:
        """Loss [B] of each prediction, made before the batch was learnt."""
        return self.outcome.losses
