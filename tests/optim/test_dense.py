"""Optimisers of dense parameters."""

import copy

import torch

from autoemb.optim.dense import DENSE_OPTIMIZERS, _DeviceAdagrad


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
