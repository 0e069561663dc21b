"""Runs of all variants, and the record made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from autoemb import learners
from autoemb.lab import RunConfig, run
from autoemb.lab.differences import block_bootstrap, read_windows
from autoemb.lab.study.run import first_tenth
from autoemb.lab.study.source import Source
from bench.ablations.variants import BASE, DEFAULT, VARIANTS, Variant
from bench.harness import RESULTS, environment

RECORD = RESULTS / "ablations.json"
SETS = ("ml-100k", "movietweetings")
SEEDS = {"chronological": (0, 1), "shuffled": (0,)}

TASKS = ("regression", "classification")


class Job(NamedTuple):
    """One run of a variant, told by plain values: it travels to another process."""

    variant: str
    data: Path
    task: str
    order: str
    seed: int
    folder: Path
    limit: int | None


def folder_name(job: Job) -> str:
    """Return a name for a run's folder."""
    slug = re.sub(r"[^a-z0-9.]+", "-", job.variant.lower()).strip("-")
    return f"{slug}/{job.data.name}-{job.task}-{job.order}-{job.seed}"


def execute(job: Job) -> dict[str, Any]:
    """Make a run, or read it where it is complete."""
    torch.set_num_threads(1)
    (variant,) = (v for v in VARIANTS if v.name == job.variant)
    options: dict[str, Any] = {
        "method": "autoemb", "task": job.task, "order": job.order, "seed": job.seed,
        "limit": job.limit, "device": "cpu",
    } | BASE | dict(variant.options)  # fmt: skip
    folder = job.folder / folder_name(job)
    with ExitStack() as stack:
        for name, part in variant.parts.items():
            stack.enter_context(patch.object(learners, name, part))
        summary = run(
            RunConfig(**options), Source(job.data.name, job.data).dataset(), folder, resume=True
        )
    windows = read_windows(folder / "metrics.jsonl", summary)
    online = [w for w in windows if w.stage == "online"]
    return {
        "variant": job.variant,
        "data": job.data.name,
        "task": job.task,
        "order": job.order,
        "seed": job.seed,
        "online": summary["online"]["loss"],
        "first_tenth": first_tenth(windows),
        "losses": [w.loss for w in online],
        "events": [w.window for w in online],
        "weights": windows[-1].weights,
        "seconds": summary["seconds"],
    }


def make(
    variants: Sequence[Variant],
    root: Path,
    sets: Sequence[str],
    folder: Path,
    file: Path,
    *,
    processes: int,
    limit: int | None,
) -> None:
    """Make the runs in parallel, below ``folder``, and write the record to ``file``."""
    jobs = [
        Job(variant.name, root / data, task, order, seed, folder, limit)
        for data, task, (order, seeds) in product(sets, TASKS, SEEDS.items())
        for variant, seed in product(variants, seeds)
    ]
    found = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for number, result in enumerate(pool.map(execute, jobs), 1):
            found.append(result)
            if number % 20 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} runs", flush=True)  # noqa: T201
    content = {
        "command": f"python -m bench.ablations --runs DIR --sets {' '.join(sets)}",
        "environment": environment(),
        "limit": limit,
        "results": effects(found),
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def effects(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for every variant and stream what it does to the default's losses, in percent."""
    groups = {variant.name: variant.group for variant in VARIANTS}
    by_key: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in found:
        key = one["variant"], one["data"], one["task"], one["order"]
        by_key.setdefault(key, []).append(one)
    results = []
    for (variant, *stream), runs in by_key.items():
        base = sorted(by_key[DEFAULT.name, *stream], key=lambda one: one["seed"])
        runs = sorted(runs, key=lambda one: one["seed"])
        ours, theirs = (np.array([one["losses"] for one in many]) for many in (runs, base))
        events = np.array(runs[0]["events"], dtype=np.float64)
        mean, low, high = block_bootstrap(ours - theirs, events)
        online, early = (np.mean([one[name] for one in base]) for name in ("online", "first_tenth"))
        results.append(
            {
                "variant": variant,
                "group": groups.get(variant, "other"),
                "data": stream[0],
                "task": stream[1],
                "order": stream[2],
                "seeds": len(runs),
                "online": float(np.mean([one["online"] for one in runs])),
                "first_tenth": float(np.mean([one["first_tenth"] for one in runs])),
                "online_percent": 100 * mean / online,
                "online_interval": [100 * low / online, 100 * high / online],
                "first_tenth_percent": 100
                * (np.mean([one["first_tenth"] for one in runs]) / early - 1),
                "weights": {
                    feature: np.mean([one["weights"][feature] for one in runs], 0).tolist()
                    for feature in runs[0]["weights"] or ()
                },
                "seconds": float(np.mean([one["seconds"] for one in runs])),
            }
        )
    return results
