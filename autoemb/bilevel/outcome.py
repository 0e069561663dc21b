"""What a training step predicted, and what it is to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from autoemb.bilevel.part import Change
from autoemb.ops import Plan


class Outcome(NamedTuple):
    """What one training step predicted, before it learnt.

    Attributes
    ----------
    logits : Tensor[B, outputs]
    losses : Tensor[B]
        Loss of each event.
    mix : dict of str to Tensor[U, N], or None
        Given to each distinct id, by table.
    plans : dict of str to Plan
        Distinct ids by table.
    places : dict of str to Tensor[B]
        Of each sparse feature: ``mix[table][places[feature]]`` is that of each event.
    """

    logits: Tensor
    losses: Tensor
    mix: dict[str, Tensor] | None
    plans: dict[str, Plan]
    places: dict[str, Tensor]


class Update(NamedTuple):
    """A step that is computed and not yet applied.

    Attributes
    ----------
    outcome : Outcome
    model : Change
    controller : Change, optional
    buffers : tuple of two mapping of str to Tensor
        Of model and controller, after the pass.
    """

    outcome: Outcome
    model: Change
    controller: Change | None
    buffers: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
