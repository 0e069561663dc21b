"""Small trained runs to export."""

from collections import defaultdict

import pytest

from autoemb.data import synthetic
from autoemb.lab import RunConfig, run
from autoemb.lab.trained import load_trained

SMALL = {"dims": (1, 2, 4), "batch_size": 50, "reservoir": 100, "device": "cpu"}
SMALL |= {"hidden": (8,), "controller_hidden": (8,)}  # at 512 they take 90 % of the time


@pytest.fixture(scope="session")
def stream():
    """600 events of the synthetic stream."""
    return synthetic(600)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of runs by their options, so that none is made twice."""
    return defaultdict(lambda: tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def trained(folders, stream):
    """Return a function that runs a method and gives its state after 70 % of the stream."""

    def trained(**options):
        config = RunConfig(**SMALL | options)
        folder = folders[config]
        run(config, stream, folder, resume=True, checkpoint_at=0.7)
        return load_trained(folder)

    return trained
