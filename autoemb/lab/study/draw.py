"""The tables and figures of a study, from its recorded files alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from autoemb.files import write_text
from autoemb.lab.recorder import STAGES
from autoemb.lab.records import StudyDifference, StudyRecord, StudyResult, read_record
from autoemb.lab.report import curves, figures, wording
from autoemb.lab.report.recording import Run, read_run
from autoemb.lab.report.tables import escape, mean_cell, pipes

Cell = tuple[str, str, str]


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
    record = read_record(out / "study.json", StudyRecord)
    cells: dict[Cell, list[StudyResult]] = {}
    for result in record.results:
        cells.setdefault(_cell(result), []).append(result)
    lines, taken = ["# Study", "", *_candidates(record)], set[str]()
    for cell, found in cells.items():
        pairs = [d for d in record.differences if _cell(d) == cell]
        drawing = _Drawing(out, cell, found)
        lines += ["", escape(f"## {', '.join(cell)}"), "", *drawing.table(), ""]
        lines += [*_pairs(pairs), ""]
        for title, svg in drawing.figures():
            name = f"{wording.file_name('-'.join((*cell, title)), taken)}.svg"
            write_text(out / "figures" / name, svg)
            lines.append(f"![{escape(title)}](figures/{name})")
        lines += drawing.notes()
    return write_text(out / "study.md", "\n".join(lines) + "\n")


def _cell(record: StudyResult | StudyDifference) -> Cell:
    return record.data, record.task, record.order


def _candidates(record: StudyRecord) -> list[str]:
    counts = {name: len(method.candidates) for name, method in record.methods.items()}
    said = ", ".join(f"{name}: {count}" for name, count in counts.items())
    if max(counts.values(), default=1) == 1:
        return ["Nothing was tuned."]
    return [
        "Options were chosen on the offline stage, with the first seed, among so many candidates: "
        f"{said}. Losses are means \N{PLUS-MINUS SIGN} standard deviations over seeds."
    ]


def _pairs(differences: list[StudyDifference]) -> list[str]:
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

    def __init__(self, out: Path, cell: Cell, results: list[StudyResult]) -> None:
        self.cell, self.results = cell, results
        self.loss_name = wording.loss_name(cell[1])
        runs = [read_run(out / result.run) for result in results]
        # A method that has its paper's name has its colour, too.
        self.key: dict[str, str] = {}
        self.runs: dict[str, list[Run]] = {}
        for result, run in zip(results, runs, strict=True):
            name, kind = result.method, run.summary.method
            key = self.key.setdefault(name, kind if name == wording.display(kind) else name)
            self.runs.setdefault(key, []).append(run)
        self.features = dict.fromkeys(
            bucket.feature for run in runs for bucket in run.summary.by_popularity.online
        )

    def by_method(self) -> Iterator[tuple[str, list[StudyResult]]]:
        for name, key in self.key.items():
            yield key, [result for result in self.results if result.method == name]

    def table(self) -> list[str]:
        """Return the lines of the table of losses, and of whatever else the online stage holds."""
        others = [m for m in wording.metrics(r.online for r in self.results) if m != "loss"]
        rows = []
        for key, found in self.by_method():
            columns = [[r.first_tenth for r in found]]
            columns += [[r.stage(stage).loss for r in found] for stage in STAGES]
            columns += [[r.online.metrics.get(m, math.nan) for r in found] for m in others]
            chosen = ", ".join(f"{name} {value}" for name, value in found[0].chosen.items())
            rows.append(
                [
                    wording.display(key),
                    *(str(mean_cell(values)) for values in columns),
                    f"{found[0].embedding_bytes / 2**20:.2f}",
                    escape(chosen) or "-",
                ]
            )
        named = [f"online {wording.metric_name(m, self.cell[1])}" for m in others]
        headers = ["method", "first tenth", "offline", "online", *named, "MiB", "chosen"]
        return pipes(headers, rows)

    def figures(self) -> Iterator[tuple[str, str]]:
        """Yield title and SVG text of every figure."""
        yield self._bytes()
        kinds = {key: runs[0].summary.method for key, runs in self.runs.items()}
        baseline = next((key for key in reversed(self.runs) if kinds[key] == "fse"), None)
        if baseline is not None:
            yield self._stream(baseline)
        for feature in [*self.features][: wording.MOST_FEATURES]:
            yield from self._popularity(feature)

    def notes(self) -> list[str]:
        """Return which features are left out."""
        further = [wording.feature(f) for f in [*self.features][wording.MOST_FEATURES :]]
        said = f"Recorded by popularity, but not drawn: {', '.join(further)}."
        return ["", escape(said)] if further else []

    def _bytes(self) -> tuple[str, str]:
        points = {}
        for key, found in self.by_method():
            loss = mean_cell([r.online.loss for r in found])
            points[key] = [(float(found[0].embedding_bytes), loss.mean, loss.spread)]
        name = "-".join((*self.cell, "bytes"))
        return "online loss against bytes", figures.loss_by_bytes(name, points, self.loss_name)

    def _stream(self, baseline: str) -> tuple[str, str]:
        lines = {key: curves.over_stream(runs, "loss") for key, runs in self.runs.items()}
        apart = {key: curves.minus(line, lines[baseline]) for key, line in lines.items()}
        offline = next(iter(self.runs.values()))[0].summary.offline.interactions
        named = wording.display(baseline)
        label = f"{self.loss_name} \N{MINUS SIGN} {named}"
        return (
            f"loss over the stream, less that of {named}",
            figures.over_stream("-".join((*self.cell, "stream")), apart, label, offline),
        )

    def _popularity(self, feature: str) -> Iterator[tuple[str, str]]:
        name, said = "-".join((*self.cell, feature)), wording.feature(feature)
        buckets = {
            key: curves.by_popularity(runs, "online", feature) for key, runs in self.runs.items()
        }
        yield (
            f"online loss by popularity of the {said}",
            figures.loss_by_popularity(name, buckets, said, self.loss_name),
        )
        for key, merged in buckets.items():
            if any(bucket.weights for bucket in merged):
                sizes = [str(dim) for dim in self.runs[key][0].summary.dims or ()]
                yield (
                    f"{wording.display(key)}: weights by popularity of the {said}",
                    figures.weights_by_popularity(f"{name}-{key}", merged, said, sizes),
                )
