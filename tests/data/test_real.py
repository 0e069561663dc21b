import os
from pathlib import Path

import pytest

from autoemb.data import load

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


@pytest.mark.parametrize("name", SETS)
def test_real_set(name: str) -> None:
    folder = os.environ.get("AUTOEMB_DATA")
    if not folder:
        pytest.skip("AUTOEMB_DATA is not set")
    path = Path(folder, name)
    if not path.is_dir():
        pytest.skip(f"AUTOEMB_DATA holds no {name}")
    format, rows, users, items, top, first, last, digest = SETS[name]
    stream = load(path)
    assert (stream.name, stream.format, stream.schema.label.scale[1]) == (name, format, top)
    assert (
        len(stream),
        stream.frame["user_id"].n_unique(),
        stream.frame["item_id"].n_unique(),
    ) == (rows, users, items)
    assert stream.frame["timestamp"].is_sorted()
    assert (stream.frame["timestamp"][0], stream.frame["timestamp"][-1]) == (first, last)
    assert stream.skipped_rows == 0
