import gzip
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from autoemb.data import load
from autoemb.errors import UserError

HEADER = "user_id,item_id,rating,timestamp\n"
Write = Callable[..., Path]


def refusal(path: str | os.PathLike[str], **options: object) -> str:
    """Return the message, which must be one printable line that names the file."""
    with pytest.raises(UserError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


BAD_ROWS = {
    "1,2,3": "has fewer than 4 fields",
    "1,2,3,5,97": "has more than 4 fields",
    "1,,3,4": "item_id is missing",
    ",,,": "user_id is missing",
    "1,2,3,": "timestamp is missing",
    "\x1b,2,3,4": r"user_id '\x1b' is not an integer",
    f"{'9' * 5000},2,x,4": "is past the largest 64-bit integer",
    "1,2,three,4": "rating 'three' is not a number",
    "1,2,nan,4": "rating 'nan' is not finite",
    "1,2,inf,4": "rating 'inf' is not finite",
    "1,2,1e999,4": "rating '1e999' is not finite",
    "1,2,-0.5,4": "rating '-0.5' is below 0; --scale LOW,HIGH tells of another scale",
    "1,2,100.5,4": "rating '100.5' is above 100, the top of the largest scale; --scale",
    "1,2,3,yesterday": "timestamp 'yesterday' is neither seconds",
    "1,2,3,nan": "timestamp 'nan' is neither seconds",
    "1,2,3,-1": "timestamp '-1' is before 1970",
    "1,2,3,-0.5": "timestamp '-0.5' is before 1970",
    "1,2,3,1e30": "timestamp '1e30' is neither seconds",
    "1,2,\x1b[2Jx,4": r"rating '\x1b[2Jx' is not a number",
    "1,2,\u202e3,4": r"rating '\u202e3' is not a number",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named(write: Write, row: str) -> None:
    path = write(HEADER + "1,2,3,4\n" * 30_000 + "\n\n" + row + "\n1,2,3,4\nx,x,x,x\n")
    message = refusal(path)
    assert message.startswith(f"{path}: row 30004: ")
    assert BAD_ROWS[row] in message
    assert "the line is '" in message


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_can_be_skipped(write: Write, row: str) -> None:
    path = write(HEADER + f"5,6,2.5,8\n{row}\n\n7,8,4,1\n")
    stream = load(path, skip_bad_rows=True)
    assert stream.skipped_rows == 1
    assert stream.frame["user_id", "rating"].rows() == [(7, 4.0), (5, 2.5)]


def test_a_zero_byte_far_into_a_file(write: Write) -> None:
    path = write(HEADER + "1,2,3,4\n" * 30_000 + "1,\x002,3,4\n")
    assert r"row 30002: item_id '\x002' is not an integer" in refusal(path)


def test_bytes_that_are_not_utf8_spoil_only_their_row(write: Write) -> None:
    path = write(HEADER.encode() + b"1,2,3,4\n\xe9,2,3,4\n")
    assert "row 3: user_id '\ufffd' is not an integer" in refusal(path)
    assert load(path, skip_bad_rows=True).skipped_rows == 1


def test_text_ids_that_are_not_utf8(write: Write) -> None:
    # Replaced bytes would make one id of two.
    path = write(HEADER.encode() + b"caf\xe9,2,3,4\ncaf\xe8,2,3,4\nbar,2,3,4\n")
    assert "row 2: user_id 'caf\ufffd' holds characters that are not UTF-8" in refusal(path)


@pytest.mark.parametrize(
    ("name", "text", "row", "reason"),
    [
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", 2, "has fewer than 4 fields"),
        ("u.data", "x\t2\t3\t4\n1\t2\t3\t4\n", 1, "user_id 'x' is not an integer"),
        ("ratings.dat", "1::2::3::4\n\n1::2:3::4\n", 3, "has fewer than 4 fields"),
        ("ratings.dat", "1::2::nan::4\n", 1, "rating 'nan' is not finite"),
        ("ratings.csv", "userId,movieId,rating,timestamp\r\n1,2,x,4\r\n", 2, "rating 'x'"),
        ("combined_data_1.txt", "1:\n1,2,2005-01-01\n\n1,2,2005-13-01\n", 4, "'2005-13-01'"),
        ("combined_data_1.txt", "1:\n1,2,2005-01-01\nx:\n1,2,2005-01-01\n", 4, "item_id 'x'"),
    ],
)
def test_rows_are_lines_in_every_layout(write: Write, name, text, row, reason) -> None:
    message = refusal(write(text, name))
    assert f"{name}: row {row}: " in message
    assert reason in message


def test_row_of_a_file_among_many(tmp_path: Path) -> None:
    for movie in (1, 2, 3):
        (tmp_path / f"mv_{movie:07d}.txt").write_text(f"{movie}:\n1,2,2005-01-01\n")
    bad = tmp_path / "mv_0000002.txt"
    bad.write_text("2:\n1,2,2005-01-01\n1,six,2005-01-01\n")
    assert refusal(tmp_path).startswith(f"{bad}: row 3: rating 'six' is not a number")


def test_a_netflix_file_without_its_movie_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mv_0000001.txt").write_text("1:\n1,2,2005-01-01\n")
    (tmp_path / "mv_0000002.txt").write_text("1,2,2005-01-01\n")
    assert "mv_0000002.txt: " in refusal(tmp_path)


def test_row_of_a_quoted_file(write: Write) -> None:
    path = write(HEADER.strip() + ',review\n1,2,3,4,"a\n\r\nb\rc"\n\n5,6,nan,8,"c\nd"\n')
    assert f"{path}: row 6: rating 'nan' is not finite" in refusal(path)


@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_a_quotation_that_does_not_end(write: Write, skip_bad_rows: bool) -> None:
    path = write(HEADER + '1,2,3,4\n"5,6,7,8\n' + "9,9,9,9\n" * 30_000)
    assert "row 3: does not end as a quoted field" in refusal(path, skip_bad_rows=skip_bad_rows)


def test_a_row_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    values = {"item_id": [1, 2], "rating": [1, 200], "timestamp": [1, 2]}
    pl.DataFrame({"user_id": [1, 2], **values}).write_parquet(path)
    assert refusal(path).startswith(f"{path}: row 2: rating '200' is above 100")


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("user_id", [1.0, 2.0], "user_id is of type Float64; expected integers or text"),
        ("item_id", [None, None], "item_id is of type Null"),
        ("user_id", [[1], [2]], "user_id holds lists; expected one id an event"),
        ("rating", [[1], [2]], "rating holds lists; expected one number an event"),
        ("rating", [b"1", b"2"], "rating is of type Binary; expected numbers"),
        ("timestamp", [True, False], "timestamp is of type Boolean; expected seconds"),
    ],
)
def test_types_of_parquet(tmp_path: Path, column: str, values: list[object], reason: str) -> None:
    data = {"user_id": [1, 2], "item_id": [1, 2], "rating": [1, 2], "timestamp": [1, 2]}
    pl.DataFrame({**data, column: values}).write_parquet(tmp_path / "x.parquet")
    assert f"x.parquet: column {reason}" in refusal(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_nothing_left(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame({"user_id": [1], "item_id": [2], "rating": [-3], "timestamp": [4]})
    path = tmp_path / f"x.{kind}"
    save = "write_csv" if kind == "csv" else "write_parquet"
    getattr(frame, save)(path)
    assert "no usable row; the first: rating '-3' is below 0" in refusal(path, skip_bad_rows=True)
    getattr(frame.clear(), save)(path)
    assert refusal(path, skip_bad_rows=True) == f"{path}: holds no events"


FILES = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \r\n\n", "is empty"),
    "header": (HEADER.encode(), "holds no events"),
    "no-timestamp": (
        b"user_id,item_id,rating\n1,2,3\n",
        "has no column 'timestamp'; its columns are",
    ),
    "wrong-columns": (
        b"a,b,c,d\n1,2,3,4\n",
        "has no column 'user_id'; its columns are: a, b, c, d",
    ),
    "twice": (HEADER.encode()[:-1] + b",rating\n1,2,3,4,5\n", "has several columns 'rating'"),
    "no-header": (b"1,2,3,4\n", "has no header in its first line"),
    "three-tabs": (b"1\t2\t3\n", "has no header in its first line"),
    "old-mac": (
        b"user_id,item_id,rating,timestamp\r1,2,3,4\r",
        "has a first line that is no header",
    ),
    "prose": (b"Summary\n=======\n", "is in no known format: its first line is 'Summary'"),
    "json": (b'{"user_id": 1}\n', "has no column 'item_id'; its columns are: user_id"),
    "json-array": (b'[{"user_id": 1}]\n', "is in no known format"),
    "probe": (b"1:\n30878\n", "is in no known format"),
    "binary": (bytes(range(256)), "is binary"),
    "utf16": (HEADER.encode("utf-16"), "is binary"),
    "not-parquet": (b"PAR1 and nothing more", "cannot be read: "),
    "cut-gzip": (gzip.compress(HEADER.encode() * 9)[:-12], "is not a whole gzip file"),
    "no-newline": (b"a" * 200_000, "is in no known format"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_refused(write: Write, kind: str) -> None:
    content, reason = FILES[kind]
    path = write(content, "ratings.csv")
    assert refusal(path).startswith(f"{path}: {reason}")
    assert refusal(path.parent).startswith(f"{path}: {reason}")


def test_damage_behind_the_start_of_a_gzip_file(write: Write) -> None:
    rows = HEADER.encode() + b"".join(b"%d,%d,3,4\n" % (n * 7919, n) for n in range(50_000))
    assert "cannot be read: " in refusal(write(gzip.compress(rows)[:-1000]))


def test_damaged_parquet_never_ends_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    names = ("user_id", "item_id", "rating", "timestamp")
    pl.DataFrame(dict.fromkeys(names, [1, 2] * 50)).write_parquet(path)
    whole = path.read_bytes()
    for end in range(4, len(whole), 97):
        path.write_bytes(whole[:end])
        assert str(path) in refusal(path)


def test_a_panic_of_polars_is_no_traceback(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*args: object) -> None:
        raise pl.exceptions.PanicException("assertion failed\nbacktrace")

    path = write(HEADER + "1,2,3,4\n")
    monkeypatch.setattr("autoemb.data.formats.clean", panic)
    assert refusal(path) == f"{path}: cannot be read: assertion failed"


def test_nothing_is_unpickled(write: Write, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    refusal(write(pickle.dumps(Trap()), "ratings.parquet"))
    assert not (tmp_path / "sprung").exists()


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "no\x1bsuch")
    assert "no such file or folder" in refusal("https://example.org/ratings.csv")
    assert "no such file or folder" in refusal("a\0b")
    assert "path of the data is empty" in refusal("")
    assert "/dev/zero: is not a regular file" in refusal("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    assert "no events in a known format; it holds no files" in refusal(tmp_path)
    for number in range(7):
        (tmp_path / f"notes{number}.txt").write_text("hello\n")
    assert re.search(r"it holds notes0.txt, .*, notes4.txt and 2 more$", refusal(tmp_path))


def test_an_unreadable_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(HEADER + "1,2,3,4\n")
    monkeypatch.setattr(Path, "open", denied)
    assert refusal(path) == f"{path}: cannot be read: Permission denied"


def test_columns_are_for_text_without_a_header(write: Write, tmp_path: Path) -> None:
    names = ("user_id", "item_id", "rating", "timestamp")
    path = write("1;2;3;4\n")
    assert len(load(path, columns=names)) == 1
    assert "row 1: has 4 fields and columns names 3" in refusal(path, columns=names[:3])
    assert "columns names 'rating' twice" in refusal(path, columns=(*names, "rating"))
    assert "columns names '' empty" in refusal(path, columns=(*names, ""))
    assert "has no column 'rating'" in refusal(path, columns=("user_id", "item_id", "a", "b"))
    path = write(HEADER + "1,2,3,4\n")
    assert "row 1: is a header" in refusal(path, columns=names)
    path = tmp_path / "x.parquet"
    pl.DataFrame({name: [1] for name in names}).write_parquet(path)
    assert "columns is for text without a header" in refusal(path, columns=names)
