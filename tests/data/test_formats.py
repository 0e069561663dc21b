import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from autoemb.data import Dataset, load
from autoemb.errors import UserError
from autoemb.schema import Label, Schema, Sparse

HEADER = "user_id,item_id,rating,timestamp\n"
DAY = 86_400
ROWS = [(7, 30, 4.0, 5 * DAY), (7, 10, 2.0, 3 * DAY), (9, 30, 5.0, 3 * DAY), (3, 20, 1.0, DAY)]

Write = Callable[..., Path]


def rows_of(stream: Dataset) -> list[tuple[object, ...]]:
    return stream.frame.rows()


def test_every_layout_gives_the_same_stream(layout, tmp_path: Path) -> None:
    writer, format, _ = layout
    stream = load(writer(tmp_path, ROWS))
    assert stream.format == format
    assert stream.schema.label.scale[1] == 5.0
    assert stream.skipped_rows == 0
    assert [s.dtype for s in (stream.frame["user_id"], stream.frame["item_id"])] == [
        pl.Int64,
        pl.Int64,
    ]
    # Netflix's files go by movie, so rows of one day are in that order there.
    assert sorted(rows_of(stream), key=lambda row: row[3]) == rows_of(stream)
    assert sorted(rows_of(stream)) == sorted(ROWS)


def test_every_layout_is_found_in_its_folder(layout, tmp_path: Path) -> None:
    writer, format, _ = layout
    folder = tmp_path / "my-data"
    folder.mkdir()
    writer(folder, ROWS)
    stream = load(folder)
    assert (stream.format, stream.name, len(stream)) == (format, "my-data", len(ROWS))


def test_the_name_of_a_file_decides_nothing(layout, tmp_path: Path) -> None:
    writer, format, _ = layout
    path = writer(tmp_path, ROWS)
    if path.is_dir():
        pytest.skip("this layout is a folder")
    renamed = path.rename(tmp_path / "[what]* ever.bin")
    stream = load(renamed)
    assert (stream.format, stream.name) == (format, "[what]* ever.bin")


def test_rows_of_one_second_keep_the_order_of_the_file(write: Write) -> None:
    rows = "".join(f"{user},1,3,{100 + user % 2}\n" for user in range(1000))
    stream = load(write(HEADER + rows))
    assert stream.frame["user_id"].to_list() == [*range(0, 1000, 2), *range(1, 1000, 2)]


def test_duplicates_are_events(write: Write) -> None:
    assert len(load(write(HEADER + "1,2,3,4\n" * 3))) == 3


@pytest.mark.parametrize(
    ("rows", "format", "top"),
    [
        ("1::2::5::4\n1::3::1::4\n", "MovieLens 1M", 5.0),
        ("1::2::0.5::4\n1::3::5::4\n", "MovieLens 10M", 5.0),
        ("1::0054890::10::4\n2::1408101::0::4\n", "MovieTweetings", 10.0),
        ("1::2::1::4\n", "MovieLens 1M", 5.0),
    ],
)
def test_sets_of_one_layout_are_told_by_their_ratings(write: Write, rows, format, top) -> None:
    stream = load(write(rows, "ratings.dat"))
    assert (stream.format, stream.schema.label.scale[1]) == (format, top)


def test_leading_zeros_are_no_part_of_an_id_that_its_publisher_numbers(write: Write) -> None:
    assert load(write("1::0054890::10::4\n")).frame["item_id"].to_list() == [54890]


@pytest.mark.parametrize(
    ("ratings", "top"),
    [("0 1", 1.0), ("0.5 5", 5.0), ("0 5.5", 10.0), ("0 10", 10.0), ("11", 100.0), ("100", 100.0)],
)
def test_scale_of_other_files(write: Write, ratings: str, top: float) -> None:
    rows = "".join(f"1,2,{rating},4\n" for rating in ratings.split())
    assert load(write(HEADER + rows)).schema.label.scale[1] == top


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER.encode() + b"1,2,3.5,4\n",
        HEADER.encode() + b"1,2,3.5,4",
        HEADER.encode() + b"1,2,3.5,4\n\n \n\n",
        b"\n\n" + HEADER.encode() + b"\n1,2,3.5,4\n",
        (HEADER + "1,2,3.5,4\n\n").replace("\n", "\r\n").encode(),
        b"user_id, item_id, rating, timestamp\n 1, 2, 3.5, 4 \n",
        b"x,timestamp,rating,item_id,user_id\ncaf\xe9,4,3.5,2,1\n",
        gzip.compress(HEADER.encode() + b"1,2,3.5,4\n"),
        gzip.compress(HEADER.encode() + b'"1",2,3.5,4\n'),
        b'"user_id","item_id","rating","timestamp"\r\n"1",2,3.5,"4"\r\n\r\n',
    ],
    ids=[
        "bom",
        "no-end",
        "blank",
        "blank-first",
        "crlf",
        "spaces",
        "latin1-elsewhere",
        "gzip",
        "gzip-quoted",
        "quoted",
    ],
)
def test_variations_of_csv(write: Write, content: bytes) -> None:
    assert rows_of(load(write(content))) == [(1, 2, 3.5, 4)]


