"""Which native kernels compute a call, if any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from autoemb.ops import cpu, cuda

BACKENDS = ("auto", "reference", "native")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError for an argument that is none of its choices."""
    if value not in choices:
        known = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be one of {known}; got {value!r}")


def chosen_backend(backend: str) -> str:
    """Return the backend asked for, by the environment variable AUTOEMB_BACKEND if it is set.

    Raises
    ------
    ValueError
        For an unknown value of either.

    Examples
    --------
    >>> chosen_backend("reference")
    'reference'
    """
    check_choice("backend", backend, BACKENDS)
    variable = os.environ.get("AUTOEMB_BACKEND", backend)
    check_choice("AUTOEMB_BACKEND", variable, BACKENDS)
    return variable


def kernels_for(
    backend: str, tables: Sequence[Tensor], values: Tensor
) -> Literal["cpu", "cuda"] | None:
    """Return whose kernels take these tables [V, ...] and values, or None for the reference.

    Raises
    ------
    RuntimeError
        If the backend is "native" and no kernels take such tensors; says why.

    Examples
    --------
    >>> kernels_for("auto", [], torch.zeros(2, dtype=torch.float64)) is None
    True
    """
    chosen = chosen_backend(backend)
    if chosen == "reference":
        return None
    reason = _obstacle(tables, values)
    if reason is None:
        return "cpu" if values.device.type == cpu.DEVICE else "cuda"
    if chosen == "native":
        raise RuntimeError(f'backend="native": {reason}')
    return None


def has_cuda_kernels(device: torch.device) -> bool:
    """Return whether what has no values, such as plans, is made by the CUDA kernels there.

    Examples
    --------
    >>> has_cuda_kernels(torch.device("cpu"))
    False
    """
    reference = chosen_backend("auto") == "reference"
    usable = device.type == cuda.DEVICE and cuda.COMPILED and not is_too_old(device)
    return usable and not reference


@cache
def is_too_old(device: torch.device) -> bool:
    """Return whether the CUDA kernels were compiled for later devices only."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)


def _obstacle(tables: Sequence[Tensor], values: Tensor) -> str | None:
    """Say why there are no kernels for these tensors, or return None if there are."""
    device = values.device.type
    if device not in (cpu.DEVICE, cuda.DEVICE):
        return f"there are no native kernels for {device}"
    if device == cpu.DEVICE and not cpu.COMPILED:
        return f"the native CPU kernels are not built ({cpu.IMPORT_ERROR})"
    if device == cuda.DEVICE and not cuda.COMPILED:
        return f"the CUDA kernels are not built ({cuda.IMPORT_ERROR})"
    # No compiler traces this question; what is registered for CUDA asks it once more.
    if device == cuda.DEVICE and not torch.compiler.is_compiling() and is_too_old(values.device):
        return "the CUDA kernels need compute capability 8.0"
    if values.dtype != torch.float32 or any(table.dtype != torch.float32 for table in tables):
        return f"the native kernels compute in torch.float32, and this is {values.dtype}"
    if any(table.dim() != 2 or table.stride(1) != 1 for table in tables):
        return "the native kernels need tables of rows that are contiguous"
    return None
