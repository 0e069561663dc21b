"""DeepFM: a factorisation machine and hidden layers over the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoemb.batch import Bag
from autoemb.nn.draws import Keys
from autoemb.nn.fixed import FixedEmbedding
from autoemb.nn.inputs import Inputs, by_name
from autoemb.nn.layers import dense_of, mlp, side_by_side
from autoemb.nn.reading import check_named, taken
from autoemb.nn.rows import RowModule
from autoemb.nn.soft import Mix, SoftEmbedding
from autoemb.schema import Sparse


class FirstOrder(RowModule):
    """A weight for every id of every feature, summed over the features of an event.

    Parameters
    ----------
    features : sequence of str or Sparse
        Features that share a table have weights of their own.
    num_rows : sequence of int
        Of each feature's table.
    outputs : int, default 1
        Weights of an id.

    Examples
    --------
    >>> first = FirstOrder(["user_id", "item_id"], [10, 20])
    >>> first({"user_id": torch.tensor([3]), "item_id": torch.tensor([19])})
    tensor([[0.]], grad_fn=<SumBackward1>)
    """

    def __init__(
        self, features: Sequence[str | Sparse], num_rows: Sequence[int], outputs: int = 1
    ) -> None:
        super().__init__(features)
        self.outputs = outputs
        for number, (feature, rows) in enumerate(zip(self.features, num_rows, strict=True)):
            self.register_rows(f"weight_{number}", feature.table, torch.empty(rows, outputs))

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Start ids never seen at zero."""
        return self.get_parameter(name).new_zeros(len(keys), self.outputs)

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Start all ids at zero."""
        rows.zero_()

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the sums [B, outputs]; a bag counts as its feature pools it."""
        parts = zip(
            self.row_tables,
            self.features,
            check_named(by_name(inputs), self.features),
            strict=True,
        )
        return torch.stack([self._of(*part) for part in parts]).sum(0)

    def _of(self, name: str, feature: Sparse, part: Tensor | Bag) -> Tensor:
        if not isinstance(part, Bag):
            return self.lookup(name, part)
        values = self.lookup(name, part.values)
        return taken(feature, part, values, torch.arange(len(values), device=values.device))


def pairs_of(embedded: Tensor) -> Tensor:
    """Return sum_{f<g} e_f * e_g [B, D] of embeddings [B, F, D], in time linear in F.

    Half the square of the sum less the sum of the squares (Rendle, 2010, Lemma 3.1).

    Examples
    --------
    >>> pairs_of(torch.tensor([[[1.0], [2.0], [3.0]]]))  # 1 * 2 + 1 * 3 + 2 * 3
    tensor([[11.]])
    """
    return (embedded.sum(1).square() - embedded.square().sum(1)) / 2


class DeepFM(nn.Module):
    """A factorisation machine beside hidden layers (Guo et al., 2017, Eqs. 1 to 4).

    With embeddings e_f and dense features x::

        logits = sum_f w_f[id_f] + v x + sum_{f<g} <e_f, e_g> + hidden layers of (e, x)

    Parameters
    ----------
    embedding : SoftEmbedding or FixedEmbedding
        Gives [B, F, D]; names its features, as their ids have weights w here.
    outputs : int, default 1
        Width of the output: 1 for regression, 5 for classification.
    hidden : sequence of int, default (512, 512)
        Widths of the hidden layers.
    num_dense : int, default 0
        C, the number of dense inputs.

    Raises
    ------
    ValueError
        For an embedding without ``features``.

    Notes
    -----
    The weights w and v start at zero. Several outputs share the products of embeddings, each with D
    weights of its own that start at one, as in neural factorisation machines (He and Chua, 2017,
    Eq. 5).

    Examples
    --------
    >>> import torch
    >>> from autoemb import SoftEmbedding
    >>> from autoemb.nn import Inputs
    >>> model = DeepFM(SoftEmbedding([1000, 500], features=["user_id", "item_id"]))
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
        if not embedding.features:
            raise ValueError("DeepFM has a weight for each id; give its embedding features=[...]")
        self.embedding, self.num_dense = embedding, num_dense
        rows = [embedding.num_rows(feature.table) for feature in embedding.features]
        self.first = FirstOrder(embedding.features, rows, outputs)
        self.first_dense = nn.Parameter(torch.zeros(num_dense, outputs)) if num_dense else None
        width = embedding.output_dim
        self.pairs = nn.Parameter(torch.ones(width, outputs)) if outputs > 1 else None
        self.hidden = mlp(embedding.num_features * width + num_dense, hidden, outputs)

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
        embedded: Tensor = self.embedding(inputs, mix)
        pairs = pairs_of(embedded)
        logits = pairs.sum(1, keepdim=True) if self.pairs is None else pairs @ self.pairs
        if self.first_dense is not None:
            logits = logits + dense_of(inputs, self.num_dense) @ self.first_dense
        first: Tensor = self.first(inputs)
        deep: Tensor = self.hidden(side_by_side(embedded, inputs, self.num_dense))
        return logits + first + deep
