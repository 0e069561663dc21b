"""Loss against bytes of exported models, recorded, and the page made of it.

``AUTOEMB_DATA=folder python -m bench.export [--runs DIR]`` makes the runs (into DIR, where they
stay), exports each at every budget, scores the events that follow, writes
``bench/results/export.json`` and ``docs/export.md``; ``--tables`` only writes the page again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from autoemb import TASKS, IdTable
from autoemb.data import load
from autoemb.files import write_text
from autoemb.lab import RunConfig, run
from autoemb.lab.evaluate import evaluate
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.report.figures import loss_by_bytes
from autoemb.lab.report.tables import mean_cell, pipes
from autoemb.lab.report.wording import loss_name
from autoemb.lab.trained import load_trained
from autoemb.nn.mlp import mlp
from autoemb.serving import Exporter, ServedField, ServedModel
from bench.harness import RESULTS, environment
from bench.study import FIGURE_FOLDER

RECORD = RESULTS / "export.json"
PAGE = Path(__file__).parents[1] / "docs" / "export.md"
#: Of streams where the frozen AutoEmb is as good as any width and where it is not.
FIGURES = {
    ("ml-1m-users-1-2999", "classification"): "MovieLens 1M, classification",
    ("movietweetings", "regression"): "MovieTweetings, regression",
}
SETS = ("ml-100k", "ml-latest-small", "movietweetings", "ml-1m-users-1-2999")
SEEDS = (0, 1, 2)
BUDGETS = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015)
#: Row rates are those most often chosen in docs/study.md (for FSE-16, 100 as often).
METHODS: dict[str, dict[str, Any]] = {
    "FSE-2": {"method": "fse", "dims": (2,), "row_rate": 100.0},
    "FSE-16": {"method": "fse", "dims": (16,), "row_rate": 50.0},
    "FSE-64": {"method": "fse", "dims": (64,), "row_rate": 50.0},
    "FSE-146": {"method": "fse", "dims": (146,), "row_rate": 25.0},
    "AutoEmb": {"method": "autoemb"},
}
#: Those that are also made smaller than they were trained.
SHRUNK = ("FSE-146", "AutoEmb")

#: Ids of the model whose resident memory is measured.
MANY = 1_000_000


def scores(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the scores of every method, task, seed and budget on one data set."""
    interactions = load(data)
    for task in TASKS:
        for seed in SEEDS:
            for name, options in METHODS.items():
                config = RunConfig(task=task, seed=seed, device="cpu", **options)
                out = folder / f"{data.name}-{task}-{name}-{seed}"
                run(config, interactions, out, resume=True, checkpoint_at=0.7)
                trained = load_trained(out)
                exporter = Exporter(trained.learner, trained.task, about=trained.about)
                for budget in BUDGETS if name in SHRUNK else BUDGETS[:1]:
                    model, kept = exporter.export(budget)
                    counts = [
                        state.count[: len(widths)]
                        for state, widths in zip(trained.learner.state.fields, kept, strict=True)
                    ]
                    found = evaluate(model, interactions)
                    yield {
                        "data": data.name,
                        "task": task,
                        "seed": seed,
                        "method": name,
                        "budget": budget,
                        "floats_per_id": sum(int(w.sum()) for w in kept) / sum(map(len, kept)),
                        "row_bytes": model.bytes()["rows"],
                        "loss": found["loss"],
                        "accuracy": found["accuracy"],
                        "rank_correlation": [
                            rank_correlation(count, widths)
                            for count, widths in zip(counts, kept, strict=True)
                        ],
                    }


MEASURE = """
import resource, sys
from pathlib import Path
from autoemb.serving import load_model
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
model = load_model(sys.argv[1])
for field in model.fields:  # the file is mapped: what is read becomes resident
    for rows in field.rows:
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
        field = ServedField(
            ids,
            [torch.ones(count, d) for count, d in zip(rows, shares, strict=True)],
            [torch.ones(0 if d == width else width, d) for d in shares],
            [torch.zeros(width) for _ in shares],
            torch.zeros(width),
        )
        model = ServedModel([field], mlp(width, (512, 512), 1), TASKS["regression"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            model.save(path)
            del model, field
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


HEAD = """\
# Exported models: loss against bytes

