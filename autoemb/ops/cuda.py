"""The CUDA kernels (``csrc/kernels``)."""

from __future__ import annotations

COMPILED = False
ARCHITECTURES: list[str] = []
IMPORT_ERROR: str | None = "not there yet"
