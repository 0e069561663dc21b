"""Narrow rows that give back wide embeddings."""

import pytest
import torch

from autoemb.serving import fit as module
from autoemb.serving.fit import fit, squared_distance


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def problem(random, rows=60, width=6):
    """Return targets within (-1, 1), importances and a metric."""
    inner = torch.randn(rows, width, generator=random) * torch.linspace(1.5, 0.2, width)
    root = torch.randn(width, width, generator=random)
    return torch.tanh(inner), torch.rand(rows, generator=random) + 0.1, root @ root.t()


def embeddings(fitted, linear=False):
    inner = fitted.rows @ fitted.projection.t() + fitted.offset
    return inner if linear else torch.tanh(inner)


@pytest.mark.parametrize("linear", [False, True])
def test_the_error_is_that_of_the_embeddings(random, linear):
    target, importance, metric = problem(random)
    fitted = fit(target, importance, metric, 2, linear=linear)
    difference = embeddings(fitted, linear) - target
    expected = torch.einsum("vd,de,ve->v", difference, metric, difference)
    torch.testing.assert_close(fitted.error, expected, rtol=1e-4, atol=1e-5)


def test_linear_rows_are_the_best_of_their_width(random):
    target, importance, metric = problem(random)
    fitted = fit(target, importance, metric, 2, linear=True)
    # Eckart and Young: what is left of the weighted, centred targets has the other singular values.
    share = (importance / importance.sum()).double().unsqueeze(1)
    centred = target.double() - (share * target).sum(0)
    left = torch.linalg.svdvals(share.sqrt() * centred @ torch.linalg.cholesky(metric.double()))[2:]
    total = (share.squeeze(1) * fitted.error).sum()
    torch.testing.assert_close(total, left.square().sum(), rtol=1e-4, atol=1e-6)


def test_tanh_rows_find_an_exact_answer(random):
    rows = torch.randn(60, 2, generator=random)
    projection, offset = (torch.randn(6, k, generator=random) for k in (2, 1))
    target = torch.tanh(rows @ projection.t() + offset.squeeze(1))
    _, importance, metric = problem(random)
    error = fit(target, importance, metric, 2).error
    constant = squared_distance(target - target.mean(0), metric)
    assert error.mean() < 1e-3 * constant.mean()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_descent_improves_on_the_components(random, monkeypatch, width):
    target, importance, metric = problem(random)
    fitted = fit(target, importance, metric, width).error
    monkeypatch.setattr(module, "_descend", lambda t, i, m, *start: start)
    start = fit(target, importance, metric, width).error
    assert (importance * fitted).sum() < 0.95 * (importance * start).sum()


def test_each_row_is_at_its_best_under_the_projection(random):
    target, importance, metric = problem(random)
    fitted = fit(target, importance, metric, 2)
    for _ in range(50):
        near = fitted.rows + 0.02 * torch.randn(60, 2, generator=random)
        error = squared_distance(embeddings(fitted._replace(rows=near)) - target, metric)
        # Rows that are far out in the tanh have flat surroundings, where rounding decides.
        assert (error >= fitted.error * (1 - 1e-2) - 1e-5).all()


def test_rows_outside_the_sample_are_placed_as_well(random, monkeypatch):
    target, _, metric = problem(random, rows=400)
    importance = torch.ones(400)
    whole = fit(target, importance, metric, 2).error
    monkeypatch.setattr(module, "LARGEST_SAMPLE", 200)
    monkeypatch.setattr(module, "CHUNK", 64)  # the last one is not full
    sampled = fit(target, importance, metric, 2).error
    # The rows are drawn alike, so half of them tell the projection nearly as well as all.
    assert sampled[200:].mean() < 1.2 * whole[200:].mean()


def test_importance_decides_whom_the_projection_suits(random):
    target, _, metric = problem(random)
    first = torch.cat([torch.ones(30), torch.full((30,), 1e-4)])
    one, other = (fit(target, importance, metric, 1).error for importance in (first, first.flip(0)))
    assert one[:30].mean() < other[:30].mean()
    assert one[30:].mean() > other[30:].mean()


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_rows_than_width_are_exact(random, rows):
    target, importance, metric = problem(random, rows=rows)
    assert fit(target, importance, metric, 3).error.max() < 1e-6


def test_targets_at_the_end_of_the_range_do_no_harm(random):
    target, importance, metric = problem(random)
    target[0] = 1.0
    target[1] = -1.0
    fitted = fit(target, importance, metric, 2)
    assert all(torch.isfinite(value).all() for value in fitted)
