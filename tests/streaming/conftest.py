"""Small learners and streams, and comparison of states to the last bit."""

from functools import partial

import numpy as np
import pytest
import torch

from autoemb.experiment import RunConfig, methods
from autoemb.streaming import Events, learner

BATCH = 6


@pytest.fixture
def make_learner(monkeypatch):
    """Return a function that builds a small untrained learner whose tables start with four rows."""
    for module in (learner, methods):
        monkeypatch.setattr(module, "INITIAL_ROWS", 4)
    for name in ("RatingModel", "Controller"):  # at 512 wide the layers take 90 % of the time
        monkeypatch.setattr(methods, name, partial(getattr(methods, name), hidden=(8,)))

    def make(method="autoemb", **options):
        options = {"dims": (1, 2), "batch_size": BATCH, "reservoir": 20, "seed": 0} | options
        # Rates at which a step shows in float32 predictions at once.
        rates = {"learning_rate": 0.01, "controller_learning_rate": 0.01}
        return methods.build_learner(RunConfig(method=method, **rates | options), fields=2)

    return make


@pytest.fixture(scope="session")
def make_batches():
    """Return a function that makes up a stream; new ids appear in every batch."""

    def make(count, size=BATCH, seed=0):
        random = np.random.default_rng(seed)
        batches = []
        for i in range(count):
            newest = 3 * (i + 1)
            ids = [random.integers(0, newest, size) * step + 5 for step in (10**12, 7)]
            label = torch.from_numpy(random.random(size)).float()
            batches.append(Events(ids, label, np.arange(size) + i * size))
        return batches

    return make


@pytest.fixture(scope="session")
def flat():
    """Return the values of a nested state_dict by their path, as copies."""

    def flatten(value, path=""):
        if isinstance(value, dict):
            value = value.items()
        elif isinstance(value, list | tuple):
            value = enumerate(value)
        elif isinstance(value, np.ndarray):
            return {path: torch.from_numpy(value.copy())}
        else:
            return {path: value.detach().clone() if isinstance(value, torch.Tensor) else value}
        return {
            inner: leaf
            for key, entry in value
            for inner, leaf in flatten(entry, f"{path}/{key}").items()
        }

    return flatten


@pytest.fixture(scope="session")
def changes(flat):
    """Return the paths at which two nested states differ in any bit."""

    def compare(first, second):
        first, second = flat(first), flat(second)

        def same(path):
            a, b = first.get(path), second.get(path)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
                return a.dtype == b.dtype and torch.equal(a, b)
            return type(a) is type(b) and a == b

        return sorted(path for path in first.keys() | second.keys() if not same(path))

    return compare
