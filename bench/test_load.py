"""Time and memory of reading a MovieLens-20M sized file, and a news stream of many columns.

`pytest bench/test_load.py --benchmark-only` checks the bars; `AUTOEMB_DATA=FOLDER python -m
bench.test_load` records bench/results/load.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.harness import write

ROWS = 20_000_263
USERS, MOVIES = 138_493, 131_262  # ids, as in ML-20M: grouped by user, rated times in no order
SECONDS_BAR, GIB_BAR = 30.0, 3.0
#: The stream of many columns, its schema, and the bars for its three million rows.
NEWS = "globo-news-clicks"
NEWS_SCHEMA = Path(__file__).parents[1] / "examples" / "schemas" / f"{NEWS}.toml"
NEWS_BARS = {"seconds": 5.0, "peak_gib": 1.5}

# In a process of its own: peak memory is the process's, imports (torch among them) included.
MEASURE = """
import json, resource, sys, time
import polars as pl
from autoemb import Schema
from autoemb.data import load

def of_many_columns(path):
    return load(path, schema=Schema.from_toml(sys.argv[3]))

def bare_polars(path):  # the rival: no check of anything, and types given beforehand
    types = {"userId": pl.Int64, "movieId": pl.Int64, "rating": pl.Float32, "timestamp": pl.Int64}
    rows = pl.scan_csv(path, schema=types)
    rows = rows.sort("timestamp", maintain_order=True)
    return rows.collect(engine="streaming")

start = time.perf_counter()
ways = {"autoemb": load, "bare polars": bare_polars, "many columns": of_many_columns}
stream = ways[sys.argv[2]](sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "peak_gib": peak, "rows": len(stream)}))
"""


def write_movielens_20m(path: Path) -> None:
    """Write ratings.csv as its publisher does: with as many rows, users and movies as ML-20M."""
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {
            "userId": np.sort(rng.integers(1, USERS + 1, ROWS)),
            "movieId": rng.integers(1, MOVIES + 1, ROWS),
            "rating": rng.integers(1, 11, ROWS) / 2,
            "timestamp": rng.integers(789_652_009, 1_427_784_002, ROWS),
        }
    ).write_csv(path)


def measure(path: Path, how: str = "autoemb") -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, str(path), how, str(NEWS_SCHEMA)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ml-20m") / "ratings.csv"
    write_movielens_20m(path)
    return path


def test_load(benchmark, ratings: Path) -> None:
    runs: list[dict[str, float]] = []
    benchmark.pedantic(lambda: runs.append(measure(ratings)), rounds=3)
    benchmark.extra_info["runs"] = runs
    for run in runs:
        assert run["rows"] == ROWS
        assert run["seconds"] < SECONDS_BAR
        assert run["peak_gib"] < GIB_BAR


def summary(done: list[dict[str, float]]) -> dict[str, object]:
    return {
        "seconds_median": statistics.median(run["seconds"] for run in done),
        "seconds": sorted(run["seconds"] for run in done),
        "peak_gib": max(run["peak_gib"] for run in done),
    }


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ratings.csv")
        write_movielens_20m(path)
        measure(path, "bare polars")  # fills the page cache
        runs = {how: [] for how in ("autoemb", "bare polars")}
        for _ in range(5):
            for how, done in runs.items():
                done.append(measure(path, how))
        size = path.stat().st_size
    news = [measure(Path(os.environ["AUTOEMB_DATA"], NEWS), "many columns") for _ in range(6)]
    result = {
        "command": "AUTOEMB_DATA=FOLDER python -m bench.test_load",
        "what": "autoemb.data.load of a generated ratings.csv, page cache warm, one process a run",
        "rows": ROWS,
        "bytes": size,
        "bars": {"seconds": SECONDS_BAR, "peak_gib": GIB_BAR},
        "results": {how: summary(done) for how, done in runs.items()},
        # The first of them filled the page cache.
        "many_columns": summary(news[1:])
        | {"data": NEWS, "rows": news[0]["rows"], "bars": NEWS_BARS},
    }
    write("load", result)


if __name__ == "__main__":
    record()
