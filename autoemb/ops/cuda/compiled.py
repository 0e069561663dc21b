"""The compiled kernels (``csrc/kernels``), where they were built.

Attributes
----------
kernels : module or None
    ``autoemb._cuda``. It loads where there is no GPU and no driver, too; only a launch fails there.
COMPILED : bool
    Whether there is one.
ARCHITECTURES : list of str
    What it was compiled for, such as ``["sm_80", "sm_90"]``.
IMPORT_ERROR : str or None
    Why there is none.
DEVICE : str
    Type of the tensors' device.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

try:
    kernels: Any = import_module("autoemb._cuda")
except ImportError as error:
    kernels = None
    IMPORT_ERROR: str | None = str(error)
else:
    IMPORT_ERROR = None

COMPILED: bool = kernels is not None
ARCHITECTURES: list[str] = list(kernels.architectures) if COMPILED else []
DEVICE = "cuda"
