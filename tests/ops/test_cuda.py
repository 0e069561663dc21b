"""The registered ops on a CUDA device: numbers, derivatives, graphs, compilers, sizes, errors."""

import copy
import io

import pytest
import torch
from torch.utils._triton import has_triton

from autoemb import FixedEmbedding, PerIdLogits, SoftEmbedding
from autoemb.ops import check_ids, soft_embedding
from autoemb.optim import OPTIMIZERS
from tests.samples import WITH_OP, Case, draw, draw_update, update_op

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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("embeddings", [True, False])
def test_opcheck_of_the_backward_op(training, embeddings):
    sample = draw(Case((1, 3), 2, 6), training, torch.float32)
    (*tensors, running), named, _ = on_device(sample)
    options = sample.dims, named["eps"], named["average"]
    _, *statistics = torch.ops.autoemb.soft_embedding(
        *tensors, *(running or (None, None)), *options, False, "native"
    )
    grad = sample.grad.to(DEVICE).requires_grad_()
    arguments = grad, *tensors, *statistics, *options, training, embeddings, "native"
    torch.library.opcheck(torch.ops.autoemb.soft_embedding_backward, arguments)


@pytest.mark.parametrize("name", WITH_OP)
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
def test_opcheck_of_the_updates(name, strided, monkeypatch):
    monkeypatch.setenv("AUTOEMB_BACKEND", "native")
    arguments = draw_update(name, strided=strided, device=DEVICE)
    torch.library.opcheck(getattr(torch.ops.autoemb, update_op(name)), arguments)


def make_module(**options):
    torch.manual_seed(0)
    return SoftEmbedding([64, 64], backend="native", device=DEVICE, **options)


def draw_batch(size, seed=0):
    """Return ids, weights and a gradient for the output of a module."""
    sample = draw(Case((2, 16, 128), 2, size), True, torch.float32, seed)
    return [x.detach().to(DEVICE) for x in (sample.ids, sample.weights, sample.grad)]


@pytest.fixture(params=["aot_eager", "inductor"])
def compiler(request):
    if request.param == "inductor" and not has_triton():
        pytest.skip("no Triton, which inductor needs on this device")
    torch.compiler.reset()
    # A graph cached on disk is found by its operators, whatever their derivatives were then.
    with torch.compiler.config.patch(force_disable_caches=True):
        yield request.param
    torch.compiler.reset()


@pytest.mark.filterwarnings("default")  # what inductor and Triton warn of is theirs
@pytest.mark.parametrize("sparse", [False, True])
def test_a_compiled_training_step_equals_the_eager_one(compiler, sparse, assert_near):
    eager = make_module(sparse=sparse)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, backend=compiler)
    for seed in range(3):
        ids, weights, grad = draw_batch(33, seed)
        results = []
        for model in (compiled, eager):
            model.zero_grad()
            leaf = weights.clone().requires_grad_()
            output = model(ids, leaf)
            output.backward(grad)
            results.append([output, leaf.grad, *(p.grad for p in model.parameters())])
        for one, other in zip(*results, strict=True):
            assert one.is_sparse == other.is_sparse
            assert_near(one, other, "gradients")
    for one, other in zip(module.buffers(), eager.buffers(), strict=True):
        assert_near(one.float(), other.float())  # counts, too


def test_an_exported_module_serves_from_a_file():
    module = make_module()
    ids, weights, _ = draw_batch(33)
    module(ids, weights)  # for statistics other than the initial ones
    module.eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (ids, weights), dynamic_shapes=(batch, batch))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in (33, 7):
        ids, weights, _ = draw_batch(size, seed=1)
        output = loaded(ids, weights)
        assert output.device.type == DEVICE
        assert torch.equal(output, module(ids, weights))


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


def told(call):
    """Run it and return what it, or a look once the device has finished, raises: once."""

    def until_told():
        call()
        torch.cuda.synchronize()
        check_ids(torch.device(DEVICE))

    with pytest.raises(IndexError) as raised:
        until_told()
    check_ids(torch.device(DEVICE))
    assert torch.ones(2, device=DEVICE).sum().item() == 2  # no assert has stopped the device
    return str(raised.value)


every_bad = pytest.mark.parametrize("bad", [-1, 64, 2**40, 2**63 - 1, -(2**63)])


@every_bad
def test_second_derivatives_read_no_bad_id(bad):
    module = make_module()
    ids, weights, grad = draw_batch(33)
    ids[3, 1] = bad
    weights.requires_grad_()
    leaves = [weights, *module.parameters()]

    def call():
        first = torch.autograd.grad(module(ids, weights), leaves, grad, create_graph=True)
        total = sum(x.square().sum() for x in first)
        return torch.autograd.grad(total, leaves, materialize_grads=True)

    assert f"out of range in field 1: id {bad} is not in [0, 63]" in told(call)
    ids[3, 1] = 0
    assert all(x.isfinite().all() for x in call())


