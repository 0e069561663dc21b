import polars as pl
import pytest

from autoemb.data import Interactions
from autoemb.errors import UserError


def make(size: int = 10, **columns: pl.Series) -> Interactions:
    return Interactions(
        **{
            "name": "n",
            "user": pl.Series(range(size), dtype=pl.Int64) % 3,
            "item": pl.Series([f"i{n}" for n in range(size)], dtype=pl.String),
            "rating": pl.Series([1.0] * size, dtype=pl.Float32),
            "timestamp": pl.Series(range(size), dtype=pl.Int64),
            "max_rating": 5.0,
            "format": "f",
            "skipped_rows": 4,
            **columns,
        }
    )


def test_counts() -> None:
    stream = make()
    assert (len(stream), stream.num_users, stream.num_items) == (10, 3, 10)


def test_head_is_a_prefix_with_its_own_counts() -> None:
    stream = make()
    assert stream.num_items == 10  # counted before: the prefix must not inherit it
    first = stream.head(2)
    assert (len(first), first.num_users, first.num_items) == (2, 2, 2)
    assert first.timestamp.to_list() == [0, 1]
    assert (first.max_rating, first.skipped_rows) == (5.0, 4)
    assert (len(stream.head(0)), len(stream.head(99))) == (0, 10)
    with pytest.raises(UserError, match="first -1 interactions"):
        stream.head(-1)


def test_shuffled_moves_whole_rows() -> None:
    stream = make(100)
    once, again, other = stream.shuffled(1), stream.shuffled(1), stream.shuffled(2)
    assert once.timestamp.to_list() == again.timestamp.to_list()
    assert once.timestamp.to_list() != other.timestamp.to_list()
    assert sorted(once.timestamp) == stream.timestamp.to_list() != once.timestamp.to_list()
    assert once.item.to_list() == [f"i{n}" for n in once.timestamp]
    assert once.user.to_list() == [n % 3 for n in once.timestamp]


def test_columns_must_fit() -> None:
    with pytest.raises(UserError, match="item has 9 values and rating has 10"):
        make(item=pl.Series(range(9), dtype=pl.Int64))
    with pytest.raises(UserError, match="rating is of type Float64; expected Float32"):
        make(rating=pl.Series([1.0] * 10))
    with pytest.raises(UserError, match="user is of type Int32; expected Int64 or String"):
        make(user=pl.Series(range(10), dtype=pl.Int32))
