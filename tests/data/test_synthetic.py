import time

import numpy as np
import polars as pl
import pytest

from autoemb.data import Interactions, synthetic
from autoemb.errors import UserError


@pytest.fixture(scope="module")
def stream() -> Interactions:
    return synthetic()


def test_same_seed_same_bytes(stream: Interactions) -> None:
    again, other = synthetic(), synthetic(seed=1)
    for name in ("user", "item", "rating", "timestamp"):
        column = getattr(stream, name).to_numpy().tobytes()
        assert column == getattr(again, name).to_numpy().tobytes()
        assert column != getattr(other, name).to_numpy().tobytes()


def test_size_and_labels(stream: Interactions) -> None:
    assert len(stream) == 100_000
    assert (stream.name, stream.format, stream.max_rating) == ("synthetic", "synthetic", 5.0)
    assert 2_000 <= stream.num_users <= 3_000
    assert 1_900 <= stream.num_items <= 2_000
    assert stream.timestamp.is_sorted()
    shares = np.bincount(stream.rating.to_numpy().astype(int), minlength=6) / len(stream)
    assert shares == pytest.approx([0, 0.06, 0.13, 0.31, 0.32, 0.18], abs=0.001)


def test_users_come_in_bursts(stream: Interactions) -> None:
    users = [stream.user[start : start + 500].n_unique() for start in range(0, 100_000, 500)]
    assert 10 <= np.median(users) <= 30


def test_nobody_rates_twice(stream: Interactions) -> None:
    pairs = pl.DataFrame([stream.user, stream.item])
    assert pairs.n_unique() == len(stream)


def test_popularity_is_skewed_and_drifts(stream: Interactions) -> None:
    counts = stream.item.value_counts(sort=True)["count"]
    assert counts[: len(counts) // 100].sum() > 0.1 * len(stream)
    assert counts.median() < 0.5 * counts.mean()
    quarter = len(stream) // 4
    top = [
        set(part.value_counts(sort=True)["item"][:50])
        for part in (stream.item.head(quarter), stream.item.tail(quarter))
    ]
    assert len(top[0] & top[1]) < 40


def test_newcomers_keep_appearing(stream: Interactions) -> None:
    last = len(stream) * 9 // 10
    for ids in (stream.user, stream.item):
        assert len(set(ids[last:]) - set(ids[:last])) > 50


def test_taste_explains_more_than_averages_do(stream: Interactions) -> None:
    # Twice centred, rows and columns of popular ids must still go together.
    frame = pl.DataFrame([stream.user, stream.item, stream.rating])
    popular = frame.filter(
        (pl.len().over("item") > 200) & (pl.len().over("user") > 100)
    ).with_columns(rest=pl.col("rating") - pl.col("rating").mean().over("user"))
    popular = popular.with_columns(rest=pl.col("rest") - pl.col("rest").mean().over("item"))
    matrix = popular.pivot(on="item", index="user", values="rest").drop("user").fill_null(0)
    rest = matrix.to_numpy()
    noise = np.random.default_rng(0).permuted(rest, axis=0)
    largest = [np.linalg.svd(values, compute_uv=False)[0] for values in (rest, noise)]
    assert largest[0] > 1.3 * largest[1]


@pytest.mark.parametrize("size", [1, 2, 499, 3_000])
def test_other_sizes(size: int) -> None:
    assert len(synthetic(size, seed=5)) == size
    assert len(synthetic(size, num_items=1)) == size  # nobody rates it twice
    assert synthetic(size, num_items=1).num_users == size


def test_ids_are_no_row_numbers(stream: Interactions) -> None:
    assert stream.user.max() > 2 * stream.num_users
    assert stream.item.max() > 2 * stream.num_items


@pytest.mark.parametrize(
    "options", [{"num_interactions": 0}, {"num_users": 0}, {"num_items": -1}, {"seed": -1}]
)
def test_arguments_out_of_range(options: dict[str, int]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"{name} is {value}; expected"):
        synthetic(**options)


def test_fast_enough_to_be_a_default() -> None:
    start = time.perf_counter()
    synthetic()
    assert time.perf_counter() - start < 2
