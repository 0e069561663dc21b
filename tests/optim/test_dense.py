"""Optimisers of dense parameters."""

import copy

import pytest
import torch

from autoemb.optim import OPTIMIZERS
from autoemb.optim.adagrad import DeviceAdagrad

every = pytest.mark.parametrize("kind", [pytest.param(k, id=k.name) for k in OPTIMIZERS.values()])


def parameters(dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,)]
    return [torch.nn.Parameter(torch.randn(*shape, generator=random).to(dtype)) for shape in shapes]


def descend(optimizer, parameters, seed):
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(*parameter.shape, generator=random).to(parameter.dtype)
    optimizer.step()


@every
def test_rows_that_are_all_in_play_move_as_dense_parameters(kind, assert_near):
    if kind.name == "rowwise-adagrad":
        pytest.skip("row-wise in tables alone")
    dense, rows = parameters(torch.float64), parameters(torch.float64)
    one, other = kind.dense(dense, 0.1), kind.rows(rows, lr=0.1)
    for seed in range(5):
        descend(one, dense, seed)
        for parameter, twin in zip(dense, rows, strict=True):
            other.update(twin, torch.arange(len(twin)), parameter.grad)
    for parameter, twin in zip(dense, rows, strict=True):
        assert_near(parameter, twin)


@every
def test_a_step_keeps_state_where_it_is_and_gradients_as_they_are(kind):
    values = parameters()
    optimizer = kind.dense(values, 0.1)
    descend(optimizer, values, 0)

    def addresses():
        states = [optimizer.state[parameter] for parameter in values]
        return [x.data_ptr() for state in states for x in state.values()] + [
            x.data_ptr() for x in values
        ]

    before, grads = addresses(), [parameter.grad.clone() for parameter in values]
    descend(optimizer, values, 0)
    assert addresses() == before
    assert all(torch.equal(p.grad, grad) for p, grad in zip(values, grads, strict=True))


@every
def test_a_parameter_without_a_gradient_stays(kind):
    (first, second), optimizer = (values := parameters()), kind.dense(values, 0.1)
    before = first.detach().clone(), second.detach().clone()
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert torch.equal(second, before[1])
    assert (first < before[0]).all()


@every
def test_a_loaded_state_continues_bit_by_bit(kind):
    values = parameters()
    optimizer = kind.dense(values, 0.1)
    descend(optimizer, values, 0)
    others = copy.deepcopy(values)
    other = kind.dense(others, 0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        descend(optimizer, values, seed)
        descend(other, others, seed)
    assert all(torch.equal(a, b) for a, b in zip(values, others, strict=True))


@pytest.mark.parametrize("name", ["adagrad", "ftrl"])
def test_a_step_needs_no_value(name):
    # The fused optimisers of PyTorch know no device without values.
    values = [torch.nn.Parameter(parameter.detach().to("meta")) for parameter in parameters()]
    optimizer = OPTIMIZERS[name].dense(values, 0.1)
    for parameter in values:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert len(states) == 4
    assert all(value.is_meta for value in states)


# Adagrad on a device


def test_adagrad_on_a_device_is_pytorchs():
    ours, theirs = parameters(), parameters()
    one, other = DeviceAdagrad(ours, lr=0.1), torch.optim.Adagrad(theirs, lr=0.1)
    for seed in range(5):
        descend(one, ours, seed)
        descend(other, theirs, seed)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    states = (optimizer.state_dict()["state"].values() for optimizer in (one, other))
    for a, b in zip(*states, strict=True):
        assert a.keys() == b.keys()
        assert a["step"] == b["step"] == 5
        torch.testing.assert_close(a["sum"], b["sum"])


def test_adagrad_on_a_device_skips_parameters_without_gradient():
    (first, second), optimizer = (values := parameters()), DeviceAdagrad(values, lr=0.1)
    before = second.detach().clone()
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert torch.equal(second, before)
    assert [state["step"].item() for state in optimizer.state_dict()["state"].values()] == [1, 0]


def test_adagrad_continues_on_a_device_what_it_began_on_the_cpu():
    values = parameters()
    cpu = OPTIMIZERS["adagrad"].dense(values, 0.1)
    descend(cpu, values, 0)
    others = copy.deepcopy(values)
    device = DeviceAdagrad(others, lr=0.5)
    device.load_state_dict(copy.deepcopy(cpu.state_dict()))
    descend(cpu, values, 1)
    descend(device, others, 1)
    for a, b in zip(values, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
