"""What was built on this machine, and why not more."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypedDict

from autoemb import runtime
from autoemb.ops import cpu, cuda

_RECORD = Path(__file__).with_name("_build.json")


class BuildInfo(TypedDict):
    """The answer of :func:`build_info`."""

    version: str
    native: bool
    cpu_kernels: str | None
    cuda: bool
    cuda_archs: list[str]
    runtime: Literal["compiled", "python"]
    compiler: str | None
    reason: str | None


def warn_if_never_built() -> None:
    """Warn where Python has found the source folder instead of the package that was installed."""
    if not _RECORD.exists():
        warnings.warn(
            f"autoemb is imported from {_RECORD.parent}, which was never built, and computes "
            "without compiled kernels; start Python in another folder, or pip install -e that one",
            RuntimeWarning,
            stacklevel=3,
        )


def build_info() -> BuildInfo:
    """Return what this installation of autoemb has compiled.

    Returns
    -------
    dict
        ``version``
            Of the package.
        ``native``
            Whether there are native CPU kernels for :class:`autoemb.SoftEmbedding`; without them
            it runs on the reference path in PyTorch.
        ``cpu_kernels``
            The instruction set they use on this CPU: ``"avx512"``, ``"avx2"``, ``"baseline"``; or
            None.
        ``cuda``, ``cuda_archs``
            Whether there are CUDA kernels, and for which architectures (``"sm_90"``).
        ``runtime``
            ``"compiled"`` or ``"python"``: the id tables and counters of the streaming loop.
        ``compiler``
            What compiled the runtime, or None.
        ``reason``
            One line that says why something of the above is missing, or None if nothing is.

    Examples
    --------
    >>> from autoemb.build import build_info
    >>> build_info()["runtime"] in ("compiled", "python")
    True
    """
    try:
        recorded = json.loads(_RECORD.read_text())
    except FileNotFoundError:
        recorded = dict.fromkeys(("_runtime", "_cpu", "_cuda"), "this folder was never built")
    parts = {
        "streaming runtime in Python": (runtime.COMPILED, "_runtime", runtime.IMPORT_ERROR),
        "no native CPU kernels": (cpu.COMPILED, "_cpu", cpu.IMPORT_ERROR),
        "no CUDA kernels": (cuda.COMPILED, "_cuda", cuda.IMPORT_ERROR),
    }
    reasons = [
        f"{what}: {recorded[name] or error}"
        for what, (compiled, name, error) in parts.items()
        if not compiled
    ]
    return {
        "version": version("autoemb"),
        "native": cpu.COMPILED,
        "cpu_kernels": cpu.KERNELS or None,
        "cuda": cuda.COMPILED,
        "cuda_archs": list(cuda.ARCHITECTURES),
        "runtime": "compiled" if runtime.COMPILED else "python",
        "compiler": runtime.COMPILER,
        "reason": "; ".join(reasons) or None,
    }
