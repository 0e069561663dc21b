"""What an id starts with: decided by seed, table and raw id alone.

So neither the order in which ids arrive, nor how tables grew, nor the number of processes changes
a row. Only integer arithmetic and one table of numbers are used: every machine draws the same bits.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Keys = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_LEVELS = 1 << 16


def id_keys(ids: npt.NDArray[np.int64] | list[str], seed: int, table: str) -> Keys:
    """Return a key [U] for each raw id of a table.

    Examples
    --------
    >>> import numpy as np
    >>> ids = np.array([7, 9])
    >>> bool(id_keys(ids, 0, "user_id")[1] == id_keys(ids[1:], 0, "user_id")[0])
    True
    """
    if isinstance(ids, np.ndarray):
        own = ids.astype(np.int64, copy=False).view(np.uint64)
    else:
        digests = b"".join(blake2b(id.encode(), digest_size=8).digest() for id in ids)
        own = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    return _mixed(own ^ _salt(f"{seed}/{table}"))


def salted(keys: Keys, name: str) -> Keys:
    """Return other keys for the same ids: two parameters of one table draw apart."""
    return _mixed(keys ^ _salt(name))


def random_keys(rows: int) -> Keys:
    """Return keys by PyTorch's random numbers, for rows that no id is known of."""
    return torch.randint(2**63 - 1, (rows,)).numpy().view(np.uint64)


def normal_rows(keys: Keys, width: int, std: float, like: Tensor) -> Tensor:
    """Return rows [U, width] of a normal distribution, of the dtype and device of ``like``.

    Each number is one of 65,536 quantiles of the distribution, chosen by 16 bits.

    Parameters
    ----------
    keys : array [U], uint64
        One row each.
    width : int
    std : float
        Standard deviation.
    like : Tensor

    Examples
    --------
    >>> import numpy as np, torch
    >>> rows = normal_rows(np.arange(1000, dtype=np.uint64), 8, 0.1, torch.empty(0))
    >>> rows.shape, abs(float(rows.std()) - 0.1) < 0.003
    (torch.Size([1000, 8]), True)
    """
    words = -(-width // 4)
    steps = np.arange(1, words + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mixed(keys[:, None] + steps)  # [U, words]: splitmix64, four numbers each
    shifts = np.array([0, 16, 32, 48], dtype=np.uint64)
    index = (bits[:, :, None] >> shifts) & np.uint64(_LEVELS - 1)
    values = _quantiles()[index.reshape(len(keys), 4 * words)[:, :width]]
    return torch.from_numpy(values).mul_(std).to(like.device, like.dtype)


@cache
def _quantiles() -> npt.NDArray[np.float32]:
    inverse: Any = NormalDist().inv_cdf
    upper = [inverse(0.5 + (i + 0.5) / _LEVELS) for i in range(_LEVELS // 2)]
    half = np.array(upper, dtype=np.float32)  # rounded: libraries may differ in the last bit
    return np.concatenate([-half[::-1], half])


@cache
def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little"))


def _mixed(x: Keys) -> Keys:
    """Return the finaliser of splitmix64, element by element."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
