"""The data flags: what they make of a file, and what they refuse."""

from pathlib import Path

import pytest

from autoemb.errors import UserError
from autoemb.lab.sources import DataFlags
from autoemb.schema import RATINGS

TOML = """
timestamp = ""
[label]
column = "stars"
kind = "rating"
[[sparse]]
column = "user"
[[bag]]
column = "tags"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "events.csv"
    path.write_text("user,item,tags,price,stars,click,at\na,1,x|y,2.5,-3,1,9\nb,2,,,7,0,8\n")
    return str(path)


def test_without_data_it_is_the_synthetic_stream():
    assert DataFlags(task="click").dataset().name == "synthetic"


def test_flags_make_a_schema(file):
    data = DataFlags(
        data=file, sparse="user, item", bags="tags", dense="price", label="click", timestamp="at",
    ).dataset()  # fmt: skip
    assert [one.column for one in data.schema.features] == ["user", "item", "tags"]
    assert (data.schema.label.kind, data.unused) == ("click", ("stars",))
    assert data.frame["tags"].to_list() == [[], ["x", "y"]]
    assert data.notes == ("events.csv: not used: stars",)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"label": "click"}, "click"),
        ({"label": "stars", "task": "value"}, "value"),
        ({"label": "stars", "scale": "-10,10", "task": "click"}, "rating"),
        ({"label": "click", "task": "regression"}, "rating"),
    ],
)
def test_the_task_tells_the_kind_of_a_label(file, options, kind):
    data = DataFlags(data=file, sparse="user", timestamp="", **options).dataset()
    assert data.schema.label.kind == kind
    assert data.schema.timestamp is None


def test_a_schema_file_and_a_scale(file, tmp_path):
    toml = tmp_path / "schema.toml"
    toml.write_text(TOML)
    flags = {"data": file, "schema": str(toml), "scale": "-10,10", "positive_above": 0.0}
    data = DataFlags(**flags).dataset()
    assert (data.schema.label.scale, data.schema.label.positive_above) == ((-10, 10), 0)
    assert data.frame["stars"].to_list() == [-3, 7]  # the order of the file
    with pytest.raises(UserError, match="--schema and --bags both say what the columns are"):
        DataFlags(**flags, bags="tags").dataset()


def test_a_scale_alone_keeps_the_columns_of_a_rating_set(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n1,2,-1,4\n")
    data = DataFlags(data=str(path), scale="-2,2").dataset()
    assert (data.format, data.schema.columns) == ("MovieLens ratings.csv", RATINGS.columns)
    assert data.schema.label.scale == (-2, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": None, "sparse": "user"}, "--sparse is about a file; name the file with --data"),
        ({"data": None, "skip_bad_rows": True}, "--skip-bad-rows is about a file"),
        ({"sparse": "user"}, "the flags name no label; expected --label NAME"),
        ({"label": "click"}, "the flags name no ids; expected --sparse or --bags"),
        ({"sparse": "user,,item", "label": "click"}, "--sparse is 'user,,item'; expected names"),
        ({"sparse": "user,user", "label": "click"}, "--sparse names 'user' twice"),
        ({"sparse": "user", "dense": "user", "label": "click"}, "column 'user' is named twice"),
        ({"sparse": "user", "label": "stars", "scale": "5"}, "--scale is '5'; expected LOW,HIGH"),
        ({"sparse": "user", "label": "stars", "scale": "a,b"}, "--scale is 'a,b'; expected LOW"),
        ({"sparse": "user", "label": "stars", "scale": "5,1"}, "--scale: scale is 5,1; expected"),
        ({"sparse": "user", "label": "stars", "scale": "0,5", "positive_above": 5.0},
         "positive_above is 5; expected from 0 to below 5, the scale"),
        ({"columns": "user_id=user"}, "--columns is 'user_id=user'; expected the names of all"),
        ({"schema": "nowhere.toml"}, "nowhere.toml cannot be read"),
        ({"sparse": "user", "label": "rank", "timestamp": "at"}, "has no column 'rank'"),
    ],
)  # fmt: skip
def test_flags_that_say_too_little_or_two_things(file, options, said):
    with pytest.raises(UserError) as caught:
        DataFlags(**{"data": file} | options).dataset()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scale_is_for_ratings(file, tmp_path):
    toml = tmp_path / "schema.toml"
    toml.write_text(TOML.replace("stars", "click").replace("rating", "click"))
    with pytest.raises(UserError, match="--scale is for ratings; the label click is of kind click"):
        DataFlags(data=file, schema=str(toml), scale="0,1").dataset()
