"""Controllers: which mix of embedding sizes an id gets.

A controller maps distinct ids and their features to weights, field by field::

    controller(ids, features) -> weights        # F tensors each: [U_f], [U_f, C] -> [U_f, N]

The weights depend on the id alone, so they are computed once per distinct id of a batch and
spread over its events by :func:`spread`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoemb.nn.mlp import mlp
from autoemb.nn.rows import RowModule
from autoemb.ops import Plan


class Controller(nn.Module):
    """One network a field, from popularity and recent loss to weights of the sizes (Eqs. 3 and 4).

    Parameters
    ----------
    fields : int
        F, the number of fields; each has a network of its own.
    sizes : int
        N, the number of embedding sizes.
    num_features : int
        C, width of the input: ``InteractionState.num_features``, 38 for three sizes.
    hidden : sequence of int, default (512, 512)
        Widths of the hidden layers.
    prior : Tensor[C, N], optional
        ``features @ prior`` is added to the logits: the weights that an id starts with, which the
        networks learn to change; :meth:`autoemb.InteractionState.popularity_prior`, for example.
        By default every id starts with equal weights.

    Notes
    -----
    The last layer starts at zero.

    Examples
    --------
    >>> import torch
    >>> controller = Controller(fields=2, sizes=3, num_features=38)
    >>> users, items = controller([torch.arange(5), torch.arange(9)],
    ...                           [torch.rand(5, 38), torch.rand(9, 38)])
    >>> items.shape, items[0]
    (torch.Size([9, 3]), tensor([0.3333, 0.3333, 0.3333], grad_fn=<SelectBackward0>))
    """

    prior: Tensor | None

    def __init__(
        self,
        fields: int,
        sizes: int,
        num_features: int,
        hidden: Sequence[int] = (512, 512),
        prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        networks = [mlp(num_features, hidden, sizes) for _ in range(fields)]
        for network in networks:
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.networks = nn.ModuleList(networks)
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, ids: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights [U_f, N] of each field's distinct ids; ``ids`` is not used."""
        pairs = zip(self.networks, features, strict=True)
        return [torch.softmax(self._logits(network, inputs), 1) for network, inputs in pairs]

    def _logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        logits: Tensor = network(_padded(inputs))[: inputs.shape[0]]
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
    num_embeddings : sequence of int
        Rows of each field's table.
    sizes : int
        N, the number of embedding sizes.

    Examples
    --------
    >>> import torch
    >>> logits = PerIdLogits([10, 20], sizes=2)
    >>> users, items = logits([torch.tensor([3]), torch.tensor([19, 0])], [None, None])
    >>> items
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(self, num_embeddings: Sequence[int], sizes: int) -> None:
        super().__init__()
        for field, rows in enumerate(num_embeddings):
            self.register_rows(f"logits_{field}", field, torch.empty(rows, sizes))

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Start new ids with equal weights."""
        rows.zero_()

    def forward(self, ids: Sequence[Tensor], features: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the weights [U_f, N] of each field's ids; ``features`` is not used."""
        return [
            torch.softmax(self.lookup(name, ids[field]), 1)
            for name, field in self.row_fields.items()
        ]


def spread(weights: Sequence[Tensor], plans: Sequence[Plan]) -> Tensor:
    """Return event weights [B, F, N] from the weights [U_f, N] of distinct ids.

    Examples
    --------
    >>> import torch
    >>> from autoemb.ops import distinct_columns
    >>> plans = distinct_columns(torch.tensor([[7], [3], [7]]))
    >>> spread([torch.tensor([[0.9, 0.1], [0.2, 0.8]])], plans)[:, 0]
    tensor([[0.2000, 0.8000],
            [0.9000, 0.1000],
            [0.2000, 0.8000]])
    """
    pairs = zip(weights, plans, strict=True)
    # The gradient of an embedding sums in a fixed order on a GPU; that of index_select does not.
    return torch.stack([functional.embedding(plan.inverse, values) for values, plan in pairs], 1)


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
