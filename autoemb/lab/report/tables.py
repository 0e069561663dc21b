"""Table 2 of the paper and the paired differences, from one source of rows for every format.

Neither matplotlib nor jinja2 is needed here, so the terminal works without the extra ``report``.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoemb.lab.recorder import STAGES
from autoemb.lab.records import Comparison, Result
from autoemb.lab.report import wording

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Cell:
    """Mean over seeds and the sample standard deviation over them (NaN for one seed)."""

    mean: float
    spread: float
    best: bool = False

    def __str__(self) -> str:
        mean = wording.decimal(self.mean)
        return mean if math.isnan(self.spread) else f"{mean}±{wording.decimal(self.spread)}"


@dataclass(frozen=True)
class Row:
    """One method: a cell for each of :func:`columns`, its rate (events/s) and seconds a run.

    ``skill`` is how much of the trivial opponent's online loss it saves, in percent; None where
    there is nobody to compare with. ``bytes`` are those that an id owns, NaN where not recorded.
    """

    method: str
    cells: tuple[Cell, ...]
    rate: Cell
    seconds: Cell
    bytes: Cell
    skill: Cell | None = None


def metrics(comparison: Comparison) -> list[str]:
    """Return the metrics that a comparison's tables show."""
    scores = [result.stage(stage) for result in comparison.results for stage in STAGES]
    return wording.metrics(scores)


def _narrow(comparison: Comparison) -> list[bool]:
    """Return which columns of numbers a terminal has room for: the loss, and one more metric."""
    known_by = wording.KNOWN_BY.get(comparison.task, metrics(comparison)[1:2])
    stages = STAGES[1:] if has_skill(comparison) else STAGES
    losses = STAGES[1:] if has_skill(comparison) and has_bytes(comparison) else STAGES
    return [
        (metric == "loss" and stage in losses) or (metric in known_by and stage in stages)
        for stage, metric in columns(comparison)
    ]


def has_skill(comparison: Comparison) -> bool:
    """Return whether the methods are compared with the trivial opponent."""
    return wording.TRIVIAL in comparison.methods and len(comparison.methods) > 1


def has_bytes(comparison: Comparison) -> bool:
    """Return whether it was recorded what ids own."""
    return not all(math.isnan(result.bytes_of_id) for result in comparison.results)


def _skill(comparison: Comparison, results: Sequence[Result]) -> Cell | None:
    """Return the percentage of the trivial opponent's online loss that some runs save."""
    if not has_skill(comparison):
        return None
    trivial = {r.seed: r.online.loss for r in comparison.results if r.method == wording.TRIVIAL}
    saved = [
        100 * (1 - r.online.loss / trivial[r.seed]) if trivial.get(r.seed) else math.nan
        for r in results
    ]
    return mean_cell(saved)


def columns(comparison: Comparison) -> list[tuple[str, str]]:
    """Return stage and metric of each column of numbers."""
    return [(stage, metric) for stage in STAGES for metric in metrics(comparison)]


def rows(comparison: Comparison) -> list[Row]:
    """Return the methods' rows in the order they were run.

    The best mean of a column is marked where there are several methods; methods equal to four
    decimals share the mark.
    """
    found, shown = [], columns(comparison)
    for method in comparison.methods:
        results = [result for result in comparison.results if result.method == method]
        cells = [
            mean_cell([r.stage(stage).metrics.get(metric, math.nan) for r in results])
            for stage, metric in shown
        ]
        rate = mean_cell([r.rate for r in results])
        seconds = mean_cell([r.seconds for r in results])
        own = mean_cell([r.bytes_of_id for r in results])
        found.append(Row(method, tuple(cells), rate, seconds, own, _skill(comparison, results)))
    if len(found) == 1:
        return found
    best = []
    for column, (_, metric) in enumerate(shown):
        means = [row.cells[column].mean for row in found if not math.isnan(row.cells[column].mean)]
        lower = wording.lower_is_better(metric)
        known = bool(means) and lower is not None
        best.append(wording.decimal(min(means) if lower else max(means)) if known else None)
    return [
        replace(
            row,
            cells=tuple(
                replace(cell, best=wording.decimal(cell.mean) == value)
                for cell, value in zip(row.cells, best, strict=True)
            ),
        )
        for row in found
    ]


def difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return stage, metric, pair, difference, interval and reading of every paired difference."""
    return [
        (
            d.stage,
            wording.metric_name(d.metric, comparison.task),
            wording.pair(d),
            wording.decimal(d.mean, 5, sign=True),
            wording.interval(d),
            wording.reading(d),
        )
        for d in comparison.differences
    ]


def table(comparison: Comparison) -> RenderableType:
    """Return the methods' table and the online differences for a terminal."""
    title = _CONTROL.sub(" ", " · ".join(wording.describe(comparison)))
    scores = _table(Text(title), wording.spread_note(comparison))
    kept = _narrow(comparison)
    last = has_skill(comparison) + has_bytes(comparison) + 1
    kept = [True, *kept, *([True] * last)]
    for header in compress(_headers(comparison), kept):
        scores.add_column(
            header.replace(" ", "\n", 1), justify="right" if scores.columns else "left"
        )
    for row in rows(comparison):
        cells = compress(row.cells, kept[1:])
        texts = [Text(str(cell), style="bold" if cell.best else "") for cell in cells]
        skill = [] if row.skill is None else [wording.percent(row.skill.mean)]
        own = [wording.whole(row.bytes.mean)] if has_bytes(comparison) else []
        rate = wording.whole(row.rate.mean)
        scores.add_row(wording.display(row.method), *texts, *skill, *own, rate)

    paired = _table(
        Text("Paired differences, online stage"),
        "Better and worse: the interval excludes zero; undecided: it includes zero",
    )
    for header in _difference_headers(comparison)[1:]:
        paired.add_column(header)
    for stage, *words, reading in difference_rows(comparison):
        if stage == "online":
            paired.add_row(*words, reading.partition(":")[0])
    said = [*wording.above_trivial(comparison), *wording.fewer_bytes(comparison)]
    parts: list[RenderableType] = [scores, *said]
    return Group(*parts, "", paired) if paired.row_count else Group(*parts)


def _table(title: Text, caption: str) -> Table:
    """Return a table of few lines: the four methods' fits a terminal of 80 columns."""
    return Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _headers(comparison: Comparison) -> list[str]:
    names = [
        f"{stage} {wording.metric_name(metric, comparison.task)}"
        for stage, metric in columns(comparison)
    ]
    skill = ["skill"] if has_skill(comparison) else []
    own = ["bytes an id"] if has_bytes(comparison) else []
    return ["method", *names, *skill, *own, "events/s"]


def _difference_headers(comparison: Comparison) -> list[str]:
    interval = wording.interval_name(comparison)
    return ["stage", "metric", "pair", "difference", interval, "reading"]


def mean_cell(values: Sequence[float]) -> Cell:
    """Return the mean over seeds with its standard deviation."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Cell(mean, math.nan)
    # A product, not a power: Python's power raises where a product overflows to infinity.
    squares = sum((value - mean) * (value - mean) for value in values)
    return Cell(mean, math.sqrt(squares / (len(values) - 1)))


def pipes(headers: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a markdown table; a column is aligned right where it holds numbers."""
    numeric = (*"*+-\N{MINUS SIGN}0123456789", "nan")
    rule = ["---:" if cell.startswith(numeric) else "---" for cell in body[0]]
    return [f"| {' | '.join(cells)} |" for cells in [headers, rule, *body]]


def escape(text: str) -> str:
    """Escape text of any content for one line of markdown."""
    flat = html.escape(_CONTROL.sub(" ", text), quote=False)
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", flat)
