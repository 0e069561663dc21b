"""The distinct ids of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.ops import distinct, distinct_columns, fill_padding
from autoemb.ops.plan import padded_plans

few = settings(max_examples=50, deadline=None, derandomize=True)
INT64 = torch.iinfo(torch.int64)


def check_against_numpy(plan, ids):
    expected = np.unique(ids.numpy(), return_inverse=True, return_counts=True)
    for ours, numpys in zip(plan[:3], expected, strict=True):
        assert ours.dtype == torch.int64
        np.testing.assert_array_equal(ours.numpy(), numpys)


@few
@given(rows=st.lists(st.integers(INT64.min, INT64.max) | st.integers(0, 9), max_size=40))
def test_agrees_with_numpy(rows):
    ids = torch.tensor(rows, dtype=torch.int64)
    plan = distinct(ids)
    check_against_numpy(plan, ids)
    assert torch.equal(plan.rows[plan.inverse], ids)
    assert plan.counts.sum() == len(ids)


@pytest.mark.parametrize("batch", [0, 1, 2, 31, 33, 500])
@pytest.mark.parametrize("high", [1, 20, 10_000])
@pytest.mark.parametrize("fields", [1, 2, 26])
def test_columns_are_planned_one_by_one(batch, high, fields):
    ids = torch.randint(high, (batch, fields), generator=torch.Generator().manual_seed(batch))
    plans = distinct_columns(ids)
    assert len(plans) == fields
    for plan, column in zip(plans, ids.unbind(1), strict=True):
        check_against_numpy(plan, column)


def test_leaves_its_input_alone():
    ids = torch.tensor([3, 1, 3])
    distinct(ids)
    assert ids.tolist() == [3, 1, 3]


def check_padded(plan, trimmed):
    used, missing = len(trimmed.rows), len(plan.rows) - len(trimmed.rows)
    assert torch.equal(plan.rows, torch.cat([trimmed.rows, trimmed.rows[-1:].expand(missing)]))
    assert torch.equal(plan.inverse, trimmed.inverse)
    assert torch.equal(plan.counts[:used], trimmed.counts)
    assert not plan.counts[used:].any()
    assert torch.equal(plan.order, plan.inverse.argsort(stable=True))
    assert torch.equal(plan.starts.diff(), plan.counts)
    assert plan.starts[0] == 0


@few
@given(rows=st.lists(st.integers(INT64.min, INT64.max) | st.integers(0, 9), max_size=40))
def test_a_padded_plan_repeats_the_last_row(rows):
    ids = torch.tensor(rows, dtype=torch.int64)
    (plan,) = padded_plans(ids.unsqueeze(1))
    check_padded(plan, distinct(ids))


@pytest.mark.parametrize("batch", [0, 1, 2, 31, 33, 500])
@pytest.mark.parametrize("high", [1, 20, 10_000])
@pytest.mark.parametrize("fields", [1, 2, 26])
def test_all_columns_are_padded_at_once(batch, high, fields, monkeypatch):
    ids = torch.randint(high, (batch, fields), generator=torch.Generator().manual_seed(batch))
    trimmed = distinct_columns(ids)
    monkeypatch.setattr("autoemb.ops.plan.is_padded", lambda device: True)
    for one, other in zip(distinct_columns(ids), trimmed, strict=True):
        assert len(one.rows) == batch
        check_padded(one, other)


def test_padding_gets_the_values_of_the_row_it_repeats(monkeypatch):
    rows, values = torch.tensor([3, 5, 7, 7, 7]), torch.arange(10.0).reshape(5, 2)
    assert fill_padding(rows, values) is values
    monkeypatch.setattr("autoemb.ops.plan.is_padded", lambda device: True)
    assert torch.equal(fill_padding(rows, values), values[[0, 1, 2, 2, 2]])
