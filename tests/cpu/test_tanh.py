"""The kernels' tanh: its error bound, and the numbers at the ends."""

import pytest
import torch

from autoemb.ops import cpu

# Where the error over all 2^32 floats is largest: 2.42 with fused multiply-adds and without.
WORST = 0.0077671753242611885, 0.031202640384435654
BOUND = 2.5  # units in the last place, as csrc/cpu/vector.h says


def tanh(x, kernels):
    y = torch.full_like(x, 7)
    cpu._cpu.tanh(x.data_ptr(), y.data_ptr(), len(x), kernels)
    return y


def bits(x):
    return x.view(torch.int32)


def unit_in_the_last_place(exact):
    """Distance of the float32 numbers around."""
    exponent = torch.frexp(exact)[1].clamp(min=-125)
    return torch.ldexp(torch.ones_like(exact), exponent - 24)


@pytest.fixture(scope="module")
def floats():
    """Every 2,003rd positive float32, both ends of every exponent, and the worst ones."""
    infinity = int(bits(torch.tensor(torch.inf)))
    spread = torch.arange(0, infinity, 2003, dtype=torch.int32)
    ends = torch.arange(0, infinity, 1 << 23, dtype=torch.int32)
    near = torch.cat([ends + i for i in range(-3, 4)]).clamp(min=0)
    return torch.cat([spread.view(torch.float32), near.view(torch.float32), torch.tensor(WORST)])


def test_error_is_below_the_documented_bound(floats, kernels):
    exact = torch.tanh(floats.double())
    value = tanh(floats, kernels)
    error = (value.double() - exact).abs() / unit_in_the_last_place(exact)
    assert error.max() <= BOUND  # NaN fails too
    assert value.max() <= 1


def test_it_is_odd_to_the_bit(floats, kernels):
    assert torch.equal(bits(tanh(-floats, kernels)), bits(-tanh(floats, kernels)))


def test_zeros_infinities_and_nan(kernels):
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3e38, 1e-45, -1e-45, 1.2e-38])
    value = tanh(x, kernels)
    expected = torch.tensor([0.0, -0.0, 1, -1, torch.nan, 1, 1e-45, -1e-45, 1.2e-38])
    assert value[4].isnan()
    value[4] = expected[4] = 0
    assert torch.equal(bits(value), bits(expected))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 15, 16, 17, 33])
def test_any_count_and_no_number_beyond_it(count, kernels):
    x = torch.linspace(-3, 3, 64)
    y = torch.full_like(x, 7)
    cpu._cpu.tanh(x.data_ptr(), y.data_ptr(), count, kernels)
    assert torch.equal(y[:count], tanh(x, kernels)[:count])
    assert (y[count:] == 7).all()
