"""Checkpointing, torch.func and autocast: the op and the layers around it go along."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from autoemb import SoftEmbedding
from autoemb.ops import Linear, Tanh, pool, product, soft_embedding, tanh
from tests.samples import Case, draw

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# What torch loads at the first jvp of a process warns of torch's own use of torch.jit.
first_jvp = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
FORWARD_MODE = "You must implement the jvp function"  # torch's own words


@pytest.fixture
def problem(training, dtype):
    """The op as a function of its leaves, and these; the kernels compute in float32."""
    sample = draw(Case((1, 3), 2, 6), training, torch.float64).to(dtype)
    (*_, running), named = sample.arguments()

    def function(weights, projection, bias, *tables):
        return soft_embedding(
            tables, sample.ids, weights, projection, bias, running, **named
        ).output

    return function, (sample.weights, sample.projection, sample.bias, *sample.tables)


@every_dtype
@pytest.mark.parametrize("statistics", [False, True])
def test_a_checkpointed_call_has_the_same_gradients(training, dtype, statistics):
    sample = draw(Case((1, 3), 2, 6), training, torch.float64).to(dtype)
    positional, named = sample.arguments()

    def call(*tables):
        arguments = list(tables), *positional[1:]
        return soft_embedding(*arguments, **named, statistics=statistics).output

    expected = torch.autograd.grad(call(*sample.tables), sample.leaves, sample.grad)
    again = checkpoint(call, *sample.tables, use_reentrant=False)
    actual = torch.autograd.grad(again, sample.leaves, sample.grad)
    assert all(map(torch.equal, actual, expected))


@every_dtype
def test_grad_and_vjp_are_those_of_autograd(problem, dtype):
    function, leaves = problem
    output = function(*leaves)
    cotangent = torch.ones_like(output)
    expected = torch.autograd.grad(output.square().sum(), leaves)
    wanted = tuple(range(len(leaves)))
    plain = [leaf.detach() for leaf in leaves]
    found = torch.func.grad(lambda *x: function(*x).square().sum(), wanted)(*plain)
    assert all(map(torch.equal, found, expected))
    value, pull = torch.func.vjp(function, *plain)
    assert torch.equal(value, output)
    for _ in range(2):  # the call is over: what it saved must still be read
        assert all(map(torch.equal, pull(2 * output.detach()), expected))
    assert len(pull(cotangent)) == len(leaves)


@pytest.mark.parametrize("dtype", [torch.float64], ids=str)
def test_gradients_of_gradients_are_those_of_autograd(problem, dtype, assert_near):
    function, leaves = problem

    def slope(*x):
        return sum(part.square().sum() for part in torch.func.grad(loss, (0, 1, 3))(*x))

    def loss(*x):
        return function(*x).square().sum()

    first = torch.autograd.grad(loss(*leaves), [leaves[0], leaves[1], leaves[3]], create_graph=True)
    total = sum(part.square().sum() for part in first)
    expected = torch.autograd.grad(total, leaves, materialize_grads=True)
    wanted = tuple(range(len(leaves)))
    found = torch.func.grad(slope, wanted)(*(leaf.detach() for leaf in leaves))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, "gradients")


@every_dtype
def test_vmap_is_a_loop(problem, dtype):
    function, (weights, *rest) = problem
    many = torch.stack([weights.detach(), 2 * weights.detach()], 1)
    rest = [leaf.detach() for leaf in rest]
    found = torch.func.vmap(lambda w: function(w, *rest), in_dims=1)(many)
    assert torch.equal(found, torch.stack([function(w, *rest) for w in many.unbind(1)]))


@pytest.mark.parametrize("dtype", [torch.float64], ids=str)
def test_jacrev_is_the_jacobian_of_autograd(problem, dtype, assert_near):
    function, leaves = problem
    for i in (0, 3):

        def one(x, i=i):
            return function(*leaves[:i], x, *leaves[i + 1 :])

        expected = torch.autograd.functional.jacobian(one, leaves[i])
        assert_near(torch.func.jacrev(one)(leaves[i].detach()), expected, "gradients")


@first_jvp
@every_dtype
def test_forward_mode_is_refused_in_one_line(problem, dtype):
    function, (weights, *rest) = problem
    weights = weights.detach()
    with pytest.raises(NotImplementedError, match=FORWARD_MODE):
        torch.func.jvp(lambda w: function(w, *rest), (weights,), (weights,))


def layers():
    torch.manual_seed(0)
    linear, x = Linear(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    matrix = torch.randn(3, 2, dtype=torch.float64)
    positions, offsets = torch.tensor([0, 4, 4, 2]), torch.tensor([0, 1, 1, 4])
    parts = torch.rand(4, dtype=torch.float64)
    return {
        "linear": (linear, x),
        "product": (lambda x: product(x, matrix), x),
        "tanh": (tanh, x),
        "Tanh": (Tanh(), x),
        "pool": (lambda x: pool(x, positions, offsets), x),
        "pool, its weights": (lambda w: pool(x, positions, offsets, w), parts),
    }


@first_jvp
@pytest.mark.parametrize("name", layers())
def test_layers_go_through_transforms(name, assert_near):
    function, x = layers()[name]
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.functional.jacobian(function, x)
    assert_near(torch.func.jacrev(function)(x), expected)
    assert_near(torch.func.vmap(function)(torch.stack([x, 2 * x]))[1], function(2 * x).detach())
    again = checkpoint(function, leaf, use_reentrant=False).square().sum()
    (found,) = torch.autograd.grad(again, leaf)
    assert_near(found, torch.func.grad(lambda y: function(y).square().sum())(x))
    with pytest.raises(NotImplementedError, match=FORWARD_MODE):
        torch.func.jvp(function, (x,), (x,))


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("norm", ["batch", "running", "none"])
def test_a_gate_under_autocast(backend, norm):
    torch.manual_seed(0)
    module = SoftEmbedding([20, 30], (4, 8), norm=norm, backend=backend)
    gate = torch.nn.Linear(6, 4)
    x, ids = torch.randn(40, 6), torch.randint(20, (40, 2))
    with torch.autocast("cpu", torch.bfloat16):
        weights = gate(x).softmax(1).view(40, 2, 2).to(torch.bfloat16)
        weights.retain_grad()
        output = module(ids, weights)
    assert output.dtype == torch.float32
    output.square().sum().backward()
    assert weights.grad.dtype == torch.bfloat16
    assert gate.weight.grad.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())

    torch.manual_seed(0)
    plain = SoftEmbedding([20, 30], (4, 8), norm=norm, backend=backend)
    leaf = weights.detach().float().requires_grad_()
    expected = plain(ids, leaf)  # no product of the op is rounded by autocast
    expected.square().sum().backward()
    assert torch.equal(output, expected)
    assert torch.equal(weights.grad, leaf.grad.to(torch.bfloat16))
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_second_derivatives_within_autocast(training):
    sample = draw(Case((4, 8), 2, 33), training, torch.float32)
    positional, named = sample.arguments()

    def second():
        output = soft_embedding(*positional, **named).output
        first = torch.autograd.grad(output, sample.leaves, sample.grad, create_graph=True)
        total = sum(x.square().sum() for x in first)
        return torch.autograd.grad(total, sample.leaves, materialize_grads=True)

    expected = second()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, second(), expected))


def test_other_weights_are_refused_outside_of_autocast():
    sample = draw(Case((4, 8), 2, 33), True, torch.float32)
    (tables, ids, weights, *rest), named = sample.arguments()
    with pytest.raises(RuntimeError, match=r"expected weights of dtype torch\.float32 but got"):
        soft_embedding(tables, ids, weights.bfloat16(), *rest, **named)