@every_bad
@pytest.mark.parametrize("module", [FixedEmbedding, PerIdLogits])
def test_a_lookup_reads_no_bad_id(module, bad):
    module = module([64, 64], 6).to(DEVICE)
    ids = torch.zeros(33, 2, dtype=torch.int64, device=DEVICE)
    ids[3, 1] = bad
    arguments = (ids.unbind(1), [None, None]) if isinstance(module, PerIdLogits) else (ids,)
    assert told(lambda: module(*arguments)) == (
        f"index out of range in field 1: id {bad} is not in [0, 63]"
    )


@every_bad
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", WITH_OP)
def test_an_update_writes_no_bad_row(name, dtype, bad):
    table = torch.nn.Parameter(torch.ones(64, 5, dtype=dtype, device=DEVICE))
    rows = torch.tensor([2, bad], device=DEVICE).sort()[0]
    optimizer = OPTIMIZERS[name].rows([table])
    grad = torch.ones(2, 5, dtype=dtype, device=DEVICE)
    message = f"index out of range: row {bad} is not in [0, 63]"
    assert told(lambda: optimizer.update(table, rows, grad)) == message
    others = torch.arange(64, device=DEVICE) != 2
    assert (table[others] == 1).all()


@every_bad
def test_a_captured_lookup_tells_of_a_bad_id(bad):
    module = FixedEmbedding([64, 64], 6).to(DEVICE)
    ids = torch.zeros(33, 2, dtype=torch.int64, device=DEVICE)
    module(ids)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = module(ids)
    ids[3, 1] = bad
    assert f"field 1: id {bad} is not in [0, 63]" in told(graph.replay)
    assert not output[3, 1].any()
    assert output[2, 1].any()


# Tables of more than 2**31 numbers

ABOVE = 2**24  # rows of 146 numbers: 2.4e9 of them, 9.8 GB


def at_the_end(tensors):
    """Return them with ABOVE rows of zeros before their own, if the device has the memory."""
    needed = sum(ABOVE * x[0].numel() * x.element_size() for x in tensors)
    torch.cuda.empty_cache()  # of what an earlier test has left
    free, _ = torch.cuda.mem_get_info()
    if free < needed + 2**30:
        pytest.skip(f"{needed / 1e9:.0f} GB of device memory are needed and {free / 1e9:.0f} free")
    results = []
    for x in tensors:
        whole = torch.zeros(ABOVE + len(x), *x.shape[1:], dtype=x.dtype, device=DEVICE)
        whole[ABOVE:] = x.detach()
        results.append(whole)
    return results


@pytest.mark.parametrize("training", [True, False])
def test_rows_at_the_end_of_a_large_table(training, assert_near):
    exact = draw(Case((2, 16, 128), 1, 100), training, torch.float64)
    exact.ids[0] = len(exact.tables[0]) - 1  # the very last row
    sample = exact.to(torch.float32)
    positional, named = exact.arguments()
    output = soft_embedding(*positional, **named, backend="reference").output
    expected = [output, *torch.autograd.grad(output, exact.leaves, exact.grad)]

    (tables, ids, *rest), named, (table, *leaves) = on_device(sample)
    (large,) = at_the_end(tables)
    large.requires_grad_()
    output = soft_embedding(
        [large], ids + ABOVE, *rest, **named, sparse=True, backend="native"
    ).output
    grad, *grads = torch.autograd.grad(output, [large, *leaves], sample.grad.to(DEVICE))
    assert grad.shape == large.shape
    rows = grad._indices()[0] - ABOVE
    table_grad = torch.zeros_like(table).index_add_(0, rows, grad._values())
    assert_near(output.cpu(), expected[0], "ieee values")
    for one, other in zip([table_grad, *grads], expected[1:], strict=True):
        assert_near(one.cpu(), other, "ieee gradients")


@pytest.mark.parametrize("name", WITH_OP)
def test_an_update_of_rows_at_the_end_of_a_large_table(name, assert_near, monkeypatch):
    update = getattr(torch.ops.autoemb, update_op(name))
    table, rows, grad, *rest = draw_update(name, rows=100, width=146)
    changed = [table, *(x for x in rest if isinstance(x, torch.Tensor))]
    rates = rest[len(changed) - 1 :]
    exact = [x.double() if x.is_floating_point() else x.clone() for x in changed]
    update(exact[0], rows, grad.double(), *exact[1:], *rates)  # float64: the reference

    large = at_the_end(changed)
    monkeypatch.setenv("AUTOEMB_BACKEND", "native")
    update(large[0], rows.to(DEVICE) + ABOVE, grad.to(DEVICE), *large[1:], *rates)
    for one, other in zip(large, exact, strict=True):
        assert not one[:ABOVE].any()
        assert_near(one[ABOVE:].float().cpu(), other.double())
