"""Ids become rows: on a CPU the first bad one is refused by name."""

import pytest
import torch

from autoemb.ops import look_up, rows_of

IDS = torch.tensor([[0, 4], [2, 1], [3, 0]])


def test_rows_are_the_ids():
    rows = rows_of(IDS.t().contiguous().t(), [4, 5])
    assert torch.equal(rows, IDS)
    assert rows.is_contiguous()
    assert rows_of(IDS[:0], [4, 5]).shape == (0, 2)


@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("bad", [-1, "V", 2**40, 2**63 - 1, -(2**63)])
def test_an_id_out_of_range_is_refused_by_the_name_of_its_field(field, bad):
    ids, rows = IDS.clone(), [4, 5]
    ids[1, field] = bad = rows[field] if bad == "V" else bad
    told = rf"out of range in field {{}}: id {bad} is not in \[0, {rows[field] - 1}\]"
    with pytest.raises(IndexError, match=told.format(field)):
        rows_of(ids, rows)
    with pytest.raises(IndexError, match=told.format(field + 7)):
        rows_of(ids, rows, field=7)


def test_opcheck():
    torch.library.opcheck(torch.ops.autoemb.rows_of.default, (IDS[:, ::2], [4], 3))


def test_a_lookup_is_differentiable_in_the_table():
    table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(look_up(table, IDS), table[IDS])
    torch.autograd.gradcheck(lambda t: look_up(t, IDS), table)
