"""Controllers: which mix of embedding sizes an id gets.

A controller maps distinct ids and their history to the mix, table by table::

    controller(rows, features) -> mix       # by table: [U], [U, C] -> [U, N]

The mix depends on the id alone, so it is computed once for each distinct id of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoemb.nn.draws import Keys
from autoemb.nn.layers import mlp
from autoemb.nn.rows import RowModule


class Controller(nn.Module):
    """A network from popularity and recent loss to the mix of sizes (Eqs. 3 and 4).

    Parameters
    ----------
    tables : sequence of str
        Whose ids get a mix.
    sizes : int
        N, the number of embedding sizes.
    num_features : int
        C, width of the input: ``History.num_features``, 38 for three sizes.
    hidden : sequence of int, default (64,)
        Widths of the hidden layers. The paper's are (512, 512), with one network a table.
    prior : Tensor[C, N], optional
        ``features @ prior`` is added to the logits: the mix that an id starts with, which the
        networks learn to change; :meth:`autoemb.History.popularity_prior`, for example.
        By default every id starts with equal weights.
    shared : bool, default True
        One network for all tables, told the table beside an id's history, instead of one each: its
        cost hardly grows with the number of tables.

    Notes
    -----
    The last layer starts at zero.

    Examples
    --------
    >>> import torch
    >>> controller = Controller(["user_id", "item_id"], sizes=3, num_features=38)
    >>> rows = {"user_id": torch.arange(5), "item_id": torch.arange(9)}
    >>> history = {"user_id": torch.rand(5, 38), "item_id": torch.rand(9, 38)}
    >>> mix = controller(rows, history)["item_id"]
    >>> mix.shape, mix[0]
    (torch.Size([9, 3]), tensor([0.3333, 0.3333, 0.3333], grad_fn=<SelectBackward0>))
    """

    prior: Tensor | None

    def __init__(
        self,
        tables: Sequence[str],
        sizes: int,
        num_features: int,
        hidden: Sequence[int] = (64,),
        prior: Tensor | None = None,
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.tables, self.sizes, self.shared = tuple(tables), sizes, shared
        if shared:
            networks = [mlp(num_features + len(self.tables), hidden, sizes)]
        else:
            networks = [mlp(num_features, hidden, sizes) for _ in self.tables]
        for network in networks:
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.networks = nn.ModuleList(networks)
        self.register_buffer("prior", prior, persistent=False)

    def forward(
        self, rows: Mapping[str, Tensor], features: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the mix [U, N] of each table's distinct ids; ``rows`` is not used."""
        joined, lengths = self._joined(features)
        # At once: thirty tables cost little more than one.
        mixes = torch.softmax(joined, 1).split_with_sizes(lengths)
        return dict(zip(self.tables, mixes, strict=True))

    def logits(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits [U, N] of each table's mix."""
        joined, lengths = self._joined(features)
        return dict(zip(self.tables, joined.split_with_sizes(lengths), strict=True))

    def _joined(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[int]]:
        """Return the logits of all tables, one table after the other, and how many each has."""
        inputs = [features[table] for table in self.tables]
        lengths = [len(x) for x in inputs]
        if self.shared:
            return self._shared_logits(inputs), lengths
        pairs = zip(self.networks, inputs, strict=True)
        parts = [self._with_prior(network(_padded(x))[: len(x)], x) for network, x in pairs]
        return torch.cat(parts), lengths

    def _shared_logits(self, inputs: Sequence[Tensor]) -> Tensor:
        history = torch.cat([*inputs])
        number = torch.cat(
            [x.new_full((len(x),), t, dtype=torch.int64) for t, x in enumerate(inputs)]
        )
        tables = len(self.tables)
        told = torch.eye(tables, dtype=history.dtype, device=history.device).index_select(0, number)
        logits = self.networks[0](_padded(torch.cat([history, told], 1)))[: len(history)]
        return self._with_prior(logits, history)

    def _with_prior(self, logits: Tensor, inputs: Tensor) -> Tensor:
        return logits if self.prior is None else torch.addmm(logits, inputs, self.prior)


def _padded(inputs: Tensor) -> Tensor:
    """Return inputs [U, C] with rows of zeros up to a multiple of 32.

    The number of distinct ids changes with every batch, and oneDNN makes code for each new shape.
    """
    return functional.pad(inputs, (0, 0, 0, -inputs.shape[0] % 32))


class PerIdLogits(RowModule):
    """Free logits for every id: the baseline DARTS of section 3.4.

    Parameters
    ----------
    tables : sequence of str
        Whose ids get a mix.
    num_embeddings : sequence of int
        Rows of each table.
    sizes : int
        N, the number of embedding sizes.

    Examples
    --------
    >>> import torch
    >>> logits = PerIdLogits(["user_id", "item_id"], [10, 20], sizes=2)
    >>> logits({"user_id": torch.tensor([3]), "item_id": torch.tensor([19, 0])}, {})["item_id"]
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(self, tables: Sequence[str], num_embeddings: Sequence[int], sizes: int) -> None:
        super().__init__()
        self.tables, self.sizes = tuple(tables), sizes
        for number, (table, rows) in enumerate(zip(tables, num_embeddings, strict=True)):
            self.register_rows(f"logits_{number}", table, torch.empty(rows, sizes))

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Start new ids with equal weights."""
        return self.table(name).new_zeros(len(keys), self.sizes)

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Start all ids with equal weights."""
        rows.zero_()

    def forward(
        self, rows: Mapping[str, Tensor], features: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the mix [U, N] of each table's ids; ``features`` is not used."""
        return {
            table: torch.softmax(self.lookup(name, rows[table]), 1)
            for name, table in self.row_tables.items()
        }


def select_hard(weights: Tensor) -> Tensor:
    """Return one-hot weights of the largest size (Eq. 6), straight-through for gradients.

    The forward value is exactly one-hot; the gradient is that of the soft weights, so the function
    serves inference and straight-through training alike.

    Parameters
    ----------
    weights : Tensor[..., N]

    Returns
    -------
    Tensor[..., N]

    Examples
    --------
    >>> import torch
    >>> select_hard(torch.tensor([0.2, 0.7, 0.1]))
    tensor([0., 1., 0.])
    """
    hard = torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1)
    if not weights.requires_grad:
        return hard
    # (w - w) is exactly zero, so the value stays exactly one-hot.
    return hard + (weights - weights.detach())
