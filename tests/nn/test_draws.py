"""What ids start with: by seed, table and raw id alone, and distributed as it should be."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.nn.draws import id_keys, normal_rows, salted

LIKE = torch.empty(0)
ROWS, WIDTH = 20_000, 10  # 200,000 numbers


def rows_of(ids, seed=0, table="item_id", width=WIDTH, std=1.0):
    return normal_rows(id_keys(np.asarray(ids), seed, table), width, std, LIKE)


def test_keys_and_rows_are_pinned():
    """Another generator would change what every id starts with: it must not go unnoticed."""
    keys = id_keys(np.array([0, 1, -1, 2**62]), 0, "item_id")
    assert [hex(key) for key in keys.tolist()] == [
        "0xbce1e91e9d2c7dff", "0xfffb93bad7d89df9", "0x79d6c29a16edf475", "0xee9944becdd31f7"
    ]  # fmt: skip
    assert [hex(key) for key in id_keys(["", "a", "ü"], 5, "user_id").tolist()] == [
        "0xd044ecf1c7f9cce4", "0xb6206829a343f3f3", "0x4d1b968cc6016f91"
    ]  # fmt: skip
    assert hex(salted(keys, "table_0")[0]) == "0x45ada0daad246f69"
    rows = normal_rows(keys, 5, 1.0, LIKE)
    assert [value.hex() for value in rows[1].tolist()] == [
        "-0x1.d0e85e0000000p-3", "0x1.9940540000000p-2", "0x1.6336020000000p-4",
        "0x1.2930e00000000p+0", "-0x1.df67b60000000p-2",
    ]  # fmt: skip


ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True)
texts = st.lists(st.text(max_size=5), min_size=1, max_size=20, unique=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ids=ids | texts, order=st.randoms(use_true_random=False), data=st.data())
def test_the_others_and_the_order_change_nothing(ids, order, data):
    def keys(some):
        some = some if isinstance(some[0], str) else np.array(some, dtype=np.int64)
        return id_keys(some, 7, "user_id")

    whole = dict(zip(ids, normal_rows(keys(ids), 3, 0.1, LIKE), strict=True))
    some = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    order.shuffle(some)
    for id, row in zip(some, normal_rows(keys(some), 3, 0.1, LIKE), strict=True):
        assert torch.equal(row, whole[id])


def test_a_wider_row_begins_as_the_narrow_one():
    assert torch.equal(rows_of(range(9), width=7)[:, :3], rows_of(range(9), width=3))


def test_seeds_tables_and_parameters_draw_apart():
    keys = id_keys(np.arange(ROWS), 0, "item_id")
    others = {
        "seed": id_keys(np.arange(ROWS), 1, "item_id"),
        "table": id_keys(np.arange(ROWS), 0, "user_id"),
        "id": id_keys(np.arange(ROWS) + 1, 0, "item_id"),
        "text": id_keys([str(i) for i in range(ROWS)], 0, "item_id"),
        "parameter": salted(keys, "table_0"),
        # No pair of seed and table may be written like another.
        "mixed up": id_keys(np.arange(ROWS), 10, "/item_id"),
    }
    first = normal_rows(keys, WIDTH, 1.0, LIKE)
    for name, other in others.items():
        assert not (keys == other).any(), name
        second = normal_rows(other, WIDTH, 1.0, LIKE)
        # Of independent numbers: 1/sqrt(200,000) = 0.0022; 5 of these deviations.
        assert abs((first * second).mean()) < 5 / math.sqrt(first.numel()), name


def test_no_two_of_many_ids_have_one_key():
    keys = id_keys(np.arange(-500_000, 500_000), 0, "item_id")
    # By chance 1e12 / 2 pairs of 1.8e19 keys meet with a probability of 3e-8.
    assert len(np.unique(keys)) == len(keys)


@pytest.mark.parametrize("std", [0.0, 0.1, 2.0])
@pytest.mark.parametrize(
    "ids",
    [np.arange(ROWS), np.arange(ROWS) * 2**40, -np.arange(ROWS)],
    ids=["near", "far", "minus"],
)
def test_numbers_are_normal(ids, std):
    values = rows_of(ids, std=std).double()
    count = values.numel()
    assert abs(values.mean()) <= 5 * std / math.sqrt(count)
    # The deviation of a sample's deviation is std / sqrt(2 n); quantiles cut 1e-5 off it.
    assert abs(values.std() - std) <= std * (5 / math.sqrt(2 * count) + 2e-5)
    if not std:
        return
    # Kolmogorov and Smirnov: a distance of 1.95/sqrt(n) happens once in 1,000 samples; these are
    # always the same, and steps of 65,536 quantiles add 1/65,536.
    below = torch.tensor([NormalDist(0, std).cdf(x) for x in values.flatten()[::10].tolist()])
    below, steps = below.sort().values, torch.arange(1, count // 10 + 1) / (count // 10)
    distance = (below - steps).abs().max()
    assert distance <= 1.95 / math.sqrt(count / 10) + 1 / 65536


def test_columns_and_neighbours_are_independent():
    values = rows_of(np.arange(ROWS))
    correlation = torch.corrcoef(values.T) - torch.eye(WIDTH)
    assert correlation.abs().max() <= 5 / math.sqrt(ROWS)
    neighbours = (values[1:] * values[:-1]).mean(0)
    assert neighbours.abs().max() <= 5 / math.sqrt(ROWS)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 146])
def test_any_width_and_no_id(width):
    assert rows_of(np.arange(3), width=width).shape == (3, width)
    assert rows_of(np.arange(0), width=width).shape == (0, width)
    # Of 438 numbers from 65,536 quantiles 1.5 pairs meet by chance.
    assert rows_of(np.arange(3), width=width).unique().numel() >= 3 * width - 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_rows_have_the_dtype_of_their_table(dtype):
    keys = id_keys(np.arange(4), 0, "item_id")
    rows = normal_rows(keys, 3, 0.1, torch.empty(0, dtype=dtype))
    assert rows.dtype == dtype
    assert torch.equal(rows, normal_rows(keys, 3, 0.1, LIKE).to(dtype))


def test_drawing_uses_no_random_numbers_of_torchs():
    before = torch.random.get_rng_state()
    rows_of(np.arange(9))
    assert torch.equal(torch.random.get_rng_state(), before)
