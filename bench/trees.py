"""How fast whole default runs are in this checkout and in another, in turns, recorded.

``AUTOEMB_DATA=folder OMP_NUM_THREADS=1 python -m bench.trees OTHER`` runs ``python -m autoemb run``
over MovieLens 100K in both, each in a process of its own with its own compiled code, and writes
``bench/results/trees.json``. In ``OTHER``, a checkout, ``python setup.py build_ext --inplace`` has
been run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.harness import write

DATA, TURNS = "ml-100k", 5
HERE = Path(__file__).parents[1]


def commit(tree: Path) -> str:
    """Return the commit that a checkout is at."""
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def speed(tree: Path, data: Path) -> float:
    """Return the events a second of one run of a checkout's code."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "autoemb", "run", "--data", str(data), "--out", folder]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
        summary: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text())
        return float(summary["interactions_per_second"])


def main(other: Path) -> None:
    """Measure and record."""
    data = Path(os.environ["AUTOEMB_DATA"]) / DATA
    trees = {"this": HERE, "other": other.resolve()}
    speeds: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(TURNS):
        for name, tree in trees.items():
            speeds[name].append(speed(tree, data))
    ratios = {f.__name__: round(f(speeds["this"]) / f(speeds["other"]), 3) for f in (median, max)}
    commits = {name: commit(tree) for name, tree in trees.items()}
    write("trees", {"data": DATA, "commits": commits, "events_per_second": speeds, "ratio": ratios})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
