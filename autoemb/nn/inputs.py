"""What a model reads: ids by the name of their feature, and dense features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from autoemb.batch import Bag


class Inputs(NamedTuple):
    """What a model is given of a batch: never its labels.

    Attributes
    ----------
    ids : dict of str to Tensor[B] or Bag
        Row numbers, int64, by feature; bags with offsets [B + 1] as tensors.
    dense : Tensor[B, C], optional
        Dense features, transformed, each with its indicator of missing values.
    """

    ids: dict[str, Tensor | Bag]
    dense: Tensor | None = None


def by_name(inputs: Any) -> Mapping[str, Tensor | Bag]:
    """Return ids by feature from :class:`Inputs`, a mapping, or a KeyedJaggedTensor.

    The last is known by its shape: ``keys()``, ``values()`` [L], ``offsets()`` [K B + 1] key by
    key, and weights where it has any.

    Examples
    --------
    >>> import torch
    >>> by_name({"user_id": torch.tensor([3])})
    {'user_id': tensor([3])}
    """
    if isinstance(inputs, Inputs):
        return inputs.ids
    if callable(getattr(inputs, "offsets", None)):
        return _from_keyed(inputs)
    if isinstance(inputs, Mapping):
        return inputs
    raise TypeError(
        f"expected ids as a tensor [B, F] or by the name of their feature; got {type(inputs)}"
    )


def _from_keyed(keyed: Any) -> dict[str, Tensor | Bag]:
    keys, values, offsets = list(keyed.keys()), keyed.values(), keyed.offsets()
    weights = keyed.weights_or_none() if hasattr(keyed, "weights_or_none") else None
    batch = (len(offsets) - 1) // len(keys)
    found: dict[str, Tensor | Bag] = {}
    for k, key in enumerate(keys):
        own = offsets[k * batch : (k + 1) * batch + 1]
        first, last = int(own[0]), int(own[-1])
        part = None if weights is None else weights[first:last]
        found[key] = Bag(values[first:last].long(), (own - own[0]).long(), part)
    return found
