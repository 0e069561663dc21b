"""What a soft embedding refuses, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoemb.build import build_info
from autoemb.ops import chosen_backend


def check_arguments(
    num_embeddings: Sequence[int], embedding_dims: Sequence[int], init_std: float, backend: str
) -> None:
    """Raise ValueError for numbers that cannot be, RuntimeError for kernels that are not built."""
    if not num_embeddings or min(num_embeddings) < 1:
        raise ValueError(f"num_embeddings must be positive, one a table; got {num_embeddings}")
    if not embedding_dims or min(embedding_dims) < 1:
        raise ValueError(f"embedding_dims must be positive sizes; got {embedding_dims}")
    if list(embedding_dims) != sorted(embedding_dims):
        raise ValueError(f"embedding_dims must ascend to the output width; got {embedding_dims}")
    if not 0 <= init_std < math.inf:
        raise ValueError(f"init_std must be a number from 0; got {init_std}")
    if chosen_backend(backend) == "native":
        info = build_info()
        if not (info["native"] or info["cuda"]):
            raise RuntimeError(f'backend="native" is not in this build: {info["reason"]}')


def check_mix(
    weights: Tensor | Mapping[str, Tensor] | None,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    tables: Sequence[str],
) -> None:
    """Check a mix: of each event, of each row by table, or None.

    Parameters
    ----------
    weights : Tensor[B, F, N], mapping of str to Tensor[V_f, N], or None
    dtype : torch.dtype
        Expected.
    shape : (int, int, int)
        B, F and N.
    tables : sequence of str
        That need a mix.

    Raises
    ------
    RuntimeError
        For another dtype, without autocast.
    ValueError
        For another shape, or a table without a mix; names it.
    """
    if weights is None:
        return
    for tensor in [weights] if isinstance(weights, Tensor) else weights.values():
        if tensor.dtype != dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise RuntimeError(f"expected weights of dtype {dtype} but got {tensor.dtype}")
    if isinstance(weights, Tensor):
        if weights.shape != shape:
            raise ValueError(
                f"expected weights of shape {list(shape)} ([B, F, N]) but got {list(weights.shape)}"
            )
        return
    for table in tables:
        if table not in weights:
            raise ValueError(
                f"table {table!r} has no mix; there are {', '.join(weights) or 'none'}"
            )
        if weights[table].shape[1:] != shape[2:]:
            raise ValueError(
                f"expected the mix of table {table!r} to have {shape[2]} columns but got "
                f"{list(weights[table].shape)}"
            )
