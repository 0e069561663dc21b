"""Loss against bytes of exported models, recorded.

``AUTOEMB_DATA=folder python -m bench.export [--runs DIR]`` makes the runs (into DIR, where they
stay), exports each at every budget, scores the events that follow, frozen and observing labels,
and writes ``bench/results/export.json``; ``python -m bench.pages`` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from autoemb import IdTable, Label, Schema, Sparse
from autoemb.data import Dataset, load
from autoemb.lab import RunConfig, run
from autoemb.lab.evaluate import evaluate
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.trained import load_trained
from autoemb.nn.layers import mlp
from autoemb.serving import Exporter, ServedModel, ServedTable
from bench.harness import RESULTS, environment

RECORD = RESULTS / "export.json"
SETS = ("ml-100k", "ml-latest-small", "movietweetings", "ml-1m-users-1-2999")
TASKS = ("regression", "classification")
SEEDS = (0,)
BUDGETS = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015)
METHODS: dict[str, dict[str, Any]] = {
    "FSE-2": {"method": "fse", "dims": (2,)},
    "FSE-16": {"method": "fse", "dims": (16,)},
    "FSE-64": {"method": "fse", "dims": (64,)},
    "FSE-146": {"method": "fse", "dims": (146,)},
    "AutoEmb": {"method": "autoemb"},
}
#: Budgets at which models are also scored while they observe.
ENDS = (BUDGETS[0], BUDGETS[-1])

#: Those that are also made smaller than they were trained.
SHRUNK = ("FSE-146", "AutoEmb")

#: Ids of the model whose resident memory is measured.
MANY = 1_000_000


def observing(model: ServedModel, dataset: Dataset) -> float:
    """Return the loss of a model that is told the labels of what it predicted; it is changed."""
    return float(evaluate(model, dataset, observe=True)["loss"])


def scores(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the scores of every method, task, seed and budget on one data set."""
    dataset = load(data)
    for task, seed, (name, options) in product(TASKS, SEEDS, METHODS.items()):
        config = RunConfig(task=task, seed=seed, device="cpu", **options)
        out = folder / f"{data.name}-{task}-{name}-{seed}"
        live = run(config, dataset, out, resume=True, checkpoint_at=0.7)["online"]["loss"]
        trained = load_trained(out)
        history = trained.learner.history.tables
        exporter = Exporter(trained.learner, trained.schema, trained.task, about=trained.about)
        for budget in BUDGETS if name in SHRUNK else BUDGETS[:1]:
            model, kept = exporter.export(budget)
            found = evaluate(model, dataset)
            history_bytes, rows = model.bytes()["history"], model.bytes()["rows"]
            floats = sum(int(widths.sum()) for widths in kept.values())
            yield {
                "data": data.name,
                "task": task,
                "seed": seed,
                "method": name,
                "budget": budget,
                "floats_per_id": floats / sum(map(len, kept.values())),
                "row_bytes": rows,
                "history_bytes": history_bytes,
                "loss": found["loss"],
                "observing": observing(model, dataset) if budget in ENDS else None,
                "live": live,
                "accuracy": found["accuracy"],
                "rank_correlation": {
                    table: rank_correlation(history[table].count[: len(widths)], widths)
                    for table, widths in kept.items()
                },
            }


MEASURE = """
import resource, sys
from pathlib import Path
from autoemb.serving import load_model
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
model = load_model(sys.argv[1])
for table in model.tables.values():  # the file is mapped: what is read becomes resident
    for rows in table.rows:
        rows.sum()
print(resident() - before, sum(model.bytes().values()))
"""


def memory() -> list[dict[str, Any]]:
    """Return file size and resident memory of a million ids in one width and in several."""
    found = []
    for name, shares in (
        ("width 146", {146: 1.0}),
        ("a quarter of that", {2: 0.4, 16: 0.4, 128: 0.2}),
    ):
        ids, start, rows = IdTable(), 0, []
        for share in shares.values():
            count = int(share * MANY)
            ids.rows(torch.arange(start, start + count).numpy())
            rows.append(count)
            start += count
        width = max(shares)
        table = ServedTable(
            ids,
            [torch.ones(count, d) for count, d in zip(rows, shares, strict=True)],
            [torch.ones(0 if d == width else width, d) for d in shares],
            [torch.zeros(width) for _ in shares],
            torch.zeros(width),
        )
        schema = Schema(
            label=Label(column="click", kind="click"), sparse=(Sparse(column="item_id"),)
        )
        model = ServedModel(schema, {"item_id": table}, mlp(width, (512, 512), 1))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            model.save(path)
            del model, table
            said = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path)], capture_output=True, check=True
            ).stdout.split()
            found.append(
                {
                    "ids": MANY,
                    "widths": name,
                    "file_bytes": path.stat().st_size,
                    "resident_bytes": int(said[0]),
                    "model_bytes": int(said[1]),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=Path, help="folder for the runs; by default they are not kept"
    )
    arguments = parser.parse_args()
    root = Path(os.environ["AUTOEMB_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs or Path(folder)
        results = [row for data in SETS for row in scores(root / data, runs)]
    record = {
        "command": "python -m bench.export",
        "environment": environment(),
        "methods": METHODS,
        "results": results,
        "memory": memory(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
