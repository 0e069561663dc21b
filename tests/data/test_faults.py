"""What was once wrong in silence, and mistakes in schemas and files: right, or one line."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from autoemb.data import load
from autoemb.errors import UserError
from autoemb.schema import Bag, Dense, Label, Schema, Sparse

Write = Callable[..., Path]
HEADER = "user_id,item_id,rating,timestamp\n"
CLICK = Label(column="click", kind="click")


def schema(label: Label = CLICK, **options: object) -> Schema:
    return Schema(**{"label": label, "sparse": (Sparse(column="u"),), "timestamp": None} | options)


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("skip", [False, True])
def test_a_text_id_behind_the_sample_makes_all_ids_text(write: Write, skip: bool) -> None:
    rows = "".join(f"1,{n},3,{n}\n" for n in range(5_000))
    path = write(HEADER + rows + "1,000100039X,3,9999\n" + ("1,2,bad,1\n" if skip else ""))
    data = load(path, skip_bad_rows=skip)
    assert data.skipped_rows == skip
    assert data.frame["item_id"].to_list() == [*map(str, range(5_000)), "000100039X"]
    assert data.frame.schema["user_id"] == pl.Int64


@pytest.mark.parametrize("behind", [0, 3_000])
@pytest.mark.parametrize("odd", ["007", "+7", "-07", "9223372036854775808", "7.0"])
def test_an_id_that_is_not_how_an_integer_is_written_is_text(
    write: Write, odd: str, behind: int
) -> None:
    path = write(HEADER + "1,7,3,1\n" * (behind + 1) + f"1,{odd},3,2\n")
    assert load(path).frame["item_id"].unique().sort().to_list() == sorted([odd, "7"])


def test_integers_stay_integers(write: Write) -> None:
    ids = [0, -7, 2**63 - 1]
    path = write(HEADER + "".join(f"1,{id},3,{n}\n" for n, id in enumerate(ids)))
    assert load(path).frame["item_id"].to_list() == ids


def test_unsigned_ids_past_64_bits_are_text(tmp_path: Path) -> None:
    ids = pl.Series([1, 2**64 - 1], dtype=pl.UInt64)
    frame = pl.DataFrame({"user_id": ids, "item_id": [1, 2], "rating": [1, 2], "timestamp": [1, 2]})
    frame.write_parquet(tmp_path / "x")
    assert load(tmp_path / "x").frame["user_id"].to_list() == ["1", str(2**64 - 1)]


def test_a_long_field_that_nobody_needs(write: Write) -> None:
    long = "x, " * 100_000
    path = write(HEADER.strip() + f',review\n1,2,3,4,"{long}"\n1,2,3,5,"""short"""\n')
    assert len(load(path)) == 2


def test_a_quotation_that_never_ends_is_told_from_a_stray_mark(write: Write) -> None:
    assert len(load(write(HEADER.strip() + ',size\n1,2,3,4,5" disk\n'))) == 1
    message = refusal(write(HEADER + '1,2,3,4\n"5,6,7,8\n9,9,9,9\n'))
    assert "row 3: does not end as a quoted field should" in message


def test_scales(write: Write) -> None:
    path = write(HEADER + "1,2,7,4\n1,3,1,4\n")
    guessed = load(path)
    assert guessed.schema.label.scale == (0, 10)
    assert any("reaches 7 and is read on a scale of 0 to 10" in note for note in guessed.notes)
    label = Label(column="rating", kind="rating", scale=(1, 7), positive_above=6)
    given = load(path, schema=guessed.schema.model_copy(update={"label": label}))
    assert (given.schema.label.scale, given.notes) == ((1, 7), ())
    label = label.model_copy(update={"scale": (1.0, 6.5)})
    message = refusal(path, schema=guessed.schema.model_copy(update={"label": label}))
    assert "row 2: rating '7' is above 6.5, the top of the scale; the line" in message


@pytest.mark.parametrize(
    ("label", "values", "said"),
    [
        (CLICK, [1, 1], "every click is 1: there is nothing to tell apart"),
        (Label(column="click", kind="rating"), [5, 4], "every click is positive on the scale"),
        (Label(column="click", kind="classes", classes=("7", "8")), [8, 8], "every click is 8"),
        (CLICK, [0, 1], None),
    ],
)
def test_a_label_of_one_class_is_said(tmp_path: Path, label, values, said) -> None:
    pl.DataFrame({"u": [1, 2], "click": values}).write_parquet(tmp_path / "x")
    notes = load(tmp_path / "x", schema=schema(label)).notes
    assert len(notes) == (said is not None)
    assert said is None or f"x: {said}" in notes[0]


def test_a_value_far_from_zero_is_said(tmp_path: Path) -> None:
    label = Label(column="click", kind="value")
    pl.DataFrame({"u": [1, 2, 3], "click": [1000.0, 1001.0, 1002.0]}).write_parquet(tmp_path / "x")
    (note,) = load(tmp_path / "x", schema=schema(label)).notes
    assert "click is 1001 give or take 0.816497, and predictions start at 0" in note
    pl.DataFrame({"u": [1, 2, 3], "click": [-1.0, 0.0, 2.0]}).write_parquet(tmp_path / "y")
    assert load(tmp_path / "y", schema=schema(label)).notes == ()


def test_a_first_row_in_the_place_of_a_header_is_told(write: Write) -> None:
    message = refusal(write("ann,tea,5,2020-01-01\nbob,tea,4,2020-01-02\n"))
    assert "--columns NAME,NAME,... names those of a file without a header" in message


def test_columns_that_are_not_used_are_named_once(write: Write) -> None:
    data = load(write("a,u,b,click\n1,2,3,0\n1,2,3,1\n"), schema=schema())
    assert (data.unused, data.notes) == (("a", "b"), ("data.csv: not used: a, b",))


PARQUET = {
    "list": (
        schema(), {"u": [[1], [2]]},
        "column u holds lists; expected one id an event (several are a bag: --bags)",
    ),
    "no-list": (
        schema(bag=(Bag(column="b"),)), {"b": [1, 2]},
        "column b is of type Int64; expected lists of integers or text, or text with '|'",
    ),
    "null-in-bag": (schema(bag=(Bag(column="b"),)), {"b": [[1], [1, None]]}, "row 2: b"),
    "text": (schema(dense=(Dense(column="d"),)), {"d": ["1", "cheap"]},
             "row 2: d 'cheap' is not a number"),
    "infinite": (schema(dense=(Dense(column="d"),)), {"d": [1.0, float("inf")]},
                 "row 2: d 'inf' is not finite"),
    "large": (schema(dense=(Dense(column="d"),)), {"d": [1.0, 1e39]},
              "row 2: d '1e+39' is past the largest 32-bit number"),
    "dates": (schema(dense=(Dense(column="d"),)), {"d": [b"1", b"2"]}, "of type Binary"),
    "float-ids": (schema(), {"u": [1.0, 2.0]}, "column u is of type Float64"),
    "click": (schema(), {"click": [0, 2]}, "row 2: click '2' is neither 0 nor 1"),
    "no-click": (schema(), {"click": [0, None]}, "row 2: click is missing"),
    "value": (schema(Label(column="click", kind="value")), {"click": [0.0, float("nan")]},
              "row 2: click 'nan' is not finite"),
    "classes": (schema(Label(column="click", kind="classes", classes=("a", "b"))),
                {"click": ["a", "c"]}, "row 2: click 'c' is none of the classes a, b"),
    "weight": (schema(weight="w"), {"w": [1.0, -1.0]}, "row 2: w '-1.0' is below 0"),
    "event": (schema(event_id="e"), {"e": ["x", "x"]},
              "row 2: e 'x' repeats that of row 1; expected a new one for each event"),
    "weights": (schema(bag=(Bag(column="b", weights="w"),)),
                {"b": [[1], [1, 2]], "w": [[1.0], [1.0]]},
                "row 2: w '[1.0]' holds no weight from 0 for each id of b"),
    "unknown": (schema(dense=(Dense(column="d"),)), {},
                "has no column 'd'; its columns are: u, click (expected the columns that the"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARQUET)
def test_a_column_that_is_not_what_the_schema_says(tmp_path: Path, case: str) -> None:
    wanted, columns, said = PARQUET[case]
    pl.DataFrame({"u": [1, 2], "click": [0, 1]} | columns).write_parquet(tmp_path / "x")
    assert said in refusal(tmp_path / "x", schema=wanted)


def test_repeated_events_can_be_skipped(tmp_path: Path) -> None:
    frame = pl.DataFrame({"u": [1, 2, 3], "click": [0, 1, 0], "e": [7, 8, 7]})
    frame.write_csv(tmp_path / "x")
    data = load(tmp_path / "x", schema=schema(event_id="e"), skip_bad_rows=True)
    assert (data.frame["u"].to_list(), data.skipped_rows) == ([1, 2], 1)


def test_columns_of_the_same_name(write: Write) -> None:
    path = write("u,u,click\n1,2,0\n")
    assert "has several columns 'u'; its columns are: u, u, click" in refusal(path, schema=schema())


def test_missing_ids_share_one_or_are_refused(write: Write) -> None:
    path = write("u,click\n7,0\n,1\n")
    data = load(path, schema=schema())
    assert data.frame["u"].to_list() == [7, -(2**63)]
    assert data.notes == ("data.csv: u is missing in 1 events, which share an id of their own",)
    strict = schema(sparse=(Sparse(column="u", missing="refuse"),))
    assert "row 3: u is missing" in refusal(path, schema=strict)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "row 2: is not JSON"),
        ("[1]", "row 2: is not a JSON object"),
        ('{"u": {"id": 1}, "click": 1}', "row 2: u holds an object"),
        ('{"u": [1], "click": 1}', "holds lists; expected one id"),
        ('{"u": 1, "click": "maybe"}', "row 2: click 'maybe' is neither 0 nor 1"),
    ],
)
def test_lines_that_are_no_events(write: Write, line: str, said: str) -> None:
    path = write(json.dumps({"u": 1, "click": 0}) + "\n" + line + "\n")
    assert said in refusal(path, schema=schema())


def test_json_ids_of_both_kinds_are_text(write: Write) -> None:
    path = write('{"u": 7, "click": 0}\n{"u": "x", "click": true}\n')
    data = load(path, schema=schema())
    assert data.frame.rows() == [("7", 0), ("x", 1)]


def test_archives_that_cannot_be_read(write: Write) -> None:
    assert "is not a whole ZIP archive" in refusal(write(b"PK\x03\x04rest", "x.zip"))
    path = write(b"", "y.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello\n")
        archive.writestr("more.txt", "hello\n")
    assert "no events in a known format; it holds more.txt, notes.txt" in refusal(path)


def test_a_member_that_would_fill_the_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoemb.data.file._SMALL", 1_000)
    path = write(b"", "bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", "0" * 1_000_000)
    assert "of 1,000,000 bytes, packed into" in refusal(path)
