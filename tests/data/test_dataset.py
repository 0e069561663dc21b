import dataclasses

import numpy as np
import polars as pl
import pytest

from autoemb.data import Dataset
from autoemb.errors import UserError
from autoemb.schema import RATINGS, STARS, Bag, Label, Schema, Sparse

SCHEMA = RATINGS.model_copy(update={"label": STARS})


def make(size: int = 10, **columns: pl.Series) -> Dataset:
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(range(size), dtype=pl.Int64) % 3,
            "item_id": pl.Series([f"i{n}" for n in range(size)], dtype=pl.String),
            "rating": pl.Series([1.0] * size, dtype=pl.Float32),
            "timestamp": pl.Series(range(size), dtype=pl.Int64),
        }
    )
    return Dataset("n", "f", SCHEMA, frame.with_columns(**columns), skipped_rows=4)


def test_description() -> None:
    about = make().describe()
    assert about.pop("digest") != make(9).describe()["digest"]
    assert about == {
        "name": "n", "format": "f", "interactions": 10, "users": 3, "items": 10,
        "features": {"user_id": 3, "item_id": 10}, "skipped_rows": 4,
    }  # fmt: skip


def test_the_digest_sees_every_column_and_the_order() -> None:
    data = make()
    changed = [
        data.shuffled(1),
        *(make(**{name: data.frame[name].reverse()}) for name in ("user_id", "item_id")),
        make(rating=pl.Series([2.0] * 10, dtype=pl.Float32)),
        make(timestamp=pl.Series([7] * 10)),
    ]
    digests = {each.describe()["digest"] for each in (data, *changed)}
    assert len(digests) == 6
    assert make().describe()["digest"] == data.describe()["digest"]


def test_where_a_bag_ends_is_part_of_the_digest() -> None:
    schema = Schema(label=Label(column="c", kind="click"), bag=(Bag(column="b"),), timestamp=None)
    digests = set()
    for bags in ([[1, 2], [3]], [[1], [2, 3]]):
        frame = pl.DataFrame({"b": bags, "c": pl.Series([0, 1], dtype=pl.Float32)})
        about = Dataset("n", "f", schema, frame).describe()
        assert (about["users"], about["items"], about["features"]) == (None, None, {"b": 3})
        digests.add(about["digest"])
    assert len(digests) == 2


def test_head_is_a_prefix_with_its_own_counts() -> None:
    data = make()
    assert data.describe()["items"] == 10  # counted before: the prefix must not inherit it
    first = data.head(2)
    assert (len(first), first.describe()["items"], first.skipped_rows) == (2, 2, 4)
    assert first.frame["timestamp"].to_list() == [0, 1]
    assert (len(data.head(0)), len(data.head(99))) == (0, 10)
    with pytest.raises(UserError, match="first -1 events"):
        data.head(-1)


def test_shuffled_moves_whole_rows_as_numpy_permutes() -> None:
    data = make(100)
    once, again, other = data.shuffled(1), data.shuffled(1), data.shuffled(2)
    assert once.frame.equals(again.frame)
    assert not once.frame.equals(other.frame)
    assert once.frame["timestamp"].to_list() == np.random.default_rng(1).permutation(100).tolist()
    for user, item, _, time in once.frame.rows():
        assert (user, item) == (time % 3, f"i{time}")


def test_columns_must_fit() -> None:
    with pytest.raises(UserError, match="n: rating is of type Float64; expected Float32"):
        make(rating=pl.Series([1.0] * 10))
    with pytest.raises(UserError, match="user_id is of type Int32; expected Int64 or String"):
        make(user_id=pl.Series(range(10), dtype=pl.Int32))
    with pytest.raises(UserError, match="user_id holds nulls"):
        make(user_id=pl.Series([None, *range(9)]))
    with pytest.raises(UserError, match=r"the columns are .*, more; expected the schema"):
        make(more=pl.Series([1] * 10))
    with pytest.raises(UserError, match="the rating has no scale"):
        dataclasses.replace(make(), schema=RATINGS)
    shared = tuple(Sparse(column=name, table="t") for name in ("user_id", "item_id"))
    with pytest.raises(UserError, match="share the table t and hold integers and text"):
        dataclasses.replace(make(), schema=SCHEMA.model_copy(update={"sparse": shared}))
