"""docs/history.md: what it is worth to tell a model what earlier labels say of ids."""

from __future__ import annotations

from autoemb.schema import STARS, Sparse
from autoemb.streaming.sums import Sums
from autoemb.streaming.traces import DECAY, FACTORS, RECENT_STRENGTHS, SUM_STRENGTHS
from autoemb.tasks import task_for
from bench.pages.opponents import losses, skills, streams_of, trivial
from bench.pages.records import Study, above, online
from bench.pages.rendering import render

PARTS = ("history", "history-clicks")

#: Studies that have the trivial opponents on the same streams.
OPPONENTS = ("opponents", "features")

#: A method and the same that is told.
PLAIN, TOLD, FIXED = "AutoEmb", "AutoEmb-told", "FSE-146-told"


def floats() -> int:
    """Return what is kept of one id of a rating, predicted as positive or not."""
    sums = Sums({"id": Sparse(column="id")}, task_for("regression", STARS), traced=True)
    sums.grow({"id": 1})
    state = sums.state_dict()
    kept = [state["tables"], state["traces"]["recent"], state["traces"]["factors"]]
    return sum(values["id"].numel() for values in kept)


def page(studies: list[Study], others: list[Study]) -> str:
    """Return the page, with the opponents of other studies on the same streams."""
    every = [(study, stream) for study in studies for stream in streams_of(study)]
    changes = [
        above(study.mean(stream, TOLD, online), study.mean(stream, PLAIN, online))
        for study, stream in every
    ]
    beside = [
        above(study.mean(stream, TOLD, online), study.mean(stream, FIXED, online))
        for study, stream in every
    ]
    best = {
        stream: study.mean(stream, study.lowest(stream, trivial(study)), online)
        for study in others
        for stream in streams_of(study)
    }
    behind = sum(best[stream] < study.mean(stream, TOLD, online) for study, stream in every)
    return render(
        "history",
        factors=FACTORS,
        kept=f"{DECAY:g}",
        floats=floats(),
        strengths=[f"{k:g}" for k in SUM_STRENGTHS],
        recent=[f"{k:g}" for k in RECENT_STRENGTHS],
        streams=len(every),
        below=sum(change < 0 for change in changes),
        changes=changes,
        beside=beside,
        behind=behind,
        opponents=[f"`{method}`" for method in trivial(others[0])],
        losses=losses(studies),
        skills=skills(studies),
        seeds=studies[0].seeds,
        versions=studies[0].record["versions"],
    )
