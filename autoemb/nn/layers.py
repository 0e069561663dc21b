"""Layers that models and controllers share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from autoemb.nn.inputs import Inputs
from autoemb.ops import Linear, Tanh, product


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Return linear layers with tanh between them (section 3.2 of the AutoEmb paper).

    Parameters
    ----------
    inputs, outputs : int
        Widths of the first input and the last output.
    hidden : sequence of int
        Widths of the hidden layers.

    Examples
    --------
    >>> [layer.out_features for layer in mlp(256, (512, 512), 1)[::2]]
    [512, 512, 1]
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [Linear(inputs, width), Tanh()]
        inputs = width
    return nn.Sequential(*layers, Linear(inputs, outputs))


class Cross(nn.Module):
    """A cross layer of DCN-v2 whose matrix has a low rank (Wang et al., 2021, Eqs. 1 and 2).

    ``start * (x @ V @ U + b) + x``, with V [C, rank] and U [rank, C].

    Parameters
    ----------
    inputs : int
        C, the width of input and output.
    rank : int

    Notes
    -----
    U and b start at zero, so the layer starts as the identity.

    Examples
    --------
    >>> x = torch.randn(3, 8)
    >>> torch.equal(Cross(8, rank=2)(x, x), x)
    True
    """

    def __init__(self, inputs: int, rank: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # of torch.nn.Linear
        self.inner = nn.Parameter(torch.empty(inputs, rank).uniform_(-bound, bound))
        self.outer = Linear(rank, inputs)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """Return the crossed features [B, C].

        Parameters
        ----------
        start : Tensor[B, C]
            What the first cross layer was given.
        x : Tensor[B, C]
            What the layer before returned.
        """
        crossed: Tensor = self.outer(product(x, self.inner))
        return torch.addcmul(x, start, crossed)


def crossed(start: Tensor, crosses: Iterable[nn.Module]) -> Tensor:
    """Return the inputs of a network [B, C] crossed with each other, layer by layer.

    Examples
    --------
    >>> x = torch.randn(3, 8)
    >>> torch.equal(crossed(x, []), x)
    True
    """
    found = start
    for cross in crosses:
        found = cross(start, found)
    return found


def dense_of(inputs: Inputs, num_dense: int) -> Tensor:
    """Return the dense inputs [B, C] of a batch.

    Raises
    ------
    ValueError
        If the batch has none, or another number of them than the model reads.

    Examples
    --------
    >>> dense_of(Inputs({}, torch.zeros(5, 2)), 2).shape
    torch.Size([5, 2])
    """
    dense = inputs.dense
    if dense is None or dense.shape[1:] != (num_dense,):
        found = "has none" if dense is None else f"has {list(dense.shape)}"
        raise ValueError(f"the model reads dense inputs [B, {num_dense}]; the batch {found}")
    return dense


def side_by_side(embedded: Tensor, inputs: Inputs, num_dense: int) -> Tensor:
    """Return embeddings [B, F, D] and dense inputs [B, C] in one row an event [B, F D + C].

    Raises
    ------
    ValueError
        As :func:`dense_of`, where ``num_dense`` is not zero.

    Examples
    --------
    >>> side_by_side(torch.zeros(5, 2, 4), Inputs({}, torch.zeros(5, 3)), 3).shape
    torch.Size([5, 11])
    """
    flat = embedded.flatten(1)
    return torch.cat([flat, dense_of(inputs, num_dense)], 1) if num_dense else flat
