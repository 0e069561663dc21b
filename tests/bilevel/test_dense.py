"""Optimisers of dense parameters."""

import copy

import pytest
import torch

from autoemb.bilevel.dense import DENSE_OPTIMIZERS, RateDecay, _DeviceAdagrad


def parameters():
    random = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,)]
    return [torch.nn.Parameter(torch.randn(*shape, generator=random)) for shape in shapes]


def descend(optimizer, parameters, seed):
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(*parameter.shape, generator=random)
    optimizer.step()


def test_adagrad_on_a_device_is_pytorchs():
    ours, theirs = parameters(), parameters()
    one, other = _DeviceAdagrad(ours, lr=0.1), torch.optim.Adagrad(theirs, lr=0.1)
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
    (first, second), optimizer = (values := parameters()), _DeviceAdagrad(values, lr=0.1)
    before = second.detach().clone()
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert torch.equal(second, before)
    assert [state["step"].item() for state in optimizer.state_dict()["state"].values()] == [1, 0]


def test_adagrad_continues_on_a_device_what_it_began_on_the_cpu():
    values = parameters()
    cpu = DENSE_OPTIMIZERS["adagrad"](values, 0.1)
    descend(cpu, values, 0)
    others = copy.deepcopy(values)
    device = _DeviceAdagrad(others, lr=0.5)
    device.load_state_dict(copy.deepcopy(cpu.state_dict()))
    descend(cpu, values, 1)
    descend(device, others, 1)
    for a, b in zip(values, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_its_state_lies_with_the_parameters():
    values = [torch.nn.Parameter(parameter.detach().to("meta")) for parameter in parameters()]
    optimizer = DENSE_OPTIMIZERS["adagrad"](values, 0.1)
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert len(states) == 4
    assert all(value.is_meta for value in states)


def rates_by_hand(steps):
    """Three times the rate for ten steps, then 30 / t of it until that is 1."""
    return [0.1 * 3 if t <= 10 else 0.1 * max(1, 30 / t) for t in range(1, steps + 1)]


DEVICE_ADAGRAD = lambda params, lr: _DeviceAdagrad(params, lr=lr)  # noqa: E731


@pytest.mark.parametrize("make", [*DENSE_OPTIMIZERS.values(), DEVICE_ADAGRAD])
def test_a_rate_that_decays_is_that_of_an_optimiser_set_by_hand(make):
    ours, theirs = parameters(), parameters()
    one, other = make(ours, 0.1), make(theirs, 0.1)
    decay = RateDecay(one, 3)
    for seed, rate in enumerate(rates_by_hand(40)):
        decay.advance()
        descend(one, ours, seed)
        other.param_groups[0]["lr"] = rate
        descend(other, theirs, seed)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_rate_goes_on_decaying_where_it_was():
    one, other = (DENSE_OPTIMIZERS["adam"](parameters(), 0.1) for _ in range(2))
    decay, resumed = RateDecay(one, 3), RateDecay(other, 3)
    for _ in range(14):
        decay.advance()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    resumed.load_state_dict(decay.state_dict())
    for rate in rates_by_hand(40)[14:]:
        resumed.advance()
        assert other.param_groups[0]["lr"].item() == pytest.approx(rate)


def test_rate_and_count_lie_with_the_parameters():
    values = [torch.nn.Parameter(parameter.detach().to("meta")) for parameter in parameters()]
    decay = RateDecay(optimizer := torch.optim.SGD(values, lr=0.1), 3)
    assert decay.step.is_meta
    assert optimizer.param_groups[0]["lr"].is_meta
