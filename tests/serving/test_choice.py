"""The choice of widths: within the budget, and the best for what it costs."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb.serving.choice import choose_widths

WIDTHS = (0, 1, 3)

errors_of_ids = st.lists(
    st.tuples(*[st.floats(0, 100, width=32) for _ in WIDTHS]), min_size=1, max_size=3
).map(torch.tensor)
tables = st.lists(errors_of_ids, min_size=1, max_size=2)
budgets = st.floats(0, 20)


def cost_of(choices):
    return sum(WIDTHS[k] for choice in choices for k in choice.tolist())


def error_of(errors, choices):
    pairs = zip(errors, choices, strict=True)
    return sum(float(e.double().gather(1, c.unsqueeze(1)).sum()) for e, c in pairs)


@given(tables, budgets)
def test_within_the_budget_and_no_choice_of_its_cost_is_better(errors, budget):
    choices = choose_widths(errors, WIDTHS, budget)
    spent, total = cost_of(choices), error_of(errors, choices)
    assert spent <= budget
    rows = torch.cat(errors).double()
    for other in itertools.product(range(len(WIDTHS)), repeat=len(rows)):
        if sum(WIDTHS[k] for k in other) <= spent:
            # 1e-6: prices are floats, so of two choices as good as equal either may come out.
            assert sum(rows[i, k] for i, k in enumerate(other)) >= total - 1e-6 * (1 + total)


@given(tables, budgets, budgets)
def test_a_larger_budget_is_never_worse(errors, one, other):
    small, large = (
        error_of(errors, choose_widths(errors, WIDTHS, budget)) for budget in sorted((one, other))
    )
    assert large <= small + 1e-6 * (1 + small)


@given(tables)
def test_without_a_limit_every_id_has_its_least_error(errors):
    choices = choose_widths(errors, WIDTHS, 1e9)
    for error, choice in zip(errors, choices, strict=True):
        assert torch.equal(choice, error.argmin(1))


def test_tables_share_one_budget():
    valuable = torch.tensor([[100.0, 1.0, 0.0]] * 3)
    worthless = torch.tensor([[0.3, 0.2, 0.1]] * 3)
    kept, dropped = choose_widths([valuable, worthless], WIDTHS, 3)
    assert kept.tolist() == [1, 1, 1]
    assert dropped.tolist() == [0, 0, 0]


def test_errors_of_any_size_are_taken():
    errors = [torch.tensor([[1e30, 0.0, 0.0], [1e-30, 0.0, 0.0]])]
    assert [c.tolist() for c in choose_widths(errors, WIDTHS, 1)] == [[1, 0]]


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="errors must be finite"):
        choose_widths([torch.tensor([[float("nan"), 0.0, 0.0]])], WIDTHS, 1)
