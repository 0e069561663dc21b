"""Small networks, small streams, and recorded files as Python objects."""

import json

import polars as pl
import pytest

from autoemb.data import Dataset, synthetic
from autoemb.lab import RunConfig
from autoemb.schema import RATINGS, STARS


@pytest.fixture(scope="session")
def stream():
    """300 events of the synthetic stream."""
    return synthetic(300)


@pytest.fixture(scope="session")
def make_config():
    """Return a function that makes options which suit ``stream``, but for those given."""

    def make(**options):
        # Hidden layers of 512 take 90 % of the time.
        small = {"dims": (1, 2), "batch_size": 20, "window": 50, "reservoir": 100, "device": "cpu"}
        small |= {"hidden": (8,), "controller_hidden": (8,)}
        return RunConfig(**small | options)

    return make


@pytest.fixture(scope="session")
def make_stream():
    """Return a function that makes a stream of so many events, all by hand."""

    def make(events, name="by hand"):
        number = pl.Series(range(events), dtype=pl.Int64)
        frame = pl.DataFrame(
            {
                "user_id": number % 3,
                "item_id": number % 5 + 10,
                "rating": (number % 5 + 1).cast(pl.Float32),
                "timestamp": number * 60,
            }
        )
        schema = RATINGS.model_copy(update={"label": STARS})
        return Dataset(name=name, format="by hand", schema=schema, frame=frame)

    return make


@pytest.fixture(scope="session")
def read_metrics():
    """Return the lines of a metrics.jsonl as strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    def read(path):
        text = path.read_text(encoding="utf-8")
        assert text == "" or text.endswith("\n")
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    return read


@pytest.fixture(scope="session")
def numbers():
    """Return a summary without what differs between two equal runs: how long they took."""

    def drop(summary):
        return {
            key: value
            for key, value in summary.items()
            if key not in ("seconds", "interactions_per_second")
        }

    return drop
