"""Timing in turns, and what a recorded figure must say of where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def alternate(
    cases: Mapping[str, Callable[[], object]], rounds: int = 40, warmup: int = 8
) -> dict[str, list[float]]:
    """Run the cases in turns and return the seconds of each round of each.

    Whatever else the machine does then slows all of them alike, so ratios hold where times do not.
    Each turn begins with a call that is not timed: it brings back what the case before has pushed
    out of the caches, as if the case ran in a loop of its own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name, case in cases.items():
            case()
            start = time.perf_counter()
            case()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Return milliseconds: median and the 20th and 80th percentiles."""
    times = np.quantile(seconds, [0.2, 0.5, 0.8]) * 1e3
    return {f"p{q}_ms": round(float(ms), 5) for q, ms in zip((20, 50, 80), times, strict=True)}


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Return the median over the rounds of how many times longer ``slow`` took than ``fast``."""
    return round(float(np.median(np.divide(seconds[slow], seconds[fast]))), 3)


def versions(*names: str) -> dict[str, str | None]:
    """Return the versions of packages; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def output_of(command: list[str]) -> str | None:
    """Return the first line that a program prints; None if there is none, or no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return None
    return done.stdout.split("\n")[0].strip() or None


def gpu() -> dict[str, Any] | None:
    """Return the CUDA device with its driver, or None without one."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "name": properties.name,
        "driver": output_of(query),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
    }


def commit() -> str | None:
    """Return the commit of this checkout; of a mere copy, what COMMIT in the environment says."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return output_of(describe) or os.environ.get("COMMIT")


def environment() -> dict[str, Any]:
    """Return hardware, versions, commit and threads."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpus = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return {
        "hardware": {
            "cpu": cpus[0] if cpus else platform.processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "gpu": gpu(),
        },
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **versions("autoemb", "torch", "triton", "numpy", "polars"),
        },
        "commit": commit(),
    }


def write(name: str, content: Mapping[str, Any]) -> None:
    """Record a benchmark with its environment in ``bench/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**content, **environment()}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
