"""The plain feed-forward network that model and controller share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoemb.ops import Linear, Tanh


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
