import os
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from autoemb.batch import MISSING
from autoemb.data import Dataset, load
from autoemb.errors import UserError
from autoemb.schema import Schema
from autoemb.tasks import task_for

# Rows, users, items, top of the scale and span as counted independently of this package.
SETS = {
    "ml-100k": (
        "MovieLens 100K",
        100_000,
        943,
        1_682,
        5.0,
        874724710,
        893286638,
        "53a5d7c870413866",
    ),
    "ml-1m-users-1-2999": (
        "MovieLens 1M",
        487_650,
        2_999,
        3_615,
        5.0,
        970620734,
        1046388675,
        "39aa7a3516ecb560",
    ),
    "ml-latest-small": (
        "MovieLens ratings.csv",
        100_836,
        610,
        9_724,
        5.0,
        828124615,
        1537799250,
        "839e92583eee6291",
    ),
    "movietweetings": (
        "MovieTweetings",
        141_695,
        21_081,
        12_611,
        10.0,
        1362062307,
        1383696025,
        "219f126492db4f6b",
    ),
}


def path_of(name: str) -> Path:
    folder = os.environ.get("AUTOEMB_DATA")
    if not folder:
        pytest.skip("AUTOEMB_DATA is not set")
    path = Path(folder, name)
    if not path.is_dir():
        pytest.skip(f"AUTOEMB_DATA holds no {name}")
    return path


@pytest.mark.parametrize("name", SETS)
def test_real_set(name: str) -> None:
    path = path_of(name)
    format, rows, users, items, top, first, last, digest = SETS[name]
    stream = load(path)
    assert (stream.name, stream.format, stream.schema.label.scale[1]) == (name, format, top)
    about = stream.describe()
    assert (about["interactions"], about["users"], about["items"]) == (rows, users, items)
    assert about["digest"] == digest
    assert stream.frame["timestamp"].is_sorted()
    assert (stream.frame["timestamp"][0], stream.frame["timestamp"][-1]) == (first, last)
    assert stream.skipped_rows == 0


SCHEMAS = Path(__file__).parents[2] / "examples" / "schemas"
# Events and distinct ids as the sets' README tells them; "" and missing ids count as one.
FEATURES = {
    "globo-news-clicks": (2_988_181, {"user_id": 322_897, "item_id": 46_033, "click_os": 8}),
    "trivago-impressions": (312_539, {"user_id": 6_593, "item_id": 106_866, "first_filter": 65}),
    "nycflights13": (327_346, {"user_id": 4_037, "item_id": 5_706, "manufacturer": 36}),
    "bitcoin-otc-ratings": (35_592, {"user_id": 4_814, "item_id": 5_858}),
    "amazon-grocery-reviews": (121_892, {"user_id": 14_681}),
}


def with_schema(name: str) -> Dataset:
    return load(path_of(name), schema=Schema.from_toml(SCHEMAS / f"{name}.toml"))


@pytest.mark.parametrize("name", FEATURES)
def test_real_events_by_their_schema(name: str) -> None:
    data = with_schema(name)
    rows, features = FEATURES[name]
    assert len(data) == rows
    assert features.items() <= data.describe()["features"].items()
    events = data.events()
    batch = events.batch(1_000, 1_500)
    assert len(batch) == 500
    for feature in data.schema.sparse:
        column = data.frame[feature.column][1_000:1_500].to_list()
        assert list(batch.sparse[feature.column]) == column


def test_bags_and_gaps_of_real_events() -> None:
    data = with_schema("trivago-impressions")
    raw = pl.read_parquet(path_of("trivago-impressions") / "events.parquet")
    filters = raw["current_filters"].fill_null("").to_list()
    bag = data.events().batch(0, len(data)).bags["current_filters"]
    found = ["|".join(bag.values[a:b]) for a, b in pairwise(bag.offsets[:50_001])]
    assert found == filters[:50_000]
    assert any("first_filter is missing in 231,456 events" in note for note in data.notes)
    data = with_schema("nycflights13")
    assert data.frame["pressure"].is_nan().sum() == 36_142
    assert MISSING not in data.frame["month"]


def test_ratings_below_zero_need_a_scale() -> None:
    path = path_of("bitcoin-otc-ratings")
    with pytest.raises(UserError, match=r"rating '-\d+.*is below 0; --scale LOW,HIGH"):
        load(path)
    data = with_schema("bitcoin-otc-ratings")
    batch = data.events().batch(0, len(data))
    assert batch.label is not None
    target = task_for(None, data.schema.label).target(batch.label)
    assert target.sum().item() == (data.frame["rating"] > 0).sum()
