"""A whole step of StreamLearner.learn by the number of features, recorded.

``OMP_NUM_THREADS=1 python -m bench.test_features`` writes ``bench/results/features.json``;
``pytest bench/test_features.py --benchmark-only`` times without recording. The first hidden layer
reads every embedding, so its products alone grow by the ratio that "hidden layers" has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch

from autoemb import Bag, Batch, Label, Recipe, Schema, Sparse, build_learner
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Dense
from bench import products
from bench.harness import write

BATCH = 500
#: Sparse features, bags, dense features.
SHAPES = {"2": (2, 0, 0), "8": (8, 0, 0), "26": (26, 2, 10)}
#: Distinct ids of the features, in turns; the first two are users and items.
VOCABULARIES = {
    "mixed": (100_000, 100_000, 30, 3000, 10, 300),
    "alike": (100_000,),
}
#: The default, and the controller that the paper has.
RECIPES = {
    "default": Recipe(),
    "separate 512x512": Recipe(
        controller="separate", controller_hidden=(512, 512), controller_learning_rate=0.002
    ),
}
#: Times that a step with 26 features takes that with 2 at most.
BAR = 5.0


def schema_of(shape: tuple[int, int, int]) -> Schema:
    sparse, bags, dense = shape
    return Schema(
        label=Label(column="click", kind="click"),
        sparse=[Sparse(column=f"sparse {n}") for n in range(sparse)],
        bag=[BagFeature(column=f"bag {n}") for n in range(bags)],
        dense=[Dense(column=f"dense {n}") for n in range(dense)],
    )


def batches(schema: Schema, vocabulary: Sequence[int], count: int, seed: int = 0) -> list[Batch]:
    """Return batches whose ids have Zipf-like popularity; a bag holds 0 to 5."""
    random = np.random.default_rng(seed)
    most = dict(zip((f.column for f in schema.features), cycle(vocabulary)))

    def ids(name: str, number: int) -> np.ndarray:
        return (most[name] ** random.random(number)).astype(np.int64)

    def bag(name: str) -> Bag:
        offsets = np.concatenate([[0], random.integers(0, 6, BATCH).cumsum()])
        return Bag(ids(name, offsets[-1]), offsets)

    return [
        Batch(
            {feature.column: ids(feature.column, BATCH) for feature in schema.sparse},
            {feature.column: bag(feature.column) for feature in schema.bag},
            torch.from_numpy(random.normal(size=(BATCH, len(schema.dense)))).float(),
            label=torch.from_numpy(random.integers(0, 2, BATCH)).float(),
        )
        for _ in range(count)
    ]


def step(shape: str, vocabulary: str, recipe: str, warm: int = 20) -> Callable[[], None]:
    """Return a step of a learner that has learnt some batches; it goes on with new ones."""
    schema = schema_of(SHAPES[shape])
    learner = build_learner(schema, "click", RECIPES[recipe])
    made = batches(schema, VOCABULARIES[vocabulary], warm + 20)
    for batch in made[:warm]:
        learner.learn(batch)
    coming = cycle(made[warm:])
    return lambda: learner.learn(next(coming))


def hidden_layers(shape: str) -> Callable[[], None]:
    """Return the bare products of the model's hidden layers."""
    sparse, bags, dense = SHAPES[shape]
    widths = (128 * (sparse + bags) + 2 * dense, 512, 512, 1)
    options = {"weight_grads": True, "backward": True, "input_grad": True}
    return products.bare_onednn(products.network(BATCH, widths, **options))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_step(benchmark, shape: str, vocabulary: str) -> None:
    benchmark.group = f"step by features, {vocabulary}"
    benchmark.pedantic(step(shape, vocabulary, "default"), rounds=10, warmup_rounds=3)


def measure(cases: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    """Return milliseconds of the process's own time, the cases in turns: least and median.

    Each turn begins with a call that is not timed, as in :func:`bench.harness.alternate`. Own time:
    on a shared machine the clock on the wall measures the others.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            case()
            start = time.process_time()
            case()
            found[name].append(1e3 * (time.process_time() - start))
    numbers = {
        name: {"least_ms": round(min(own), 2), "median_ms": round(float(np.median(own)), 2)}
        for name, own in found.items()
    }
    two, most = numbers["2"], numbers["26"]
    return {
        "cases": numbers,
        "times_two_features": {
            kind: round(most[f"{kind}_ms"] / two[f"{kind}_ms"], 2) for kind in ("least", "median")
        },
    }


def record(rounds: int = 10) -> None:
    results = []
    for vocabulary in VOCABULARIES:
        for recipe in RECIPES:
            cases = {shape: step(shape, vocabulary, recipe) for shape in SHAPES}
            results.append({"vocabulary": vocabulary, "recipe": recipe} | measure(cases, rounds))
    bare = measure({shape: hidden_layers(shape) for shape in SHAPES}, rounds)
    write(
        "features",
        {
            "command": "OMP_NUM_THREADS=1 python -m bench.test_features",
            "what": "StreamLearner.learn, batch 500, by number of sparse features; 26 are with 2 "
            "bags and 10 dense features; new ids keep coming; time of the process",
            "vocabularies": VOCABULARIES,
            "bar": BAR,
            "results": results,
            "hidden_layers": bare,
        },
    )


if __name__ == "__main__":
    record()