def test_byte_order_mark_without_a_header(write: Write) -> None:
    assert rows_of(load(write(b"\xef\xbb\xbf1\t2\t3\t4\n"))) == [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        ("4 9.99 1e3", [4, 9, 1000]),
        ("1970-01-02 1970-01-03", [DAY, 2 * DAY]),
        (
            "1970-01-02T00:00:01Z 1970-01-02T02:00:01.5+01:00 1970-01-03",
            [DAY + 1, DAY + 3601, 2 * DAY],
        ),
    ],
)
def test_timestamps_of_text(write: Write, texts: str, seconds: list[int]) -> None:
    rows = "".join(f"1,2,3,{text}\n" for text in texts.split())
    assert load(write(HEADER + rows)).frame["timestamp"].to_list() == seconds


@pytest.mark.parametrize(
    "dtype", [pl.Int32, pl.UInt64, pl.Float64, pl.Datetime("ms"), pl.Datetime("ns", "Asia/Tokyo")]
)
def test_timestamps_of_parquet(tmp_path: Path, dtype: pl.DataType) -> None:
    moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    value = (
        pl.Series([moment]) if isinstance(dtype, pl.Datetime) else pl.Series([moment.timestamp()])
    )
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.dt.convert_time_zone(dtype.time_zone)
    elif isinstance(dtype, pl.Datetime):
        value = value.dt.replace_time_zone(None)
    frame = pl.DataFrame({"user_id": [1], "item_id": [2], "rating": [3]})
    frame.with_columns(timestamp=value.cast(dtype)).write_parquet(tmp_path / "x")
    assert load(tmp_path / "x").frame["timestamp"].to_list() == [int(moment.timestamp())]


def test_text_ids(write: Write) -> None:
    ids = ["u1", "été", "茶", "12345678901234567890"]
    stream = load(write(HEADER + "".join(f"{id},7,3,{t}\n" for t, id in enumerate(ids))))
    assert stream.frame["user_id"].to_list() == ids
    assert (stream.frame["user_id"].dtype, stream.frame["item_id"].dtype) == (pl.String, pl.Int64)


def test_text_ids_of_parquet_stay_text(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "user_id": pl.Series(["01", "1"], dtype=pl.Categorical),
            "item_id": ["7", "007"],
            "rating": [1, 5],
            "timestamp": [1, 2],
        }
    ).write_parquet(tmp_path / "x")
    stream = load(tmp_path / "x")
    assert (stream.frame["user_id"].to_list(), stream.frame["item_id"].to_list()) == (
        ["01", "1"],
        ["7", "007"],
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson"])
def test_columns_can_have_any_names(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame(
        {"row": [1], "problem": [5], "text": ["a"], "c0": [3], "at": [9], "fields": [6]}
    )
    getattr(frame, f"write_{kind}")(tmp_path / "x")
    schema = Schema(
        label=Label(column="c0", kind="rating", scale=(0, 5)),
        sparse=tuple(Sparse(column=name) for name in ("text", "problem", "row", "fields")),
        timestamp="at",
    )
    found = load(tmp_path / "x", schema=schema)
    assert found.frame.rows(named=True) == [
        {"text": "a", "problem": 5, "row": 1, "fields": 6, "c0": 3, "at": 9}
    ]
    assert found.unused == ()


def test_quoted_fields(write: Write) -> None:
    rows = '"a, ""b""",x,3,1,"long\n\ntext"\nc,"y",5,2,"z"\n'
    stream = load(write(HEADER.strip() + ",review\n" + rows))
    assert rows_of(stream) == [('a, "b"', "x", 3, 1), ("c", "y", 5, 2)]


def test_parts_of_netflix_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for part in (10, 9, 1):
        (tmp_path / f"combined_data_{part}.txt").write_text(f"{part}:\n{part},3,2005-01-01\n")
    stream = load(tmp_path)
    assert stream.frame["item_id"].to_list() == stream.frame["user_id"].to_list() == [1, 9, 10]


def test_known_file_names_are_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    (tmp_path / "also.csv").write_text(HEADER + "5,6,7,8\n9,9,9,9\n")
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,2,funny,4\n")
    assert len(load(tmp_path)) == 1


def test_the_one_recognised_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Events\n")
    (tmp_path / "items.csv").write_text("item_id,title\n1,tea\n")
    (tmp_path / ".hidden.csv").write_text(HEADER + "1,2,3,4\n" * 2)
    (tmp_path / "events.csv").write_text(HEADER + "1,2,3,4\n")
    assert len(load(tmp_path)) == 1


def test_a_folder_with_several_data_sets_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEADER + "1,2,3,4\n")
    with pytest.raises(UserError, match=r"holds several data sets \(a.csv, b.csv\)"):
        load(tmp_path)
