"""The recommender of the paper over any embedding module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.mlp import mlp
from autoemb.nn.soft import SoftEmbedding


class RatingModel(nn.Module):
    """Embeddings side by side through hidden layers (section 3.2 of the AutoEmb paper).

    Parameters
    ----------
    embedding : SoftEmbedding or FixedEmbedding
        Gives [B, F, D].
    outputs : int, default 1
        Width of the output: 1 for regression, 5 for classification.
    hidden : sequence of int, default (512, 512)
        Widths of the hidden layers.

    Examples
    --------
    >>> import torch
    >>> from autoemb import SoftEmbedding
    >>> model = RatingModel(SoftEmbedding([1000, 500]))
    >>> model(torch.tensor([[3, 7], [999, 0]]), torch.full((2, 2, 3), 1 / 3)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        embedding: SoftEmbedding | FixedEmbedding,
        outputs: int = 1,
        hidden: Sequence[int] = (512, 512),
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.hidden = mlp(embedding.fields * embedding.output_dim, hidden, outputs)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return logits [B, outputs] for ids [B, F] and weights [B, F, N] (None for one width)."""
        logits: Tensor = self.hidden(self.embedding(ids, weights).flatten(1))
        return logits
