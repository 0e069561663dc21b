"""Events of any shape: one data set from every kind of file, and its batches."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.batch import MISSING
from autoemb.data import Dataset, load
from autoemb.schema import Bag, Dense, Label, Schema, Sparse

SCHEMA = Schema(
    label=Label(column="click", kind="click"),
    sparse=(Sparse(column="user"), Sparse(column="city")),
    bag=(Bag(column="past", table="user", weights="strength", counts=False),),
    dense=(Dense(column="price"),),
    timestamp="at",
    weight="worth",
    event_id="event",
)
single = st.floats(0, 100, width=32).map(lambda x: round(x, 3))
bags = st.lists(st.tuples(st.integers(0, 2**63 - 1) | st.integers(-9, 9), single), max_size=4)
events = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.integers(0, 2**63 - 1) | st.integers(-9, 9),
            "city": st.sampled_from(["Rome", "São Paulo", "'s-Hertogenbosch", "a, b", None]),
            "pairs": bags,
            "price": st.none() | single,
            "click": st.integers(0, 1),
            "at": st.integers(0, 5),
            "worth": single,
        }
    ),
    min_size=1,
    max_size=20,
)


def rows_of(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for number, event in enumerate(drawn):
        row = {key: value for key, value in event.items() if key != "pairs"}
        row["past"] = [id for id, _ in event["pairs"]]
        row["strength"] = [weight for _, weight in event["pairs"]]
        rows.append(row | {"event": f"e{number}"})
    return rows


TYPES = {"past": pl.List(pl.Int64), "strength": pl.List(pl.Float64), "city": pl.String,
         "price": pl.Float64}  # fmt: skip


def _text(row: dict[str, Any]) -> dict[str, Any]:
    def cell(value: Any) -> Any:
        return "|".join(map(str, value)) if isinstance(value, list) else value

    return {key: cell(value) for key, value in row.items()}


def write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> None:
    pl.DataFrame([_text(row) for row in rows], schema_overrides={"city": pl.String,
                 "price": pl.Float64}).write_csv(path, separator=separator)  # fmt: skip


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> None:
    write_csv(path, rows, "\t")
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pl.DataFrame(rows, schema_overrides=TYPES).write_parquet(path)


def write_zip(path: Path, rows: list[dict[str, Any]]) -> None:
    inside = path.with_suffix(".inside")
    write_csv(inside, rows, ";")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/README", "About the events\n")
        archive.write(inside, "set/events.csv")
    inside.unlink()


WRITERS = {
    "csv": write_csv, "gzip": write_gzip, "jsonl": write_jsonl, "parquet": write_parquet,
    "zip": write_zip,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_events(kind: str, tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(events)
    def check(drawn: list[dict[str, Any]]) -> None:
        rows = rows_of(drawn)
        WRITERS[kind](tmp_path / "events", rows)
        data = load(tmp_path / "events", schema=SCHEMA)
        ordered = sorted(rows, key=lambda row: row["at"])
        frame = data.frame
        assert frame.columns == list(SCHEMA.columns)
        assert frame["user"].to_list() == [row["user"] for row in ordered]
        cities = [row["city"] for row in ordered]
        # A column of no ids is of no kind in text, and one id of either kind stands for all.
        none = "" if frame["city"].dtype == pl.String or any(cities) else MISSING
        assert frame["city"].to_list() == [city or none for city in cities]
        assert frame["past"].to_list() == [row["past"] for row in ordered]
        expected = [np.float32(row["strength"]).tolist() for row in ordered]
        assert frame["strength"].to_list() == expected
        price = [np.nan if row["price"] is None else row["price"] for row in ordered]
        np.testing.assert_array_equal(frame["price"].to_numpy(), np.float32(price))
        assert frame["click"].to_list() == [row["click"] for row in ordered]
        assert frame["event"].to_list() == [row["event"] for row in ordered]
        assert frame["worth"].to_list() == np.float32([row["worth"] for row in ordered]).tolist()

    check()


def make(rows: int = 100, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    past = [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(rows)]
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, 9, rows),
            "city": [f"c{n % 7}" for n in range(rows)],
            "past": pl.Series(past, dtype=pl.List(pl.Int64)),
            "strength": pl.Series([[0.5] * len(p) for p in past], dtype=pl.List(pl.Float32)),
            "price": rng.normal(size=rows).astype(np.float32),
            "click": rng.integers(0, 2, rows).astype(np.float32),
            "at": np.arange(rows),
            "worth": np.ones(rows, np.float32),
            "event": [f"e{n}" for n in range(rows)],
        }
    )
    return Dataset("made", "by hand", SCHEMA, frame)


@pytest.mark.parametrize("size", [1, 7, 33, 100])
def test_batches_put_together_are_the_events(size: int) -> None:
    data = make()
    events = data.events()
    batches = [events.batch(at, min(at + size, 100)) for at in range(0, 100, size)]
    assert np.concatenate([b.sparse["user"] for b in batches]).tolist() == list(data.frame["user"])
    assert [c for b in batches for c in b.sparse["city"]] == list(data.frame["city"])
    past = []
    for batch in batches:
        bag = batch.bags["past"]
        assert bag.offsets[0] == 0
        assert len(bag.values) == len(bag.weights) == bag.offsets[-1]
        past += [
            bag.values[a:b].tolist() for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)
        ]
    assert past == data.frame["past"].to_list()
    assert [len(b) for b in batches] == [len(b.label) for b in batches]
    assert [len(b.dense) for b in batches] == [len(b.timestamp) for b in batches]
    assert [e for b in batches for e in b.event_id] == list(data.frame["event"])


def test_events_that_there_are_not() -> None:
    events = make().events()
    assert len(events.batch(5, 5)) == 0
    for start, stop in ((-1, 5), (5, 4), (90, 101)):
        with pytest.raises(IndexError, match="of 100"):
            events.batch(start, stop)


def test_a_table_of_integers_takes_text_columns_that_hold_integers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": ["2", None], "click": [0, 1]})
    frame.write_parquet(tmp_path / "x")
    schema = Schema(
        label=Label(column="click", kind="click"),
        sparse=(Sparse(column="a", table="t"), Sparse(column="b", table="t")),
        timestamp=None,
    )
    found = load(tmp_path / "x", schema=schema).frame
    assert found.schema["b"] == pl.Int64
    assert found["b"][0] == 2
    frame.with_columns(b=pl.Series(["2", "unknown"])).write_parquet(tmp_path / "x")
    found = load(tmp_path / "x", schema=schema).frame
    assert found["a", "b"].rows() == [("1", "2"), ("2", "unknown")]


def test_the_known_file_of_an_archive_is_read(write: Callable[..., Path]) -> None:
    path = write(b"", "ml-100k.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-100k/README", "SUMMARY\n")
        archive.writestr("ml-100k/u.item", "1|Toy Story\n")
        archive.writestr("ml-100k/u.data", "1\t2\t3\t4\n5\t6\t5\t1\n")
        archive.writestr("__MACOSX/ml-100k/._u.data", b"\0\0")
    data = load(path)
    assert (data.format, data.name, data.frame["user_id"].to_list()) == (
        "MovieLens 100K", "ml-100k.zip", [5, 1]
    )  # fmt: skip
