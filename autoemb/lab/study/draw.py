"""The tables and figures of a study, from its recorded files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoemb.files import write_text
from autoemb.lab.json_object import JsonObject, read_object
from autoemb.lab.report import curves, figures, wording
from autoemb.lab.report.records import STAGES, Difference, Run, parse_difference, read_run
from autoemb.lab.report.tables import mean_cell, pipes


def draw_study(out: Path) -> Path:
    """Draw ``study.md`` and ``figures/*.svg`` of a study from what it recorded in ``out``.

    For every data set, task and order: the losses of all methods over the first tenth, the offline
    and the online stage (the paper's Table 2), paired differences, the loss by popularity (Figures
    1 and 6), weights by popularity (Figure 7), the loss over the stream (Figure 8) and against the
    bytes of the embeddings.

    Raises
    ------
    UserError
        Where a recorded file is missing or broken.
    """
    record = read_object(out / "study.json")
    results = list(record.children("results"))
    if not results:
        raise record.error("results", "at least one result")
    cells: dict[tuple[str, str, str], list[JsonObject]] = {}
    for result in results:
        cells.setdefault(_cell(result), []).append(result)
    differences = list(record.children("differences"))
    lines = ["# Study", "", *_candidates(record.child("methods"))]
    for cell, found in cells.items():
        pairs = [parse_difference(d) for d in differences if _cell(d) == cell]
        drawing = _Drawing(out, cell, found)
        lines += ["", f"## {', '.join(cell)}", "", *drawing.table(), ""]
        lines += [*_pairs(pairs), ""]
        for title, svg in drawing.figures():
            name = f"{re.sub(r'[^A-Za-z0-9]+', '-', '-'.join((*cell, title)))}.svg"
            write_text(out / "figures" / name, svg)
            lines.append(f"![{title}](figures/{name})")
    return write_text(out / "study.md", "\n".join(lines) + "\n")


def _cell(record: JsonObject) -> tuple[str, str, str]:
    return record.text("data"), record.text("task"), record.text("order")


def _candidates(methods: JsonObject) -> list[str]:
    counts = {name: len(list(methods.child(name).children("candidates"))) for name in methods.value}
    said = ", ".join(f"{name}: {count}" for name, count in counts.items())
    if max(counts.values()) == 1:
        return ["Nothing was tuned."]
    return [
        "Options were chosen on the offline stage, with the first seed, among so many candidates: "
        f"{said}. Losses are means \N{PLUS-MINUS SIGN} standard deviations over seeds."
    ]


def _pairs(differences: list[Difference]) -> list[str]:
    rows = [
        (
            wording.pair(d),
            d.stage,
            wording.decimal(d.mean, 5, sign=True),
            wording.interval(d),
            wording.verdict(d),
        )
        for d in differences
        if d.metric == "loss"
    ]
    headers = ["pair", "stage", "difference in loss", "95 % interval", "verdict"]
    return pipes(headers, rows) if rows else []


class _Drawing:
    """The results of all methods on one data set, task and order."""

    def __init__(self, out: Path, cell: tuple[str, str, str], results: list[JsonObject]) -> None:
        self.cell, self.results = cell, results
        self.loss_name = wording.loss_name(
            results[0].choice("task", "regression", "classification")
        )
        runs = [read_run(out / _inside(result)) for result in results]
        # A method that has its paper's name has its colour, too.
        self.key: dict[str, str] = {}
        for result, (_, run) in zip(results, runs, strict=True):
            name, kind = result.name("method"), run.result.method
            self.key[name] = kind if name == wording.display(kind) else name
        self.kinds = {
            self.key[r.name("method")]: run.result.method
            for r, (_, run) in zip(results, runs, strict=True)
        }
        self.runs: dict[str, list[Run]] = {}
        self.dims: dict[str, list[Any]] = {}
        for result, (summary, run) in zip(results, runs, strict=True):
            key = self.key[result.name("method")]
            self.runs.setdefault(key, []).append(run)
            dims = summary.child("config").value.get("dims")
            self.dims[key] = dims if isinstance(dims, list) else []

    def by_method(self) -> Iterator[tuple[str, list[JsonObject]]]:
        for name, key in self.key.items():
            yield key, [result for result in self.results if result.name("method") == name]

    def table(self) -> list[str]:
        rows = []
        for key, found in self.by_method():
            columns = [[r.number("first_tenth") for r in found]]
            columns += [[r.child(stage).number("loss") for r in found] for stage in STAGES]
            columns += [[r.child("online").number("accuracy") for r in found]]
            chosen = found[0].child("chosen").value
            rows.append(
                [
                    wording.display(key),
                    *(str(mean_cell(values)) for values in columns),
                    f"{found[0].count('embedding_bytes') / 2**20:.2f}",
                    ", ".join(f"{name} {value}" for name, value in chosen.items()) or "-",
                ]
            )
        headers = ["method", "first tenth", "offline", "online", "online accuracy", "MiB", "chosen"]
        return pipes(headers, rows)

    def figures(self) -> Iterator[tuple[str, str]]:
        """Yield title and SVG text of every figure."""
        name = "-".join(self.cell)
        points = {}
        for key, found in self.by_method():
            loss = mean_cell([r.child("online").number("loss") for r in found])
            points[key] = [(float(found[0].count("embedding_bytes")), loss.mean, loss.spread)]
        yield (
            "online loss against bytes",
            figures.loss_by_bytes(f"{name}-bytes", points, self.loss_name),
        )
        baseline = next((key for key in reversed(self.runs) if self.kinds[key] == "fse"), None)
        if baseline is not None:
            lines = {key: curves.over_stream(runs, "loss") for key, runs in self.runs.items()}
            apart = {key: curves.minus(line, lines[baseline]) for key, line in lines.items()}
            offline = next(iter(self.runs.values()))[0].result.stages["offline"].interactions
            named = wording.display(baseline)
            label = f"{self.loss_name} \N{MINUS SIGN} {named}"
            yield (
                f"loss over the stream, less that of {named}",
                figures.over_stream(f"{name}-stream", apart, label, offline),
            )
        every = [run for runs in self.runs.values() for run in runs]
        for field in dict.fromkeys(bucket.field for run in every for bucket in run.buckets):
            buckets = {
                key: curves.by_popularity(runs, "online", field) for key, runs in self.runs.items()
            }
            yield (
                f"online loss by popularity of the {field}",
                figures.loss_by_popularity(f"{name}-{field}", buckets, field, self.loss_name),
            )
            for key, merged in buckets.items():
                if any(bucket.weights for bucket in merged):
                    sizes = [str(dim) for dim in self.dims[key]]
                    yield (
                        f"{wording.display(key)}: weights by popularity of the {field}",
                        figures.weights_by_popularity(
                            f"{name}-{key}-{field}", merged, field, sizes
                        ),
                    )


def _inside(result: JsonObject) -> Path:
    """Return the folder of a run, which must lie below the study's."""
    run = result.text("run")
    if not re.fullmatch(r"runs/[A-Za-z0-9_.-]+", run) or run.endswith(".."):
        raise result.error("run", "a folder below runs/")
    return Path(run)
