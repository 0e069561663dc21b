"""Wrong arguments given to the kernels themselves: refused, and no number beside theirs changes."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.ops import cpu
from tests.samples import REFUSED, Case, draw, draw_update, spoilt, update_op

often = settings(max_examples=150, deadline=None, derandomize=True)
changes = st.sampled_from([*spoilt(torch.zeros(2, 2))])
NAMES = ["sgd", "adagrad", "rowwise-adagrad", "adam"]


class Guarded:
    """Copies of tensors among numbers that nobody may touch."""

    def __init__(self):
        self.memories = []

    def copy(self, x):
        if x.layout != torch.strided or x.device.type != "cpu":
            return x
        size = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        memory = torch.full((max(size, 1) + 512,), 7, dtype=torch.float64).to(x.dtype)
        inner = memory[256:].as_strided(x.shape, x.stride(), 256)
        if 0 not in x.stride():
            inner.copy_(x)
        own = torch.zeros(memory.shape, dtype=torch.bool)
        own.as_strided(x.shape, x.stride(), 256).fill_(True)
        self.memories.append((memory, memory.clone(), own))
        return inner

    def check(self):
        for memory, before, own in self.memories:
            assert torch.equal(memory[~own], before[~own])


def spoil(data, arguments):
    """Change one or two of the tensors."""
    arguments = list(arguments)
    tensors = [i for i, x in enumerate(arguments) if isinstance(x, torch.Tensor)]
    for i in data.draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True)):
        arguments[i] = spoilt(arguments[i].detach())[data.draw(changes)]()
    return arguments


@pytest.mark.parametrize("name", NAMES)
@often
@given(data=st.data())
def test_an_update_is_right_or_refused(name, data):
    guarded = Guarded()
    arguments = spoil(data, draw_update(name, strided=data.draw(st.booleans())))
    arguments = [guarded.copy(x) if isinstance(x, torch.Tensor) else x for x in arguments]
    with suppress(*REFUSED):
        getattr(cpu, update_op(name))(*arguments)
    guarded.check()


@pytest.mark.parametrize("name", NAMES)
def test_an_update_as_it_should_be_changes_its_rows(name):
    guarded = Guarded()
    arguments = draw_update(name, strided=True)
    arguments = [guarded.copy(x) if isinstance(x, torch.Tensor) else x for x in arguments]
    before = arguments[0].clone()
    getattr(cpu, update_op(name))(*arguments)
    guarded.check()
    changed = (arguments[0] != before).any(1)
    assert changed.nonzero().flatten().tolist() == arguments[1].tolist()


@pytest.mark.parametrize("training", [True, False])
@often
@given(data=st.data())
def test_a_pass_is_right_or_refused(training, data):
    sample = draw(Case((4, 8), 2, 9), training, torch.float32).detached()
    statistics = torch.zeros(2, 2, 8), torch.ones(2, 2, 8)
    backwards = data.draw(st.booleans())
    problem = sample.problem(*(statistics if backwards else ()))
    guarded = Guarded()
    own = (sample.grad, data.draw(st.booleans())) if backwards else (data.draw(st.booleans()),)
    options, *tensors = problem.flat()
    grad, *tensors = spoil(data, [own[0], *tensors])
    tensors = [guarded.copy(x) if isinstance(x, torch.Tensor) else x for x in tensors]
    if isinstance(grad, torch.Tensor):
        grad = guarded.copy(grad)
    problem = type(problem)(*tensors[:6], tensors[6:], *options)
    with suppress(*REFUSED):
        if backwards:
            cpu.backward(grad, own[1], *problem)
        else:
            cpu.forward(grad, *problem)
    guarded.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": ()}, "expected dims to be positive"),
        ({"dims": (4, 0)}, "expected dims to be positive"),
        ({"dims": (4, -8)}, "expected dims to be positive"),
        ({"tables": []}, "expected ids of shape"),
        ({"training": False}, "expected mean and variance but got None"),
        ({"weights": torch.zeros(9, 2, 2, device="meta")}, "expected tensors on cpu but got them"),
    ],
)
def test_options_that_kernels_would_misread_are_named(change, message):
    problem = draw(Case((4, 8), 2, 9), True, torch.float32).detached().problem()
    with pytest.raises((RuntimeError, ValueError), match=message):
        cpu.forward(False, *problem._replace(**change))


def call(**changes):
    """A call of the kernels by addresses, of no memory that exists."""
    arguments = {
        "batch": 0, "width": 8, "dims": [4, 8], "tables": [(0, 12)] * 2, "num_rows": [3],
        "ids": (0, 1, 1), "weights": (0, 2, 2, 1), "projection": 0, "bias": 0, "mean": 0,
        "variance": 0, "eps": 0.0, "average": True, "training": True,
        "kernels": cpu.KERNELS, "threads": 1,
    }  # fmt: skip
    return cpu._cpu.Call(**arguments | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": -1}, "expected sizes that are not negative"),
        ({"width": 0}, "expected sizes that are not negative"),
        ({"dims": []}, "expected dims that are positive"),
        ({"dims": [4, -8]}, "expected dims that are positive"),
        ({"tables": [(0, 12)]}, "expected a table for every field and size"),
        ({"batch": 5}, "expected addresses of all inputs"),
        ({"batch": 5, "num_rows": [0]}, "expected addresses of all inputs"),
        ({"kernels": "sse9"}, "no kernels named sse9"),
    ],
)
def test_a_call_by_addresses_checks_what_it_can(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_null_addresses_are_refused():
    module, kernels = cpu._cpu, cpu.KERNELS
    assert module.forward(call(), 0, 0, 0) == (-1, 0)  # no event
    with pytest.raises(ValueError, match="addresses of both statistics"):
        module.forward(call(), 0, 1, 0)
    for function, state in (("sgd", ()), ("adagrad", (0.1, 0, False)), ("adam", (0.1,) * 3)):
        rest = (*state, 0, 0, 0) if function == "adam" else state
        update = getattr(module, f"update_{function}")
        with pytest.raises(ValueError, match=r"expected (an address|addresses) of"):
            update(0, 5, 4, 0, 2, 0, 4, 0.1, *rest, kernels, 1)
        with pytest.raises(ValueError, match="not negative"):
            update(0, 5, 4, 0, -2, 0, 4, 0.1, *(1 if x == 0 else x for x in rest), kernels, 1)
    with pytest.raises(ValueError, match="addresses of both arrays"):
        module.tanh(0, 0, 5, kernels)
