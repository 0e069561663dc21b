"""The registered op on a CUDA device: the kernels' numbers, derivatives, graphs and errors."""

import pytest
import torch

from autoemb.ops import soft_embedding
from tests.samples import Case, draw

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = "cuda"
CASES = [
    Case((2, 16, 128), 2, 500),
    Case((2, 16, 128), 26, 33, layout="strided"),
    Case((1, 3, 7), 2, 33, ids="same"),
    Case((16, 64, 256), 2, 100, ids="distinct", average=False),
]


def on_device(sample):
    """Return the positional and named arguments there, and the leaves among them."""
    (tables, ids, weights, projection, bias, running), named = sample.arguments()

    def leaf(x):
        return x.detach().to(DEVICE).requires_grad_()

    tables = [leaf(table) for table in tables]
    weights, projection, bias = leaf(weights), leaf(projection), leaf(bias)
    running = running and tuple(x.to(DEVICE, torch.float32) for x in running)
    positional = tables, ids.to(DEVICE), weights, projection, bias, running
    return positional, named, [*tables, weights, projection, bias]


def first_and_second(positional, named, leaves, grad, backend):
    """Return the output, its gradients, and the gradients of a function of those."""
    output = soft_embedding(*positional, **named, backend=backend).output
    grads = torch.autograd.grad(output, leaves, grad, create_graph=True)
    total = sum(x.square().sum() for x in grads)
    return [output], grads, torch.autograd.grad(total, leaves, allow_unused=True)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_values_and_derivatives_equal_the_reference(case, training, assert_near):
    exact = draw(case, training, torch.float64)
    sample = exact.to(torch.float32)
    positional, named = exact.arguments()
    expected = first_and_second(positional, named, exact.leaves, exact.grad, "reference")
    actual = first_and_second(*on_device(sample), sample.grad.to(DEVICE), "native")
    for kind, some, wanted in zip(
        ("ieee values", "ieee gradients", "ieee gradients"), actual, expected, strict=True
    ):
        for one, other in zip(some, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_near(one.cpu(), other, kind)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_graph_replays_the_bits_of_a_call(case):
    first, second = (draw(case, True, torch.float32, seed) for seed in (0, 1))
    positional, named, leaves = on_device(first)
    grad = first.grad.to(DEVICE)

    def call():
        output = soft_embedding(*positional, **named, backend="native").output
        return [output, *torch.autograd.grad(output, leaves, grad)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    with torch.no_grad():  # other ids and weights at the same place
        positional[1].copy_(second.ids)
        positional[2].copy_(second.weights)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, call(), strict=True))


def test_reruns_of_second_derivatives_are_equal_to_the_bit():
    sample = draw(Case((2, 16, 128), 2, 128), True, torch.float32)  # five ids for all events
    positional, named, leaves = on_device(sample)
    call = positional, named, leaves, sample.grad.to(DEVICE), "native"
    once, again = (first_and_second(*call)[2] for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device():
    sample = draw(CASES[0], True, torch.float32)
    positional, named, leaves = on_device(sample)
    grad = sample.grad.to(DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = soft_embedding(*positional, **named, sparse=True, backend="native").output
        torch.autograd.grad(output, leaves, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_opcheck():
    sample = draw(Case((1, 3), 2, 6), True, torch.float32)
    positional, named, _ = on_device(sample)
    options = sample.dims, named["eps"], named["average"]
    arguments = *positional[:-1], None, None, *options, False, "native"
    torch.library.opcheck(torch.ops.autoemb.soft_embedding, arguments)


def test_a_bad_id_is_raised_by_the_next_call_after_it_was_met():
    sample = draw(Case((1, 3), 2, 6), True, torch.float32)
    positional, named, _ = on_device(sample)
    positional[1][3, 1] = len(positional[0][1])
    soft_embedding(*positional, **named, backend="native")
    torch.cuda.synchronize()
    positional[1][3, 1] = 0
    with pytest.raises(IndexError, match="out of range in field 1"):
        soft_embedding(*positional, **named, backend="native")
    soft_embedding(*positional, **named, backend="native")
