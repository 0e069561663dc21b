"""The page: recorded files in, ``report.html`` and ``figures/*.svg`` out."""

import math
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from autoemb.errors import UserError
from autoemb.files import write_text
from autoemb.lab.recorder import STAGES
from autoemb.lab.records import Data
from autoemb.lab.report import tables, wording
from autoemb.lab.report.recording import Recording, Run, read

# In the configuration, but told to the command line in another way or not at all.
_NOT_OPTIONS = {
    "command", "features", "fields", "method", "methods", "out", "resume", "schema",
    "seed", "seeds",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One figure: its file's stem, the sentence above it and its SVG text."""

    name: str
    title: str
    svg: str

    @property
    def inline(self) -> str:
        """The SVG without its XML head, its colours left for the page's style to change."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        return re.sub(r"(?<=: )#([0-9a-f]{6})\b", r"var(--c-\1, #\1)", body)


def draw(directory: str | os.PathLike[str]) -> Path:
    """Draw the report of a run or of a comparison from its recorded files.

    The same files give the same bytes. Nothing is written before everything is read and drawn,
    and each file appears whole.

    Parameters
    ----------
    directory
        What ``--out`` of ``autoemb run`` or ``autoemb compare`` named.

    Returns
    -------
    Path
        ``directory/report.html``, one file that needs no other; its figures are also in
        ``directory/figures/``.

    Raises
    ------
    UserError
        Where a recorded file is missing, incomplete or broken, the extra ``report`` is not
        installed, or the folder cannot be written to.

    Examples
    --------
    >>> draw("nowhere")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere is not a folder; expected what --out of a run or compare named
    """
    folder = Path(directory)
    recording = read(folder)
    sections = _panels(recording)
    page = _render(recording, sections)
    for panels in sections.values():
        for panel in panels:
            write_text(folder / "figures" / f"{panel.name}.svg", panel.svg)
    return write_text(folder / "report.html", page)


def command_line(recording: Recording) -> str:
    """Return the command that records the same again, quoted for a POSIX shell.

    Parameters
    ----------
    recording
        What was recorded; options come from its configuration. Those that are null or false
        are left out.
    """
    comparison = recording.comparison
    if recording.command == "run":
        options: dict[str, Any] = {"method": comparison.methods[0], "seed": comparison.seeds[0]}
    else:
        options = {"methods": list(comparison.methods), "seeds": list(comparison.seeds)}
    # Where the path was not recorded, the name says which data; the default stream needs neither.
    options["data"] = None if comparison.data.synthetic else comparison.data.name
    if not _is_known(comparison.config.get("schema"), comparison.data):
        options["schema"] = "FILE"  # whose content the page's configuration has
    options |= {key: v for key, v in comparison.config.items() if key not in _NOT_OPTIONS}
    words = ["autoemb", recording.command]
    for key, value in (options | {"out": "DIR"}).items():
        option = "--" + key.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, _value(value)]
    return shlex.join(words)


def _is_known(schema: Any, data: Data) -> bool:
    """Return whether data are read by this schema when no flag says so: columns as published."""
    if not isinstance(schema, dict) or data.synthetic:
        return True
    label = schema.get("label")
    named = isinstance(label, dict) and label.get("column") == "rating"
    return named and set(data.features) == {"user_id", "item_id"}


def _panels(recording: Recording) -> dict[str, list[Panel]]:
    """Draw every figure, by the section it stands in."""
    try:
        from autoemb.lab.report import curves, figures  # noqa: F401
    except ModuleNotFoundError as error:
        raise extra_missing(error) from error

    runs: dict[str, list[Run]] = {method: [] for method in recording.comparison.methods}
    for run in recording.runs:
        runs[run.summary.method].append(run)
    drawn = {method: own for method, own in runs.items() if not _hidden(method, runs)}
    return {
        "differences": _differences(recording),
        "stream": _over_stream(recording, drawn),
        "popularity": _by_popularity(recording, drawn),
        "weights": _weights(recording, drawn),
    }


def _hidden(method: str, methods: Collection[str]) -> bool:
    """Whether a method has no curves: the mean is so far from others that it would flatten them."""
    return method == "mean" and len(methods) > 2


def _left_out(methods: Collection[str]) -> str:
    """Return a sentence that names the methods without curves; else nothing."""
    hidden = [wording.display(method) for method in methods if _hidden(method, methods)]
    return f" Not drawn, as it would flatten the others: {', '.join(hidden)}." if hidden else ""


def _differences(recording: Recording) -> list[Panel]:
    from autoemb.lab.report import figures

    comparison, panels = recording.comparison, []
    found = dict.fromkeys(d.metric for d in comparison.differences)
    for metric in [*found][: wording.MOST_METRICS]:
        pairs = [
            d
            for d in comparison.differences
            if d.metric == metric and not _hidden(d.baseline, comparison.methods)
        ]
        label, lower = wording.metric_name(metric, comparison.task), wording.lower_is_better(metric)
        side = "" if lower is None else f" ({'left' if lower else 'right'} of zero is better)"
        name = f"difference-{metric}"
        svg = figures.differences(name, pairs, f"difference in {label}{side}")
        panels.append(Panel(name, _capital(label), svg))
    return panels


def _over_stream(recording: Recording, runs: Mapping[str, Sequence[Run]]) -> list[Panel]:
    """Draw every metric over the stream, and then less that of the baseline."""
    from autoemb.lab.report import curves, figures

    comparison, panels = recording.comparison, []
    boundary = recording.runs[0].summary.offline.interactions
    metrics = wording.metrics(window for run in recording.runs for window in run.windows)
    lines = {m: {k: curves.over_stream(runs[k], m) for k in runs} for m in metrics}
    labels = {metric: wording.metric_name(metric, comparison.task) for metric in metrics}
    for metric, label in labels.items():
        name = f"stream-{metric}"
        svg = figures.over_stream(name, lines[metric], label, boundary)
        panels.append(Panel(name, _capital(label), svg))
    baseline = "fse" if "fse" in runs else next(iter(runs))
    against = wording.display(baseline)
    for metric, label in labels.items() if len(runs) > 1 else ():
        name = f"stream-{metric}-difference"
        apart = {
            method: curves.minus(curve, lines[metric][baseline])
            for method, curve in lines[metric].items()
        }
        title = f"{_capital(label)} minus {against}'s"
        svg = figures.over_stream(name, apart, f"{label} \N{MINUS SIGN} {against}", boundary)
        panels.append(Panel(name, title, svg))
    return panels


def _features(recording: Recording) -> dict[str, str]:
    """Return the features that popularity was recorded of, each with what its ids are."""
    found = dict.fromkeys(
        bucket.feature
        for run in recording.runs
        for stage in STAGES
        for bucket in run.summary.by_popularity.stage(stage)
    )
    return {name: wording.feature(name) for name in found}


def _drawn(recording: Recording) -> list[tuple[str, str, str]]:
    """Return the features that are drawn: name, what their ids are, and the part of a file name."""
    taken: set[str] = set()
    drawn = [*_features(recording).items()][: wording.MOST_FEATURES]
    return [(name, said, wording.file_name(said, taken)) for name, said in drawn]


def _by_popularity(recording: Recording, runs: Mapping[str, Sequence[Run]]) -> list[Panel]:
    from autoemb.lab.report import curves, figures

    panels = []
    for feature, said, file in _drawn(recording):
        for stage in STAGES:
            name = f"popularity-{file}-{stage}"
            merged = {m: curves.by_popularity(runs[m], stage, feature) for m in runs}
            methods = {method: buckets for method, buckets in merged.items() if buckets}
            if methods:
                label = wording.loss_name(recording.comparison.task)
                svg = figures.loss_by_popularity(name, methods, said, label)
                panels.append(Panel(name, f"{_capital(said)}, {stage} stage", svg))
    return panels


def _weights(recording: Recording, runs: Mapping[str, Sequence[Run]]) -> list[Panel]:
    from autoemb.lab.report import curves, figures

    panels = []
    for feature, said, file in _drawn(recording):
        for method in runs:
            online, offline = (
                curves.by_popularity(runs[method], stage, feature)
                for stage in ("online", "offline")
            )
            buckets = online or offline
            count = max((len(bucket.weights or ()) for bucket in buckets), default=0)
            if count:
                name = f"weights-{file}-{method}"
                sizes = _sizes(runs[method][0].summary.dims, count)
                svg = figures.weights_by_popularity(name, buckets, said, sizes)
                title = f"{_capital(said)}, {wording.display(method)}"
                panels.append(Panel(name, title, svg))
    return panels


def _not_drawn(recording: Recording) -> list[str]:
    """Return in sentences of which features no popularity is drawn, and why."""
    features = _features(recording)
    notes = []
    if further := [*features.values()][wording.MOST_FEATURES :]:
        notes.append(f"Recorded, but not drawn here: {', '.join(further)}.")
    if without := [f for f in recording.comparison.data.features if f not in features]:
        names = ", ".join(map(wording.feature, without))
        notes.append(
            f"Not recorded: {names}. A feature of several ids an event has no one popularity."
        )
    return notes


def _render(recording: Recording, sections: Mapping[str, list[Panel]]) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise extra_missing(error) from error

    comparison = recording.comparison
    template = resources.files("autoemb.lab.report").joinpath("template.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "decimal": wording.decimal,
        "percent": wording.percent,
        "whole": wording.whole,
        "display": wording.display,
        "metric": lambda name: wording.metric_name(name, comparison.task),
    }
    return environment.from_string(template).render(
        recording=recording,
        comparison=comparison,
        data=comparison.data,
        offline=recording.runs[0].summary.offline,
        online=recording.runs[0].summary.online,
        metrics=tables.metrics(comparison),
        not_drawn=_not_drawn(recording),
        ids=_ids(comparison.data),
        nan=math.nan,
        rows=tables.rows(comparison),
        has_skill=tables.has_skill(comparison),
        has_bytes=tables.has_bytes(comparison),
        trivial=wording.display(wording.TRIVIAL),
        opponents=wording.opponents(comparison.methods),
        left_out=_left_out(comparison.methods),
        differences=list(
            zip(comparison.differences, tables.difference_rows(comparison), strict=True)
        ),
        verdict=wording.verdict,
        interval_name=wording.interval_name(comparison),
        spread_note=wording.spread_note(comparison),
        findings=wording.findings(comparison),
        command=command_line(recording),
        config=list(_flat(comparison.config)),
        versions=list(_flat(comparison.versions)),
        panels=sections,
    )


def extra_missing(error: ModuleNotFoundError) -> UserError:
    """Return what to install for a report, where that is what is missing."""
    if error.name not in {"jinja2", "matplotlib", "numpy"}:
        raise error
    return UserError(f"a report needs {error.name}: pip install 'autoemb[report]'")


def _ids(data: Data) -> dict[str, int]:
    """Return how many different ids the first features have."""
    known = {"users": data.users, "items": data.items}
    counts = {name: count for name, count in known.items() if count is not None}
    others = {f: n for f, n in data.features.items() if f not in ("user_id", "item_id")}
    return counts | {name: others[name] for name in [*others][:8]}


def _sizes(dims: Sequence[int] | None, count: int) -> list[str]:
    if dims is not None and len(dims) == count:
        return [str(dim) for dim in dims]
    return [f"size {n + 1}" for n in range(count)]


def _value(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value))
    if isinstance(value, dict):
        return ",".join(f"{key}={_value(item)}" for key, item in value.items())
    return str(value)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "not set" if value is None else _value(value)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
