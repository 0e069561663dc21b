"""The variants, each one change to the default recipe of rows alone, which is told nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autoemb import BilevelTrainer, SoftEmbedding
from autoemb.recipe import Recipe
from bench.ablations import controllers, embeddings

#: Rows alone, with the networks and rates that suit them, as in docs/studies/widths.toml: what a
#: model is told hides what its rows are worth (docs/history.md).
BASE: dict[str, Any] = {
    "history": "none",
    "model": "mlp",
    "rows": "sizes",
    "budget": 0.0,
    "controller_history": "full",
    "optimizer": "adagrad",
    "hidden": (512, 512),
    "learning_rate": 0.003,
    "row_rate": 16.0,
}
_RECIPE = Recipe(**BASE)


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes
    ----------
    name, group : str
    options : mapping
        Of :class:`autoemb.lab.RunConfig`.
    parts : mapping
        What takes the place of a class that :mod:`autoemb.learners` builds from.
    """

    name: str
    group: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)


def _group(name: str, *variants: tuple[str, Mapping[str, Any], Mapping[str, Any]]) -> list[Variant]:
    return [Variant(variant, name, options, parts) for variant, options, parts in variants]


def _rates(name: str) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    value = getattr(_RECIPE, name)
    word = {
        "learning_rate": "network",
        "row_rate": "tables",
        "controller_learning_rate": "controller",
    }
    found = []
    for factor in (0.3, 3):
        options = {name: value * factor}
        if name == "learning_rate":  # the tables' own rate is a multiple of it
            options["row_rate"] = _RECIPE.row_rate / factor
        found.append((f"{word[name]} x {factor:g}", options, {}))
    return found


DEFAULT = Variant("default", "default")

VARIANTS = [
    DEFAULT,
    *_group(
        "method",
        ("SAM", {"method": "sam"}, {}),
        ("DARTS", {"method": "darts"}, {}),
        ("FSE-146", {"method": "fse"}, {}),
        ("equal weights, no controller", {"start": "equal", "controller_learning_rate": 1e-30}, {}),
        ("weights by popularity, no controller", {"controller_learning_rate": 1e-30}, {}),
    ),
    *_group(
        "what a model is told (default: nothing)",
        ("how often ids were seen", {"history": "counts"}, {}),
        ("all", {"history": "full"}, {}),
        ("all, and learnt in chunks of 100", {"history": "full", "learn_chunk": 100}, {}),
    ),
    *_group(
        "normalisation (default: none)",
        ("the batch's, eps 1e-5 (paper)", {"norm": "batch", "norm_eps": 1e-5}, {}),
        ("the batch's, eps 1", {"norm": "batch"}, {}),
        ("running statistics, eps 1e-5", {"norm": "running", "norm_eps": 1e-5}, {}),
        ("running statistics, eps 1", {"norm": "running"}, {}),
        ("running statistics, eps 1, momentum 0.01", {"norm": "running"},
         {"SoftEmbedding": partial(SoftEmbedding, momentum=0.01)}),
        ("batch renormalisation, eps 1", {}, {"SoftEmbedding": embeddings.Renormalised}),
        ("past and present, eps 1", {}, {"SoftEmbedding": embeddings.PastAndPresent}),
        ("with Eq. 7's 1/N", {"mix": "mean"}, {}),
        ("projections all random", {"projection": "uniform"}, {}),
    ),
    *_group(
        "standard deviation of new rows (default: 0.1)",
        *((f"{std:g}", {"init_std": std}, {}) for std in (1.0, 0.3, 0.01)),
    ),
    *_group(
        "learning rates",
        *(
            change
            for name in ("learning_rate", "row_rate", "controller_learning_rate")
            for change in _rates(name)
        ),
    ),
    *_group(
        "optimiser (default: Adagrad; rates of networks and of tables)",
        ("row-wise Adagrad", {"optimizer": "rowwise-adagrad"}, {}),
        *(
            (f"{label}, rates {rate:g} and {rate * rows:g}",
             {"optimizer": label.lower(), "learning_rate": rate, "row_rate": rows}, {})
            for label, rate, rows in (("Adam", 1e-3, 30), ("Adam", 3e-4, 300), ("SGD", 0.3, 300))
        ),
    ),
    *_group(
        "controller's inputs",
        *(
            (f"without {' and '.join(groups)}", options,
             {"History": controllers.without_inputs(*groups)})
            for groups, options in (
                (("popularity",), {"start": "equal"}),  # there is nothing to start by
                (("losses",), {}),
                (("weights", "losses"), {}),
            )
        ),
    ),
    *_group(
        "what ids start with, and collapse",
        ("equal weights (paper)", {"start": "equal"}, {}),
        ("the widest for all", {}, {"History": controllers.WidestStart}),
        *((f"temperature {t:g}", {}, {"Controller": controllers.tempered(t)}) for t in (0.3, 3.0)),
        *(
            (f"entropy bonus {s:g}", {}, {"Controller": controllers.with_entropy_bonus(s)})
            for s in (0.001, 0.03)
        ),
        ("gates, no softmax", {}, {"Controller": controllers.Gates}),
        ("random initial logits", {}, {"Controller": controllers.RandomStart}),
        ("a size 0", {"dims": (1, 2, 16, 128)}, {"SoftEmbedding": embeddings.WithSizeZero}),
    ),
    *_group(
        "what the controller learns from (default: new events, first order, every batch)",
        ("past events (paper)", {"validation": "reservoir"}, {}),
        ("past events, running statistics", {"validation": "reservoir", "norm": "running"}, {}),
        ("past events, every 16 batches", {"validation": "reservoir"},
         {"StreamLearner": controllers.every(16)}),
        ("the last batch", {"validation": "last-batch"}, {}),
        ("events held out", {"validation": "reservoir"}, {"StreamLearner": controllers.HeldOut}),
        ("finite differences", {"hypergradient": "finite-difference"}, {}),
        ("exact hypergradient", {"hypergradient": "exact"}, {}),
        ("exact, virtual step of the tables' rate", {"hypergradient": "exact"},
         {"BilevelTrainer": partial(BilevelTrainer, xi=_RECIPE.learning_rate * _RECIPE.row_rate)}),
    ),
    *_group(
        "sizes (default: 2, 16, 128)",
        *(
            (", ".join(map(str, dims)), {"dims": dims}, {})
            for dims in ((128,), (16, 128), (2, 16), (16, 64), (128, 128, 128))
        ),
    ),
]  # fmt: skip
