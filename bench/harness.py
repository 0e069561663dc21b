"""Timing in turns, and what a recorded figure must say of where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
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
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Return milliseconds: median and the 20th and 80th percentiles."""
    p20, p50, p80 = np.quantile(seconds, [0.2, 0.5, 0.8]) * 1e3
    return {"p20_ms": round(p20, 3), "p50_ms": round(p50, 3), "p80_ms": round(p80, 3)}


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Return the median over the rounds of how many times longer ``slow`` took than ``fast``."""
    return round(float(np.median(np.divide(seconds[slow], seconds[fast]))), 3)


def environment() -> dict[str, Any]:
    """Return hardware, versions, commit and threads."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpus = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return {
        "hardware": {
            "cpu": cpus[0] if cpus else platform.processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("autoemb", "torch", "numpy", "polars")},
        },
        "commit": commit.stdout.strip() or None,
    }


def write(name: str, content: Mapping[str, Any]) -> None:
    """Record a benchmark with its environment in ``bench/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**content, **environment()}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