Made by `python -m bench.export` from [its record](../bench/results/export.json): do not edit.

A run is stopped in time after 70 % of its events (three seeds), exported with `autoemb export
--budget B`, and the model, now frozen, predicts the rest. B is the share of the floats of all sizes
(146 an id; at B = 1 AutoEmb keeps 128, the width of its output). AutoEmb has its defaults; the
fixed widths 2, 16, 64 and 146 (FSE) learn at row rates of 100, 50, 50 and 25, the most often chosen
in [the study](study.md). Rows of FSE-146 are made narrow in the same way (its principal components,
as no tanh follows), so that what the mix of sizes is worth is not mistaken for what the export is
worth. CPU.

**What came out.** A quarter of the floats costs 0.02 % in loss at most. 1.5 % of them, 2.2 an id,
cost 0.18 ± 0.18 % on one stream and 0.11 % or less on seven. That holds for a fixed width, too
(0.02 % and 0.42 ± 0.23 %): to learn takes width, to keep does not. So a model of 2.2 floats an id
is within 0.2 % of the best fixed width on four of eight streams, where the smallest width that is
trained to come that close has 16 to 64. On the other four, both of MovieLens latest small and of
MovieTweetings, the frozen AutoEmb is 0.2 to 0.4 % above it at any size but the smallest (0.3 to 0.6
%), though it is level with it or ahead while it learns. A likely reason, not tested: it has learnt
what first events of an id are like, and for a frozen model ids that it does not know stay newcomers
for all their events. FSE-146 made narrow does better there. Wherever ids of a field differ in
width, wider rows go to the more popular ones.
"""


def rows_of(results: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in results if all(r[name] == value for name, value in wanted.items())]


def correlation(values: Iterable[float]) -> str:
    """Return the mean; where all ids of a field own the same there is none."""
    mean = fmean(values)
    return "-" if math.isnan(mean) else f"{mean:.2f}"


def smallest(results: list[dict[str, Any]], streams: list[tuple[str, str]]) -> list[str]:
    """Return a table of the fewest floats that come close to the best fixed width."""
    body = []
    for data, task in streams:
        own = rows_of(results, data=data, task=task)

        def points(of: list[dict[str, Any]], method: str) -> list[tuple[float, float]]:
            found = []
            for budget in BUDGETS:
                rows = rows_of(of, method=method, budget=budget)
                if rows:
                    mean = (fmean(r[key] for r in rows) for key in ("floats_per_id", "loss"))
                    found.append((next(mean), next(mean)))
            return found

        fixed = [points(own, name)[0] for name in METHODS if name.startswith("FSE")]
        limit = 1.002 * min(loss for _, loss in fixed)
        cells = [
            min((floats for floats, loss in found if loss <= limit), default=math.inf)
            for found in (fixed, points(own, "AutoEmb"), points(own, "FSE-146"))
        ]
        body.append([f"{data}, {task}", *(f"{c:.1f}" if c < math.inf else "-" for c in cells)])
    headers = ["stream", "a fixed width", "AutoEmb, exported", "FSE-146, exported"]
    return [
        "## Fewest floats an id within 0.2 % of the best fixed width's loss (-: none)",
        "",
        *pipes(headers, body),
        "",
    ]


def figure_name(stream: tuple[str, str]) -> str:
    """Return the name of a stream's figure."""
    return f"{'-'.join(stream)}-frozen-loss-against-bytes"


def against_bytes(results: list[dict[str, Any]], stream: tuple[str, str]) -> str:
    """Return the figure of fixed widths and of what was made narrow."""

    def points(names: Iterable[str], budgets: Iterable[float]) -> list[tuple[float, float, float]]:
        found = []
        for name, budget in itertools.product(names, budgets):
            rows = rows_of(results, data=stream[0], task=stream[1], method=name, budget=budget)
            loss = mean_cell([r["loss"] for r in rows])
            found.append((fmean(r["row_bytes"] for r in rows), loss.mean, loss.spread))
        return found

    lines = {
        "fse": points((name for name in METHODS if name.startswith("FSE")), BUDGETS[:1]),
        "FSE-146 narrow": points(["FSE-146"], BUDGETS[1:]),
        "autoemb": points(["AutoEmb"], BUDGETS),
    }
    return loss_by_bytes(figure_name(stream), lines, loss_name(stream[1]))


