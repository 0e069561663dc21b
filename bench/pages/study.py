"""docs/study.md: its parts put together."""

from __future__ import annotations

from typing import Any

from bench.pages import ablations, figures, recipes, widths
from bench.pages.names import DATA_SETS, title
from bench.pages.records import Study
from bench.pages.rendering import render
from bench.pages.tables import table

#: What a method is, by its name on the command line.
KINDS = {
    "fse": "one width for all ids",
    "sam": "sizes mixed by a controller that learns with all other weights",
    "darts": "sizes mixed by logits of each id, which know nothing of its popularity",
    "autoemb": "sizes mixed by a controller that is told an id's popularity and recent loss",
}
PARTS = ("widths", "start", "paper", "paper-adam")


def data_sets(study: Study) -> str:
    """Return a table of the data sets with their events."""
    events = {
        run["data"]: sum(run[stage]["interactions"] for stage in ("offline", "online"))
        for run in study.record["results"]
    }
    body = [
        [f"`{data}`", title(data), f"{number:,}", DATA_SETS.get(data, ("", ""))[1]]
        for data, number in events.items()
    ]
    return table(["folder", "called here", "events", ""], body)


def kinds(studies: dict[str, Study]) -> str:
    """Return a table of what the methods are."""
    named: dict[str, dict[str, None]] = {}
    for study in studies.values():
        for name, options in study.methods.items():
            named.setdefault(options["method"], {})[name] = None
    body = [[", ".join(found), KINDS.get(kind, "")] for kind, found in named.items()]
    return table(["method", "what it is"], body)


def facts(studies: dict[str, Study], changes: ablations.Ablations) -> dict[str, Any]:
    """Return what the templates of the page and of README name."""
    fixed = studies["widths"]
    found = widths.values(fixed) | {"untuned": widths.apart(studies["start"], fixed)}
    found |= recipes.start(studies["start"]) | recipes.paper(studies["paper"], studies["start"])
    found |= recipes.optimisers(studies["paper"], studies["paper-adam"])
    return found | ablations.on_stream(changes, found["most"])


def page(studies: dict[str, Study], changes: ablations.Ablations) -> str:
    """Return the page."""
    fixed = studies["widths"]
    return render(
        "study",
        data_sets=data_sets(fixed),
        kinds=kinds(studies),
        copied=figures.copied(fixed.streams),
        versions=fixed.record["versions"],
        candidates=len(widths.candidates(fixed, fixed.ours)),
        **facts(studies, changes),
    )
