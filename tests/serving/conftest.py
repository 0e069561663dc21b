"""Small trained runs to export: of ratings, and of events of every shape."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from autoemb.data import synthetic
from autoemb.data.dataset import Dataset
from autoemb.lab import RunConfig, run
from autoemb.lab.trained import load_trained
from autoemb.schema import Bag, Dense, Label, Schema, Sparse

SMALL = {"dims": (1, 2, 4), "batch_size": 50, "reservoir": 100, "device": "cpu"}
SMALL |= {"hidden": (8,), "controller_hidden": (8,)}  # at 512 they take 90 % of the time

RICH = Schema(
    label=Label(column="click", kind="click"),
    sparse=(
        Sparse(column="user_id"),
        Sparse(column="item_id"),
        Sparse(column="prev_item", table="item_id", counts=False),
    ),
    bag=(
        Bag(column="tags", weights="shares"),
        Bag(column="seen", table="item_id", pooling="sum"),
        Bag(column="rivals", counts=False),  # whose ids no event counts for
        Bag(column="never"),  # always empty
    ),
    dense=(Dense(column="price", transform="log1p"), Dense(column="step", transform="none")),
)


def rich_events(events=600, seed=0):
    """Make up clicks with shared tables, bags and dense features, some of it missing."""
    random = np.random.default_rng(seed)

    def ids(number, size=events):
        return np.sqrt(random.random(size) * number**2).astype(np.int64)

    def lists(number, most=4):
        lengths = random.integers(0, most, events)
        return [ids(number, length).tolist() for length in lengths]

    tags = lists(12)
    users = ids(40) * 10**10
    price = random.exponential(50, events).astype(np.float32)
    price[random.random(events) < 0.2] = np.nan
    columns = {
        "user_id": users,
        "item_id": ids(60),
        "prev_item": ids(60),
        "tags": pl.Series([[f"tag {t}" for t in own] for own in tags], dtype=pl.List(pl.String)),
        "shares": pl.Series([random.random(len(own)).tolist() for own in tags],
                            dtype=pl.List(pl.Float32)),
        "seen": pl.Series(lists(60, 6), dtype=pl.List(pl.Int64)),
        "rivals": pl.Series(lists(20), dtype=pl.List(pl.Int64)),
        "never": pl.Series([[]] * events, dtype=pl.List(pl.Int64)),
        "price": price,
        "step": random.integers(0, 3, events).astype(np.float32),
        "click": (random.random(events) < 0.2 + 0.6 * (users % 3 == 0)).astype(np.float32),
        "timestamp": np.arange(events, dtype=np.int64),
    }  # fmt: skip
    frame = pl.DataFrame(columns).select(RICH.columns)
    return Dataset(name="rich", format="by hand", schema=RICH, frame=frame)


@pytest.fixture(scope="session")
def ratings():
    """600 events of the synthetic stream."""
    return synthetic(600)


@pytest.fixture(scope="session")
def rich():
    """600 clicks with features of every kind."""
    return rich_events()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of runs by their data and options, so that none is made twice."""
    return defaultdict(lambda: tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def few_steps(monkeypatch):
    """Fit narrow rows in a fifth of the time, not as well."""
    monkeypatch.setattr("autoemb.serving.fit.STEPS", 60)


@pytest.fixture
def trained(folders, ratings):
    """Return a function that runs a method and gives its state after 70 % of the stream."""

    def trained(dataset=ratings, **options):
        config = RunConfig(**SMALL | options)
        folder = folders[dataset.name, repr(config)]
        run(config, dataset, folder, resume=True, checkpoint_at=0.7)
        return load_trained(folder)

    return trained
