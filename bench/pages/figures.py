"""Figures of the pages: drawn here from records, or copied from a study's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.pages import budgets, export
from bench.pages.names import Stream, row_name
from bench.pages.records import FIGURES, Study

BYTES = "online-loss-against-bytes"
FROZEN = "frozen-loss-against-bytes"


def is_drawn(name: str) -> bool:
    """Whether a figure of that name is one of those that are drawn here."""
    return name.endswith((BYTES, FROZEN))


def extremes(apart: dict[Stream, float]) -> list[Stream]:
    """Return the streams of the lowest and of the highest value.

    Examples
    --------
    >>> extremes({Stream("a", "x"): 0.1, Stream("b", "x"): -1.0, Stream("c", "x"): 0.0})[0].data
    'b'
    """
    order = sorted(apart, key=lambda stream: apart[stream])
    return list(dict.fromkeys([order[0], order[-1]]))


def of_budgets(studies: Sequence[Study]) -> list[tuple[Study, Stream]]:
    """Return the streams whose loss is drawn against bytes: our best and our worst."""
    tallies = [study.tally(study.best_width).pairs.items() for study in studies]
    drawn = extremes({stream: pair.mean for pairs in tallies for stream, pair in pairs})
    return [(study, stream) for stream in drawn for study in studies if stream in study.streams]


def of_exports(found: export.Export) -> list[Stream]:
    """Return the streams whose frozen models are drawn: our best and our worst."""
    return extremes({stream: found.apart(stream) for stream in found.streams})


def drawn(studies: Sequence[Study], found: export.Export) -> dict[str, str]:
    """Return the SVG text of every figure that is drawn here, by its name."""
    made = {}
    for study, stream in of_budgets(studies):
        name = _name(stream, BYTES)
        made[name] = budgets.figure(stream, name, study)
    for stream in of_exports(found):
        name = f"{stream.data}-{stream.task}-{FROZEN}"
        made[name] = export.figure(stream, name, found)
    return made


def links(names: Sequence[str], streams: Sequence[Stream], explained: str) -> str:
    """Return figures with the name of their stream above them."""
    lines = []
    for name, stream in zip(names, streams, strict=True):
        title = row_name(stream)
        lines += [f"{title}: {explained}", "", f"![{title}](studies/figures/{name}.svg)", ""]
    return "\n".join(lines).rstrip()


def _name(stream: Stream, what: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{'-'.join(stream)}-{what}")


def within(studies: Sequence[Study]) -> str:
    """Return the figures of budgets that were kept while a stream ran."""
    streams = [stream for _, stream in of_budgets(studies)]
    names = [_name(stream, BYTES) for stream in streams]
    explained = (
        "online loss against all bytes that ids own, of fixed widths and of AutoEmb within budgets "
        "(the largest has none):"
    )
    return links(names, streams, explained)


def frozen(found: export.Export) -> str:
    """Return the figures of frozen models."""
    streams = of_exports(found)
    names = [f"{stream.data}-{stream.task}-{FROZEN}" for stream in streams]
    explained = "loss of frozen models against the bytes of their rows:"
    return links(names, streams, explained)


def copied(streams: Sequence[Stream]) -> str:
    """Return the figures that were copied here from the folder of a study, by their names."""
    lines = []
    for path in sorted(FIGURES.glob("*.svg")):
        if is_drawn(path.stem):
            continue
        for stream in streams:
            slug = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(stream))
            if path.stem.startswith(f"{slug}-"):
                what = path.stem.removeprefix(f"{slug}-").replace("-", " ")
                title = f"{row_name(stream)}: {re.sub(r'FSE (?=[0-9])', 'FSE-', what)}"
                lines += [f"{title}:", "", f"![{title}](studies/figures/{path.name})", ""]
    return "\n".join(lines).rstrip()
