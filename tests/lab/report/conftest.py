"""Recorded files as a run and a comparison write them, made up for the tests."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

METHODS = ("fse", "sam", "darts", "autoemb")
OFFLINE, WINDOW = 7000, 100
DATA = {"name": "tiny", "format": "CSV", "interactions": 10000, "users": 50, "items": 70}
CONFIG = {
    "task": "regression",
    "order": "chronological",
    "dims": [2, 16, 128],
    "limit": None,
    "batch_size": 500,
    "fields": ["user_id", "item_id"],
}
VERSIONS = {"autoemb": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "platform": "Linux"}


def level(method: str, seed: int) -> float:
    """A loss that differs by method and seed in the third and fourth decimal."""
    known = METHODS.index(method) if method in METHODS else 5
    return 0.25 - 0.002 * known + 0.0002 * seed


def summary(method: str = "autoemb", seed: int = 0) -> dict[str, Any]:
    loss = level(method, seed)
    weights = None if method == "fse" else [0.5, 0.3, 0.2]
    buckets = [
        {
            "feature": feature,
            "low": 2**octave - 1,
            "high": 2 ** (octave + 1) - 2,
            "interactions": 100 * (octave + 1),
            "loss": loss + 0.01 / (octave + 1),
            "accuracy": 0.6,
            "weights": weights,
        }
        for feature in ("user_id", "item_id")
        for octave in range(8)
    ]
    return {
        "method": method,
        "task": "regression",
        "data": DATA,
        "seed": seed,
        "offline": {"loss": loss + 0.01, "accuracy": 0.61, "interactions": OFFLINE},
        "online": {"loss": loss, "accuracy": 0.9 - loss, "interactions": 3000},
        "seconds": 4.0,
        "interactions_per_second": 2500.0,
        "config": CONFIG | {"method": method, "seed": seed},
        "versions": VERSIONS,
        "by_popularity": {"offline": buckets, "online": buckets},
    }


def windows(method: str = "autoemb", seed: int = 0, count: int = 100) -> list[dict[str, Any]]:
    weights = None if method == "fse" else {"user_id": [0.5, 0.3, 0.2]}
    return [
        {
            "interactions": WINDOW * (i + 1),
            "stage": "offline" if WINDOW * (i + 1) <= OFFLINE else "online",
            "loss": level(method, seed) + 0.01 * math.sin(i / 7 + seed),
            "accuracy": 0.6 + 0.01 * math.cos(i / 9),
            "weights": weights,
            "window": WINDOW,
        }
        for i in range(count)
    ]


def differences() -> list[dict[str, Any]]:
    bounds = {"fse": (-0.003, -0.001), "sam": (-0.001, 0.002), "darts": (0.0005, 0.0025)}
    return [
        {
            "method": "autoemb",
            "baseline": baseline,
            "stage": stage,
            "metric": metric,
            "mean": (low + high) / 2,
            "low": low,
            "high": high,
            "confidence": 0.95,
            "windows": 30,
            "seeds": 2,
        }
        for stage in ("offline", "online")
        for baseline, (low, high) in bounds.items()
        for metric in ("loss", "accuracy")
    ]


def comparison(
    methods: tuple[str, ...] = METHODS, seeds: tuple[int, ...] = (0, 1)
) -> dict[str, Any]:
    runs = [(method, seed, summary(method, seed)) for method in methods for seed in seeds]
    return {
        "results": [
            {"method": method, "seed": seed, "run": f"{method}-seed{seed}"}
            | {key: run[key] for key in ("offline", "online", "seconds")}
            for method, seed, run in runs
        ],
        "differences": differences() if set(methods) == set(METHODS) else [],
        "data": DATA,
        "task": "regression",
        "config": CONFIG | {"methods": list(methods), "seeds": list(seeds)},
        "versions": VERSIONS,
    }


def write_run(folder: Path, content: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_comparison(folder: Path, content: dict[str, Any]) -> Path:
    for result in content["results"]:
        method, seed = result["method"], result["seed"]
        write_run(folder / result["run"], summary(method, seed), windows(method, seed))
    (folder / "compare.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def recorded() -> SimpleNamespace:
    """The functions of this file: test modules cannot import each other."""
    return SimpleNamespace(
        methods=METHODS,
        summary=summary,
        windows=windows,
        comparison=comparison,
        write_run=write_run,
        write_comparison=write_comparison,
    )
