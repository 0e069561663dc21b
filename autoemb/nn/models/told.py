"""Any model, told what earlier labels say of the ids beside their embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoemb.nn.inputs import Inputs
from autoemb.nn.models.trivial import OCTAVES, Expecting, octaves, told

#: What the linear part is multiplied by: its weights learn at so many times the network's rate. The
#: log loss of nycflights13 is .4679 with 3, .4698 with 10 and .4706 without it; that of trivago
#: .1492, .1495 and .1510 (seed 0).
WIDE = 3.0

#: Share of the offsets of :class:`autoemb.nn.models.Bias` that a told model starts from. With 0,
#: 0.5 and 1 the losses are .4717, .4681 and .4679 on nycflights13, .1490, .1489 and .1492 on
#: trivago, 1.0364, 1.0388 and 1.0533 on MovieTweetings' classes (seed 0): shares of classes do not
#: add up.
START = 0.5


class Told(nn.Module):
    """A model that is told what earlier labels say of the ids, as more dense inputs.

    What it returns is added to what :class:`autoemb.nn.models.Bias` expects, its offsets halved,
    and to a linear function of all dense inputs, which learns from the first event on what needs no
    network.

    Parameters
    ----------
    model : torch.nn.Module
        ``model(inputs, mix) -> logits [B, C]``, of all dense inputs.
    inputs : int
        Number of dense inputs: those that there are, and :meth:`inputs_of` more.
    outputs : int
        C, the width of the output.
    expecting : callable, optional
        (mean [B, C], offsets [B, F, C]) -> logits [B, C], of a task. Without it the model is told
        how many events the ids have, and nothing else; nor is anything added to what it returns.

    Notes
    -----
    The linear function and the model's last layer start at zero: at first they add nothing.

    Examples
    --------
    >>> from autoemb import MLP, FixedEmbedding
    >>> from autoemb.batch import Known
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> inputs = Told.inputs_of(1, 6)
    >>> model = MLP(FixedEmbedding([9], 2, features=["user_id"]), num_dense=inputs)
    >>> model = Told(model, inputs, 1, Value(Label(column="x", kind="value")).expecting)
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[4.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> model(Inputs({"user_id": torch.tensor([7])}, None, known))  # Bias says 3.5
    tensor([[3.2500]], grad_fn=<AddBackward0>)
    """

    reads_known = True

    def __init__(
        self, model: nn.Module, inputs: int, outputs: int, expecting: Expecting | None = None
    ) -> None:
        super().__init__()
        self.model, self.expecting = model, expecting
        self.wide = None if expecting is None else nn.Linear(inputs, outputs)
        if self.wide is not None:
            layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
            for layer in (self.wide, *layers[-1:]):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @staticmethod
    def inputs_of(features: int, told: int = 0) -> int:
        """Return how many dense inputs features with so many numbers each add, beside octaves."""
        return features * (OCTAVES + told)

    def forward(self, inputs: Inputs, mix: Any = None) -> Tensor:
        """Return logits [B, C].

        Raises
        ------
        ValueError
            If the batch does not tell what is known of its ids.
        """
        inputs = with_told(inputs, full=self.wide is not None)
        return added(self.model(inputs, mix), inputs, self.wide, self.expecting)


def with_told(inputs: Inputs, *, full: bool) -> Inputs:
    """Return inputs whose dense ones have what is known of the ids behind them.

    Parameters
    ----------
    inputs : Inputs
    full : bool
        All of it, or octaves of events alone.

    Raises
    ------
    ValueError
        If the batch does not tell.
    """
    known = inputs.known
    if known is None:
        raise ValueError("the model reads what earlier labels say of ids; the batch does not tell")
    own = told(known) if full else octaves(known.events).flatten(1)
    parts = [own] if inputs.dense is None else [inputs.dense, own]
    return inputs._replace(dense=torch.cat(parts, 1))


def added(
    logits: Tensor, inputs: Inputs, wide: nn.Linear | None, expecting: Expecting | None
) -> Tensor:
    """Return a network's output [B, C] and what a linear function and sums of labels add to it."""
    known, dense = inputs.known, inputs.dense
    if wide is None or expecting is None or known is None or dense is None:
        return logits
    linear: Tensor = wide(dense)
    return logits + WIDE * linear + expecting(known.mean, START * known.offsets())
