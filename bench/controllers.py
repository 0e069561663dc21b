"""Which controller: its widths, one network a table or one for all, and its rate; recorded.

``AUTOEMB_DATA=folder OMP_NUM_THREADS=1 python -m bench.controllers`` runs the default recipe with
each over three rating streams and writes ``bench/results/controllers.json``. Events/s are of the
process's own time, so that what else the machine does counts less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from autoemb.data import load
from autoemb.lab import RunConfig, run
from bench.harness import write

SETS = ("ml-100k", "ml-latest-small", "movietweetings")
SEEDS = (0,)
CONTROLLERS: dict[str, dict[str, Any]] = {
    f"{kind}, {'x'.join(map(str, hidden))}, {rate}": {
        "controller": kind,
        "controller_hidden": hidden,
        "controller_learning_rate": rate,
    }
    for kind, hidden, rate in (
        ("separate", (512, 512), 0.002),
        ("separate", (64,), 0.01),
        ("separate", (64, 64), 0.01),
        ("shared", (64,), 0.01),
        ("shared", (64, 64), 0.01),
        ("shared", (512, 512), 0.002),
    )
}


def losses(data: Path, seed: int, name: str) -> dict[str, Any]:
    """Return what one run of a controller gave."""
    torch.set_num_threads(1)
    events = load(data)
    config = RunConfig(task="regression", seed=seed, device="cpu", **CONTROLLERS[name])
    began = time.process_time()
    summary = run(config, events)
    return {
        "data": data.name,
        "seed": seed,
        "controller": name,
        "online": summary["online"]["loss"],
        "offline": summary["offline"]["loss"],
        "events_per_second": round(len(events) / (time.process_time() - began)),
    }


def record(sets: Sequence[str] = SETS, seeds: Sequence[int] = SEEDS, processes: int = 2) -> None:
    folder = Path(os.environ["AUTOEMB_DATA"])
    jobs = [(folder / data, seed, name) for seed in seeds for data in sets for name in CONTROLLERS]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        results = [*pool.map(losses, *zip(*jobs, strict=True))]
    write(
        "controllers",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.controllers",
            "what": "autoemb run with the default recipe and other controllers: regression, "
            f"chronological, {processes} runs at a time",
            "controllers": CONTROLLERS,
            "results": results,
        },
    )


if __name__ == "__main__":
    record()
