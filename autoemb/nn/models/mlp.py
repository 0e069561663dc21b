"""The recommender of the paper over any embedding module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs
from autoemb.nn.layers import mlp, side_by_side
from autoemb.nn.soft import Mix, SoftEmbedding


class MLP(nn.Module):
    """Embeddings and dense features side by side through hidden layers (section 3.2 of AutoEmb).

    Parameters
    ----------
    embedding : SoftEmbedding or FixedEmbedding
        Gives [B, F, D].
    outputs : int, default 1
        Width of the output: 1 for regression, 5 for classification.
    hidden : sequence of int, default (512, 512)
        Widths of the hidden layers.
    num_dense : int, default 0
        C, the number of dense inputs.

    Examples
    --------
    >>> import torch
    >>> from autoemb import SoftEmbedding
    >>> from autoemb.nn import Inputs
    >>> model = MLP(SoftEmbedding([1000, 500], features=["user_id", "item_id"]))
    >>> model(Inputs({"user_id": torch.tensor([3, 7]), "item_id": torch.tensor([99, 0])})).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        embedding: SoftEmbedding | FixedEmbedding,
        outputs: int = 1,
        hidden: Sequence[int] = (512, 512),
        num_dense: int = 0,
    ) -> None:
        super().__init__()
        self.embedding, self.num_dense = embedding, num_dense
        inputs = embedding.num_features * embedding.output_dim + num_dense
        self.hidden = mlp(inputs, hidden, outputs)

    def forward(self, inputs: Inputs, mix: Mix = None) -> Tensor:
        """Return logits [B, outputs].

        Parameters
        ----------
        inputs : Inputs
        mix : Tensor[B, F, N] or mapping of str to Tensor[V_f, N], optional
            As of :meth:`autoemb.SoftEmbedding.forward`.

        Raises
        ------
        ValueError
            For a batch with other dense inputs than the model reads.
        """
        embedded = self.embedding(inputs, mix)
        logits: Tensor = self.hidden(side_by_side(embedded, inputs, self.num_dense))
        return logits
