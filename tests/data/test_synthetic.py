import time

import numpy as np
import polars as pl
import pytest

from autoemb.data import Dataset, synthetic
from autoemb.errors import UserError


@pytest.fixture(scope="module")
def stream() -> Dataset:
    return synthetic()


def test_same_seed_same_bytes(stream: Dataset) -> None:
    again, other = synthetic(), synthetic(seed=1)
    for name in ("user_id", "item_id", "rating", "timestamp"):
        column = stream.frame[name].to_numpy().tobytes()
        assert column == again.frame[name].to_numpy().tobytes()
        assert column != other.frame[name].to_numpy().tobytes()


def test_the_bytes_are_those_of_the_recorded_runs(stream: Dataset) -> None:
    assert stream.describe()["digest"] == "44f39a9296dc9732"


def test_size_and_labels(stream: Dataset) -> None:
    assert len(stream) == 100_000
    assert (stream.name, stream.format, stream.schema.label.scale[1]) == (
        "synthetic",
        "synthetic",
        5.0,
    )
    assert 2_000 <= stream.frame["user_id"].n_unique() <= 3_000
    assert 1_900 <= stream.frame["item_id"].n_unique() <= 2_000
    assert stream.frame["timestamp"].is_sorted()
    shares = np.bincount(stream.frame["rating"].to_numpy().astype(int), minlength=6) / len(stream)
    assert shares == pytest.approx([0, 0.06, 0.13, 0.31, 0.32, 0.18], abs=0.001)


def test_users_come_in_bursts(stream: Dataset) -> None:
    users = [
        stream.frame["user_id"][start : start + 500].n_unique() for start in range(0, 100_000, 500)
    ]
    assert 10 <= np.median(users) <= 30


def test_nobody_rates_twice(stream: Dataset) -> None:
    pairs = pl.DataFrame([stream.frame["user_id"], stream.frame["item_id"]])
    assert pairs.n_unique() == len(stream)


def test_popularity_is_skewed_and_drifts(stream: Dataset) -> None:
    counts = stream.frame["item_id"].value_counts(sort=True)["count"]
    assert counts[: len(counts) // 100].sum() > 0.1 * len(stream)
    assert counts.median() < 0.5 * counts.mean()
    quarter = len(stream) // 4
    top = [
        set(part.value_counts(sort=True)["item_id"][:50])
        for part in (stream.frame["item_id"].head(quarter), stream.frame["item_id"].tail(quarter))
    ]
    assert len(top[0] & top[1]) < 40


def test_newcomers_keep_appearing(stream: Dataset) -> None:
    last = len(stream) * 9 // 10
    for ids in (stream.frame["user_id"], stream.frame["item_id"]):
        assert len(set(ids[last:]) - set(ids[:last])) > 50


def test_taste_explains_more_than_averages_do(stream: Dataset) -> None:
    # Twice centred, rows and columns of popular ids must still go together.
    frame = pl.DataFrame([stream.frame["user_id"], stream.frame["item_id"], stream.frame["rating"]])
    popular = frame.filter(
        (pl.len().over("item_id") > 200) & (pl.len().over("user_id") > 100)
    ).with_columns(rest=pl.col("rating") - pl.col("rating").mean().over("user_id"))
    popular = popular.with_columns(rest=pl.col("rest") - pl.col("rest").mean().over("item_id"))
    matrix = (
        popular.pivot(on="item_id", index="user_id", values="rest").drop("user_id").fill_null(0)
    )
    rest = matrix.to_numpy()
    noise = np.random.default_rng(0).permuted(rest, axis=0)
    largest = [np.linalg.svd(values, compute_uv=False)[0] for values in (rest, noise)]
    assert largest[0] > 1.3 * largest[1]


@pytest.mark.parametrize("size", [1, 2, 499, 3_000])
def test_other_sizes(size: int) -> None:
    assert len(synthetic(size, seed=5)) == size
    assert len(synthetic(size, num_items=1)) == size  # nobody rates it twice
    assert synthetic(size, num_items=1).describe()["users"] == size


def test_ids_are_no_row_numbers(stream: Dataset) -> None:
    assert stream.frame["user_id"].max() > 2 * stream.frame["user_id"].n_unique()
    assert stream.frame["item_id"].max() > 2 * stream.frame["item_id"].n_unique()


@pytest.mark.parametrize(
    "options", [{"num_events": 0}, {"num_users": 0}, {"num_items": -1}, {"seed": -1}]
)
def test_arguments_out_of_range(options: dict[str, int]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"{name} is {value}; expected"):
        synthetic(**options)


def test_fast_enough_to_be_a_default() -> None:
    start = time.process_time()  # not that of whoever else is busy on this machine
    synthetic()
    assert time.process_time() - start < 2
