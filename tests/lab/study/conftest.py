"""A small study: two methods on a synthetic stream, in files as a user has them."""

import pytest

from autoemb.data import synthetic

SMALL = """
data = ["ratings.csv"]
seeds = [0, 1]
opponents = false
[options]
batch_size = 50
window = 50
hidden = [8]
controller_hidden = [8]
model = "mlp"
optimizer = "adagrad"
[methods.narrow]
method = "fse"
dims = [2]
[methods.soft]
method = "autoemb"
dims = [2, 4]
rows = "sizes"
budget = 0
"""


@pytest.fixture(autouse=True)
def small_networks():
    """Leave the networks as they are: a study's processes know nothing of narrow ones."""


@pytest.fixture
def folder(tmp_path):
    events = synthetic(1000)
    lines = ["user_id,item_id,rating,timestamp"]
    columns = events.frame.select("user_id", "item_id", "rating", "timestamp")
    lines += [",".join(map(str, row)) for row in columns.iter_rows()]
    (tmp_path / "ratings.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def write(folder):
    """Write a study's file, by default the small one; return its path."""

    def write(text=SMALL):
        path = folder / "study.toml"
        path.write_text(text)
        return path

    return write
