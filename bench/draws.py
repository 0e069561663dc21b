"""What the paper's recipe loses with initial rows drawn in two ways, recorded.

``AUTOEMB_DATA=folder OMP_NUM_THREADS=1 python -m bench.draws`` runs ``--preset paper --optimizer
adam`` over MovieLens 100K with sixteen seeds and writes ``bench/results/draws.json``. *By id*:
seed, table and raw id say what an id starts with, as everywhere in this package. *By place*:
PyTorch's random numbers fill tables as they grow, as they did when the figures of ``docs/study.md``
were recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import torch

from autoemb.data import load
from autoemb.lab import RunConfig, run
from autoemb.nn.rows import RowModule, replace_table
from bench.harness import write

DATA, SEEDS = "ml-100k", range(16)


@torch.no_grad()
def _grow_at_random(module: RowModule, num_rows: Mapping[str, int]) -> None:
    for name, table in module.row_tables.items():
        parameter = module.get_parameter(name)
        missing = num_rows.get(table, 0) - len(parameter)
        if missing > 0:
            new = parameter.new_empty(missing, *parameter.shape[1:])
            module.init_rows(name, new)
            replace_table(parameter, torch.cat([parameter.data, new]))


@contextmanager
def drawn_by_place() -> Iterator[None]:
    """Let PyTorch's random numbers fill tables as they grow, while the block runs."""
    grow = patch.object(RowModule, "grow", _grow_at_random)
    begin = patch.object(RowModule, "begin_rows", lambda *_: None)
    with grow, begin:
        yield


DRAWS = {"by id": nullcontext, "by place": drawn_by_place}


def loss(data: Path, draw: str, seed: int) -> float:
    """Return the online loss of one run."""
    torch.set_num_threads(1)
    config = RunConfig(preset="paper", optimizer="adam", task="regression", seed=seed, device="cpu")
    with DRAWS[draw]():
        return float(run(config, load(data))["online"]["loss"])


def record(seeds: Sequence[int] = SEEDS, processes: int = 2) -> None:
    data = Path(os.environ["AUTOEMB_DATA"]) / DATA
    jobs = [(data, draw, seed) for draw in DRAWS for seed in seeds]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        losses = dict(zip(jobs, pool.map(loss, *zip(*jobs, strict=True)), strict=True))
    results: list[dict[str, Any]] = []
    for draw in DRAWS:
        online = [losses[data, draw, seed] for seed in seeds]
        results.append(
            {"draw": draw, "online": online, "mean": mean(online), "stdev": stdev(online)}
        )
    write(
        "draws",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.draws",
            "what": f"autoemb run --preset paper --optimizer adam on {DATA}, online loss by seed",
            "seeds": [*seeds],
            "results": results,
        },
    )


if __name__ == "__main__":
    record()
