"""A batch, and the same random numbers for every test."""

import pytest
import torch

from tests.nn.small import draw_ids, draw_weights


@pytest.fixture
def inputs():
    return draw_ids(7), draw_weights(7)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def assert_near_with_gradients(assert_near):
    """Return a check of an output and of the gradients of all parameters against expected ones."""

    def check(module, output, expected):
        assert_near(output, expected)
        leaves = [*module.parameters()]
        grad = torch.randn(output.shape, dtype=output.dtype)
        pairs = zip(
            torch.autograd.grad(output, leaves, grad),
            torch.autograd.grad(expected, leaves, grad),
            strict=True,
        )
        for one, other in pairs:
            assert_near(one, other, "gradients")

    return check
