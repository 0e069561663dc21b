"""What a model reads: ids by the name of their feature, and dense features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from autoemb.batch import Bag, Known
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse


class Inputs(NamedTuple):
    """What a model is given of a batch: never its labels.

    Attributes
    ----------
    ids : dict of str to Tensor[B] or Bag
        Row numbers, int64, by feature; bags with offsets [B + 1] as tensors.
    dense : Tensor[B, C], optional
        Dense features, transformed, each with its indicator of missing values.
    known : Known, optional
        What earlier labels say of the ids, for modules whose ``reads_known`` is true
        (:class:`autoemb.streaming.statistics.Statistics`).
    """

    ids: dict[str, Tensor | Bag]
    dense: Tensor | None = None
    known: Known | None = None


def by_name(inputs: Any, features: Sequence[Sparse] = ()) -> Mapping[str, Tensor | Bag]:
    """Return ids by feature from :class:`Inputs`, a mapping, or a KeyedJaggedTensor.

    The last is known by its shape: ``keys()``, ``values()`` [L], ``offsets()`` [K B + 1] key by
    key, and weights where it has any. Of a feature of one id an event, every event must hold one.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a KeyedJaggedTensor whose offsets do not fit its keys, or whose events do not hold one
        id each where that is read.

    Examples
    --------
    >>> import torch
    >>> by_name({"user_id": torch.tensor([3])})
    {'user_id': tensor([3])}
    """
    if isinstance(inputs, Inputs):
        return inputs.ids
    if callable(getattr(inputs, "offsets", None)):
        return _from_keyed(inputs, features)
    if isinstance(inputs, Mapping):
        return inputs
    raise TypeError(
        f"expected ids as a tensor [B, F] or by the name of their feature; got {type(inputs)}"
    )


def _from_keyed(keyed: Any, features: Sequence[Sparse]) -> dict[str, Tensor | Bag]:
    keys, values, offsets = list(keyed.keys()), keyed.values(), keyed.offsets()
    weights = keyed.weights_or_none() if hasattr(keyed, "weights_or_none") else None
    if not keys or not len(offsets) or (len(offsets) - 1) % len(keys):
        raise ValueError(f"{len(offsets)} offsets do not fit the {len(keys)} keys: {keys}")
    single = {feature.column for feature in features if not isinstance(feature, BagFeature)}
    batch = (len(offsets) - 1) // len(keys)
    found: dict[str, Tensor | Bag] = {}
    for k, key in enumerate(keys):
        own = offsets[k * batch : (k + 1) * batch + 1]
        first, last = int(own[0]), int(own[-1])
        part = None if weights is None else weights[first:last]
        ids = values[first:last].long()
        if key not in single:
            found[key] = Bag(ids, (own - own[0]).long(), part)
        elif bool((own.diff() == 1).all()):
            found[key] = ids
        else:
            event = int((own.diff() != 1).nonzero()[0])
            raise ValueError(
                f"feature {key!r}: event {event} holds {int(own.diff()[event])} ids; expected one"
            )
    return found