def page(record: dict[str, Any]) -> str:
    """Return the tables of the record."""
    results = record["results"]
    streams = list(dict.fromkeys((r["data"], r["task"]) for r in results))
    lines = [HEAD]
    for method in SHRUNK:
        body = []
        for data, task in streams:
            own = rows_of(results, data=data, task=task, method=method)
            whole = {r["seed"]: r["loss"] for r in rows_of(own, budget=1.0)}
            cells = [
                mean_cell(
                    [100 * (r["loss"] / whole[r["seed"]] - 1) for r in rows_of(own, budget=b)]
                )
                for b in BUDGETS[1:]
            ]
            body.append([f"{data}, {task}", *(f"{c.mean:+.2f}±{c.spread:.2f}" for c in cells)])
        headers = ["stream", *(f"B = {b:g}" for b in BUDGETS[1:])]
        lines += [
            f"## {method}: loss in percent above that with all floats",
            "",
            *pipes(headers, body),
            "",
        ]
    body, headers = [], ["stream", *METHODS, *(f"AutoEmb, B = {b:g}" for b in BUDGETS[2:])]
    for data, task in streams:
        own = rows_of(results, data=data, task=task)
        cells = [
            mean_cell([r["loss"] for r in rows_of(own, method=m, budget=1.0)]) for m in METHODS
        ]
        cells += [
            mean_cell([r["loss"] for r in rows_of(own, method="AutoEmb", budget=b)])
            for b in BUDGETS[2:]
        ]
        body.append([f"{data}, {task}", *map(str, cells)])
    lines += ["## Loss of frozen models", "", *pipes(headers, body), ""]
    lines += smallest(results, streams)
    body = []
    for data, task in streams:
        own = rows_of(results, data=data, task=task, method="AutoEmb")
        cells = []
        for b in BUDGETS[1:]:
            pairs = zip(*(r["rank_correlation"] for r in rows_of(own, budget=b)), strict=True)
            cells.append(" / ".join(correlation(field) for field in pairs))
        body.append([f"{data}, {task}", *cells])
    headers = ["stream", *(f"B = {b:g}" for b in BUDGETS[1:])]
    title = "Rank correlation of an id's width with its events (users / items; -: all alike)"
    lines += [f"## {title}", "", *pipes(headers, body), ""]
    body = [
        [
            f"{m['widths']}, {m['ids']:,} ids",
            *(f"{m[key] / 2**20:,.0f}" for key in ("model_bytes", "file_bytes", "resident_bytes")),
        ]
        for m in record["memory"]
    ]
    lines += ["## Bytes of a model of synthetic rows (MiB, ids and network included)", ""]
    lines += [*pipes(["model", "tensors and ids", "file", "resident memory"], body), ""]
    for stream, title in FIGURES.items():
        lines += [
            f"{title}: loss of the frozen models against the bytes of their rows, of fixed widths "
            "(2, 16, 64, 146) and of what was made narrow:", "",
            f"![{title}](studies/figures/{figure_name(stream)}.svg)", "",
        ]  # fmt: skip
    where = record["environment"]
    lines.append(
        f"CPU: {where['hardware']['cpu']}; torch {where['versions']['torch']}; commit "
        f"{where['commit']}; `{record['command']}`."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=Path, help="folder for the runs; by default they are not kept"
    )
    parser.add_argument("--tables", action="store_true", help="only write the page again")
    arguments = parser.parse_args()
    if not arguments.tables:
        root = Path(os.environ["AUTOEMB_DATA"])
        with tempfile.TemporaryDirectory() as folder:
            runs = arguments.runs or Path(folder)
            results = [row for data in SETS for row in scores(root / data, runs)]
        record = {
            "command": "python -m bench.export",
            "environment": environment(),
            "results": results,
            "memory": memory(),
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    record = json.loads(RECORD.read_text())
    for stream in FIGURES:
        file = FIGURE_FOLDER / f"{figure_name(stream)}.svg"
        write_text(file, against_bytes(record["results"], stream))
    PAGE.write_text(page(record))


if __name__ == "__main__":
    main()
