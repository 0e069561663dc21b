"""What was built on this machine, and why not more."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypedDict

from autoemb import runtime


class BuildInfo(TypedDict):
    """The answer of :func:`build_info`."""

    version: str
    native: bool
    cuda: bool
    cuda_archs: list[str]
    runtime: Literal["compiled", "python"]
    compiler: str | None
    reason: str | None


def build_info() -> BuildInfo:
    """Return what this installation of autoemb has compiled.

    Returns
    -------
    dict
        ``version``
            Of the package.
        ``native``
            Whether there are fused native kernels for :class:`autoemb.SoftEmbedding`; without them
            it runs on the reference path in PyTorch.
        ``cuda``, ``cuda_archs``
            Whether the native kernels include CUDA ones, and for which architectures (``"sm_90"``).
        ``runtime``
            ``"compiled"`` or ``"python"``: the id tables and counters of the streaming loop.
        ``compiler``
            What compiled the runtime, or None.
        ``reason``
            One line that says why something of the above is missing, or None if nothing is.

    Examples
    --------
    >>> from autoemb.build import build_info
    >>> info = build_info()
    >>> info["native"], info["cuda"], info["cuda_archs"]
    (False, False, [])
    >>> info["runtime"] in ("compiled", "python")
    True
    """
    try:
        recorded = json.loads(Path(__file__).with_name("_build.json").read_text())
    except FileNotFoundError:
        recorded = {"kernels": "this folder of autoemb was never built", "runtime": None}
    reason = recorded["kernels"]
    if not runtime.COMPILED:
        reason += f"; streaming runtime in Python: {recorded['runtime'] or runtime.IMPORT_ERROR}"
    return {
        "version": version("autoemb"),
        "native": False,
        "cuda": False,
        "cuda_archs": [],
        "runtime": "compiled" if runtime.COMPILED else "python",
        "compiler": runtime.COMPILER,
        "reason": reason,
    }
