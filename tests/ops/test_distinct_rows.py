"""Whether a batch holds every row of a table, told from its padded distinct rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb.ops.soft_embedding import _holds_all


@given(st.sets(st.integers(0, 12), min_size=1), st.integers(0, 5), st.integers(0, 16))
def test_padding_is_told_from_rows(held, padding, count):
    rows = sorted(held)
    padded = torch.tensor(rows + [rows[-1]] * padding)
    expected = count >= 2 and set(range(count)) <= held and rows[:count] == list(range(count))
    # Rows of a table of `count` are below it.
    if max(rows) < count:
        assert _holds_all(padded, count) == (expected and len(rows) == count)
