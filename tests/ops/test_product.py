"""Products and linear layers, below and above the size from which oneDNN multiplies."""

import importlib

import pytest
import torch

from autoemb.ops import Linear, product
from autoemb.ops.product import _LEAST

SHAPES = [(5, 3, 4), (1, 1, 1), (130, 128, 128)]
assert SHAPES[0][0] * SHAPES[0][1] * SHAPES[0][2] < _LEAST < 130 * 128 * 128


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"], autouse=True)
def library(request, monkeypatch):
    """Either library, whichever is chosen for this CPU."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    # The function has the module's name.
    module = importlib.import_module("autoemb.ops.product")
    monkeypatch.setattr(module, "_ONEDNN", request.param)


def strided(rows, columns):
    """The same matrix in every way it may lie in memory."""
    matrix = torch.randn(rows, columns)
    wide = torch.randn(rows, columns + 3)
    wide[:, 1:-2] = matrix
    every_other = torch.zeros(2 * rows, columns)
    every_other[::2] = matrix
    return {
        "rows": matrix,
        "columns": matrix.t().contiguous().t(),
        "part of wider rows": wide[:, 1:-2],
        "every other row": every_other[::2],
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", strided(1, 1))
def test_product_and_its_gradients_are_those_of_float64(shape, layout, assert_near):
    torch.manual_seed(0)
    m, k, n = shape
    a, b = strided(m, k)[layout].requires_grad_(), strided(k, n)[layout].requires_grad_()
    wide_a, wide_b = (value.detach().double().requires_grad_() for value in (a, b))
    grad = torch.randn(m, n)
    result, expected = product(a, b), wide_a @ wide_b
    assert_near(result, expected)
    found = torch.autograd.grad(result, [a, b], grad)
    wanted = torch.autograd.grad(expected, [wide_a, wide_b], grad.double())
    for f, w in zip(found, wanted, strict=True):
        assert_near(f, w, "gradients")
    with torch.no_grad():
        assert_near(product(a, b), expected)


def test_a_gradient_without_strides_is_taken(assert_near):
    a, b = torch.randn(130, 128, requires_grad=True), torch.randn(128, 128)
    (found,) = torch.autograd.grad(product(a, b).sum(), a)  # the gradient of a sum is expanded
    assert_near(found, b.double().sum(1).expand(130, 128), "gradients")


@pytest.mark.parametrize("rows", [0, 1, 31, 130])
def test_linear_is_torch_linear(rows, assert_near):
    torch.manual_seed(0)
    ours, theirs = Linear(128, 128), torch.nn.Linear(128, 128).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(rows, 128)
    for frozen in (False, True):
        ours.requires_grad_(not frozen)
        assert_near(ours(x), theirs(x.double()))


def test_first_and_second_derivatives():
    layer = Linear(3, 2, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    leaves = (x, *layer.parameters())

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x).square()

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_linear_goes_along_with_autocast():
    layer, x = Linear(128, 128), torch.randn(130, 128)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
