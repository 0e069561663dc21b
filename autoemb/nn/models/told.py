"""Any model, told what earlier labels say of the ids beside their embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoemb.nn.inputs import Inputs
from autoemb.nn.models.trivial import OCTAVES, Expecting, octaves, told


class Told(nn.Module):
    """A model that is told what earlier labels say of the ids, as more dense inputs.

    What it returns is added to what :class:`autoemb.nn.models.Bias` expects.

    Parameters
    ----------
    model : torch.nn.Module
        ``model(inputs, mix) -> logits [B, C]``, of as many dense inputs as there are, and
        :meth:`inputs_of` more.
    expecting : callable, optional
        (mean [B, C], offsets [B, F, C]) -> logits [B, C], of a task. Without it the model is told
        how many events the ids have, and nothing else; nor is anything added.

    Notes
    -----
    The model's last layer starts at zero, so that at first nothing is added.

    Examples
    --------
    >>> from autoemb import MLP, FixedEmbedding
    >>> from autoemb.batch import Known
    >>> from autoemb.schema import Label
    >>> from autoemb.tasks import Value
    >>> model = MLP(FixedEmbedding([9], 2, features=["user_id"]), num_dense=Told.inputs_of(1, 6))
    >>> model = Told(model, Value(Label(column="x", kind="value")).expecting)
    >>> ids = torch.tensor([[3.0]]), torch.tensor([[[4.0]]])  # events, sums
    >>> known = Known(torch.tensor([[3.0]]), *ids, torch.tensor([[5.0]]), torch.zeros(1, 1, 6))
    >>> model(Inputs({"user_id": torch.tensor([7])}, None, known)).shape
    torch.Size([1, 1])
    """

    reads_known = True

    def __init__(self, model: nn.Module, expecting: Expecting | None = None) -> None:
        super().__init__()
        self.model, self.expecting = model, expecting
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if layers and expecting is not None:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)

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
        known = inputs.known
        if known is None:
            raise ValueError(
                "the model reads what earlier labels say of ids; the batch does not tell"
            )
        own = octaves(known.events).flatten(1) if self.expecting is None else told(known)
        parts = [own] if inputs.dense is None else [inputs.dense, own]
        logits: Tensor = self.model(inputs._replace(dense=torch.cat(parts, 1)), mix)
        if self.expecting is None:
            return logits
        return logits + self.expecting(known.mean, known.offsets())
