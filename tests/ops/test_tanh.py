"""The faster tanh: its error and its derivatives."""

import pytest
import torch

from autoemb.ops import Tanh, tanh


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_float32_error_is_below_the_documented_bound(wants_gradient, assert_near):
    x = torch.cat([torch.linspace(-12, 12, 1_000_001), torch.logspace(-30, 2, 100_001)])
    value = tanh(x.requires_grad_(wants_gradient)).detach()
    assert value.dtype == torch.float32
    assert_near(value, torch.tanh(x.detach().double()), "tanh")
    assert value.abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_take_the_exact_function(dtype):
    x = torch.linspace(-12, 12, 10_001, dtype=dtype)
    assert torch.equal(tanh(x), torch.tanh(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_infinities_saturate_and_nan_stays(dtype):
    value = tanh(torch.tensor([-torch.inf, -1e30, 0, 1e30, torch.inf, torch.nan], dtype=dtype))
    assert value[:5].tolist() == [-1, -1, 0, 1, 1]
    assert value[5].isnan()


@pytest.mark.parametrize("shape", [(0,), (), (3, 5), (2, 0, 4)], ids=str)
def test_shape_and_input_stay(shape):
    x = torch.ones(shape)
    assert tanh(x).shape == shape
    assert torch.equal(x, torch.ones(shape))


def test_strided_input_equals_its_copy():
    x = torch.randn(31, 33, generator=torch.Generator().manual_seed(0)).t()[:, ::2]
    assert torch.equal(tanh(x), tanh(x.contiguous()))


def test_first_and_second_derivatives():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(tanh, x)
    assert torch.autograd.gradgradcheck(tanh, x)


def test_float32_derivatives_equal_those_of_torch(assert_near):
    x = torch.linspace(-6, 6, 1001)

    def derivatives(function, x):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        (third,) = torch.autograd.grad(second.sum(), x)
        return first, second, third

    pairs = zip(derivatives(tanh, x), derivatives(torch.tanh, x.double()), strict=True)
    for actual, expected in pairs:
        assert_near(actual, expected)


def test_module_is_the_function():
    x = torch.linspace(-3, 3, 13)
    assert torch.equal(Tanh()(x), tanh(x))
