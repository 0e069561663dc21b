"""DCN-v2: features crossed with each other, then hidden layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs
from autoemb.nn.layers import Cross, crossed, mlp, side_by_side
from autoemb.nn.soft import Mix, SoftEmbedding


class DCN(nn.Module):
    """Cross layers below hidden layers: DCN-v2, stacked (Wang et al., 2021, section 3).

    With x_0 the embeddings and dense features side by side::

        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,    W_l = U_l V_l        (Eqs. 1 and 2)
        logits  = hidden layers of the last x

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
    crosses : int, default 1
        Number of cross layers. With 2 the losses are .1752 instead of .1754 on MovieTweetings,
        .1478 instead of .1480 on trivago, .5877 instead of .5880 on globo (seed 0).
    rank : int, default 64
        Of the matrices W: a quarter of the width of two features of 128. Thirty features would
        take thirteen million numbers a layer at full rank.

    Notes
    -----
    Cross layers start as the identity, so the model starts as :class:`autoemb.MLP`.

    Examples
    --------
    >>> import torch
    >>> from autoemb import SoftEmbedding
    >>> from autoemb.nn import Inputs
    >>> model = DCN(SoftEmbedding([1000, 500], features=["user_id", "item_id"]))
    >>> model(Inputs({"user_id": torch.tensor([3, 7]), "item_id": torch.tensor([99, 0])})).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        embedding: SoftEmbedding | FixedEmbedding,
        outputs: int = 1,
        hidden: Sequence[int] = (512, 512),
        num_dense: int = 0,
        crosses: int = 1,
        rank: int = 64,
    ) -> None:
        super().__init__()
        self.embedding, self.num_dense = embedding, num_dense
        inputs = embedding.num_features * embedding.output_dim + num_dense
        self.crosses = nn.ModuleList(Cross(inputs, rank) for _ in range(crosses))
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
        start = side_by_side(self.embedding(inputs, mix), inputs, self.num_dense)
        logits: Tensor = self.hidden(crossed(start, self.crosses))
        return logits
