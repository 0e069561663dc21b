"""What ``autoemb info`` shows: versions, the build, devices."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

from autoemb.build import build_info

_PACKAGES = ("torch", "numpy", "polars")


def info_lines() -> list[str]:
    """Return one line for each fact, names in a column.

    Examples
    --------
    >>> [line.split()[0] for line in info_lines()[:3]]
    ['autoemb', 'python', 'torch']
    """
    build = build_info()
    facts = {"autoemb": build["version"], "python": platform.python_version()}
    facts |= {name: version(name) for name in _PACKAGES}
    facts["platform"] = platform.platform()
    facts["fused kernels"] = _kernels(build["cpu_kernels"], build["cuda_archs"])
    facts["streaming runtime"] = f"{build['runtime']} ({build['compiler']})"
    if build["compiler"] is None:
        facts["streaming runtime"] = "Python"
    if build["reason"] is not None:
        facts["not built"] = build["reason"]
    facts["cpu"] = (
        f"{cores()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    gpus = range(torch.cuda.device_count())
    facts["cuda"] = ", ".join(torch.cuda.get_device_name(gpu) for gpu in gpus) or "no GPU in use"
    width = max(map(len, facts))
    return [f"{name:<{width}}  {value}" for name, value in facts.items()]


def cores() -> int:
    """Return how many cores this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernels(cpu: str | None, archs: list[str]) -> str:
    kernels = ([] if cpu is None else [f"cpu ({cpu})"]) + archs
    return ", ".join(kernels) or "none: the reference path in PyTorch"
