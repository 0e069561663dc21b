"""The page: recorded files in, ``report.html`` and ``figures/*.svg`` out."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from autoemb.errors import UserError
from autoemb.files import write_text
from autoemb.lab.report import tables, wording
from autoemb.lab.report.records import METRICS, STAGES, Recording, Run, read

# In the configuration, but told to the command line in another way or not at all.
_NOT_OPTIONS = {"command", "fields", "method", "methods", "out", "resume", "seed", "seeds"}


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
    options |= {key: v for key, v in comparison.config.items() if key not in _NOT_OPTIONS}
    words = ["autoemb", recording.command]
    for key, value in (options | {"out": "DIR"}).items():
        option = "--" + key.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, _value(value)]
    return shlex.join(words)


def _panels(recording: Recording) -> dict[str, list[Panel]]:
    """Draw every figure, by the section it stands in."""
    try:
        from autoemb.lab.report import curves, figures
    except ModuleNotFoundError as error:
        raise extra_missing(error) from error

    comparison = recording.comparison
    runs: dict[str, list[Run]] = {method: [] for method in comparison.methods}
    for run in recording.runs:
        runs[run.result.method].append(run)
    boundary = recording.runs[0].result.stages["offline"].interactions
    labels = {"loss": wording.loss_name(comparison.task), "accuracy": "accuracy"}
    baseline = "fse" if "fse" in runs else comparison.methods[0]
    sections: dict[str, list[Panel]] = {
        "differences": [],
        "stream": [],
        "popularity": [],
        "weights": [],
    }

    for metric, label in labels.items():
        pairs = [d for d in comparison.differences if d.metric == metric]
        if pairs:
            better = "left" if metric == "loss" else "right"
            svg = figures.differences(
                f"difference-{metric}", pairs, f"difference in {label} ({better} of zero is better)"
            )
            sections["differences"].append(Panel(f"difference-{metric}", _capital(label), svg))

    lines = {m: {k: curves.over_stream(runs[k], m) for k in runs} for m in METRICS}
    for metric, label in labels.items():
        name = f"stream-{metric}"
        svg = figures.over_stream(name, lines[metric], label, boundary)
        sections["stream"].append(Panel(name, _capital(label), svg))
    if len(runs) > 1:
        against = wording.display(baseline)
        for metric, label in labels.items():
            name = f"stream-{metric}-difference"
            apart = {
                method: curves.minus(curve, lines[metric][baseline])
                for method, curve in lines[metric].items()
            }
            title = f"{_capital(label)} minus {against}'s"
            svg = figures.over_stream(name, apart, f"{label} \N{MINUS SIGN} {against}", boundary)
            sections["stream"].append(Panel(name, title, svg))

    for field in dict.fromkeys(bucket.field for run in recording.runs for bucket in run.buckets):
        merged = {
            (stage, method): curves.by_popularity(runs[method], stage, field)
            for stage in STAGES
            for method in runs
        }
        for stage in STAGES:
            name = f"popularity-{field}-{stage}"
            methods = {method: merged[stage, method] for method in runs if merged[stage, method]}
            if methods:
                svg = figures.loss_by_popularity(name, methods, field, labels["loss"])
                title = f"{_capital(field)}, {stage} stage"
                sections["popularity"].append(Panel(name, title, svg))
        for method in runs:
            buckets = merged["online", method] or merged["offline", method]
            count = max((len(bucket.weights or ()) for bucket in buckets), default=0)
            if count:
                name = f"weights-{field}-{method}"
                sizes = _sizes(comparison.config, count)
                svg = figures.weights_by_popularity(name, buckets, field, sizes)
                title = f"{_capital(field)}, {wording.display(method)}"
                sections["weights"].append(Panel(name, title, svg))
    return sections


def _render(recording: Recording, sections: Mapping[str, list[Panel]]) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise extra_missing(error) from error

    template = resources.files("autoemb.lab.report").joinpath("template.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "decimal": wording.decimal,
        "whole": wording.whole,
        "display": wording.display,
    }
    comparison = recording.comparison
    return environment.from_string(template).render(
        recording=recording,
        comparison=comparison,
        data=comparison.data,
        offline=recording.runs[0].result.stages["offline"],
        online=recording.runs[0].result.stages["online"],
        rows=tables.rows(comparison),
        differences=list(
            zip(comparison.differences, tables.difference_rows(comparison), strict=True)
        ),
        verdict=wording.verdict,
        interval_name=wording.interval_name(comparison),
        loss_name=wording.loss_name(comparison.task),
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


def _sizes(config: Mapping[str, Any], count: int) -> list[str]:
    dims = config.get("dims")
    if isinstance(dims, list) and len(dims) == count and all(type(d) is int for d in dims):
        return [_value(dim) for dim in dims]
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
