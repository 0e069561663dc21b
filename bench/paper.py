"""The paper's comparison on real streams, recorded, and the tables made from the records.

``AUTOEMB_DATA=folder python -m bench.paper`` runs what is not recorded yet into docs/results and
writes docs/results.md; ``--tables`` only writes the page again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from autoemb.json_object import JsonObject
from autoemb.report import markdown, wording
from autoemb.report.records import parse_comparison
from autoemb.report.tables import COLUMNS, rows
from bench.harness import environment

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE = RESULTS.with_suffix(".md")
TASKS, ORDERS = ("regression", "classification"), ("chronological", "shuffled")
DATA = "ml-100k"


def commands() -> dict[str, list[str]]:
    """Return the options of every comparison by the name of its record."""
    found = {}
    for task in TASKS:
        for order in ORDERS:
            options = ["--data", DATA, "--task", task, "--order", order, "--seeds", "0,1,2"]
            found[f"{DATA}-preset-paper-{task}-{order}"] = [*options, "--preset", "paper"]
    return found


def record(name: str, options: list[str], data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["autoemb", "compare", *options, "--out", f"{folder}/out"]
        subprocess.run(command, check=True, cwd=data)
        compared = json.loads(Path(folder, "out", "compare.json").read_text())
        RESULTS.mkdir(parents=True, exist_ok=True)
        said = shlex.join(["autoemb", "compare", *options, "--out", "DIR"])
        content = {"command": said, **compared, "environment": environment()}
        part = Path(folder, "record.json")
        part.write_text(json.dumps(content, indent=1) + "\n")
        shutil.copy(part, RESULTS / f"{name}.json")


READING = """\
**What came out.** With the paper's own recipe (`--preset paper`: its learning rates, BatchNorm over
the batch, rows drawn from N(0, 1)) AutoEmb is mostly ahead of the fixed width of 146, as published.
Every method, the fixed width most of all, is far worse than with our defaults: its rows hardly
leave their random start. [The study](study.md) compares the methods tuned alike."""


def summary(records: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of the online losses of all records."""
    lines = ["| record | FSE | SAM | DARTS | AutoEmb | AutoEmb − FSE | |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for name, content in records.items():
        comparison = parse_comparison(JsonObject(content, name))
        losses = [row.cells[COLUMNS.index(("online", "loss"))] for row in rows(comparison)]
        (difference,) = (
            d
            for d in comparison.differences
            if (d.baseline, d.stage, d.metric) == ("fse", "online", "loss")
        )
        cells = [f"**{c}**" if c.best else str(c) for c in losses]
        cells += [wording.decimal(difference.mean, sign=True), wording.verdict(difference)]
        lines.append(f"| [{name}](#{name}) | {' | '.join(cells)} |")
    return lines


def page() -> str:
    """Return the tables of all records."""
    paths = {name: RESULTS / f"{name}.json" for name in commands()}
    records = {n: json.loads(path.read_text()) for n, path in paths.items() if path.exists()}
    lines = [
        "# The paper's comparison, recorded",
        "",
        "Made by `python -m bench.paper` from the records in [results](results): do not edit.",
        "Negative differences in loss and positive ones in accuracy are in AutoEmb's favour. All",
        "methods take the paper's hyperparameters: nothing was tuned for one of them.",
        "",
        READING,
        "",
        "## Online loss",
        "",
        *summary(records),
    ]
    for name, content in records.items():
        where = content["environment"]
        lines += ["", f"## {name}", "", "MovieLens 100K, complete.", ""]
        lines += ["```bash", content["command"], "```", "", markdown(content).rstrip()]
        lines += [
            "",
            f"CPU: {where['hardware']['cpu']}, threads: {where['threads']}; torch "
            f"{where['versions']['torch']}; commit {where['commit']}.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if "--tables" not in sys.argv[1:]:
        data = Path(os.environ["AUTOEMB_DATA"])
        for name, options in commands().items():
            if not (RESULTS / f"{name}.json").exists():
                record(name, options, data)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
