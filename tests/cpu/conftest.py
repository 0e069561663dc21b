"""The native CPU kernels under test: every set of them that this CPU runs."""

from types import SimpleNamespace

import pytest
import torch

from autoemb.ops import cpu

GRADIENTS = "embeddings_grad", "weights_grad", "projection_grad", "bias_grad", "rows"


def pytest_collection_modifyitems(items):
    if not cpu.COMPILED:
        skip = pytest.mark.skip(reason=f"the native CPU kernels are not built: {cpu.IMPORT_ERROR}")
        for item in items:
            if "tests/cpu/" in item.nodeid:
                item.add_marker(skip)


@pytest.fixture(params=cpu._cpu.kernels if cpu.COMPILED else ["none"])
def kernels(request, monkeypatch):
    """The name of the instruction set in use."""
    monkeypatch.setattr(cpu, "KERNELS", request.param)
    return request.param


@pytest.fixture
def set_threads():
    """torch.set_num_threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def run_op(kernels):
    """Run both passes of the op on the native kernels; results by name."""

    def run(sample, embeddings=True, backend="native"):
        tables = [table.detach() for table in sample.tables]
        inputs = [x.detach() for x in (sample.weights, sample.projection, sample.bias)]
        options = list(sample.dims), sample.eps, sample.average
        output, mean, variance = torch.ops.autoemb.soft_embedding(
            tables, sample.ids, *inputs, *(sample.running or (None, None)), *options, False, backend
        )
        training = sample.running is None
        statistics = mean.clone(), variance.clone()
        gradients = torch.ops.autoemb.soft_embedding_backward(
            sample.grad, tables, sample.ids, *inputs, *statistics, *options, training, embeddings,
            backend,
        )  # fmt: skip
        assert torch.equal(statistics[0], mean)
        assert torch.equal(statistics[1], variance)
        results = dict(zip(GRADIENTS, gradients, strict=True))
        return SimpleNamespace(output=output, mean=mean, variance=variance, **results)

    return run


@pytest.fixture
def run_forward(kernels):
    """Run the forward pass with the batch's own statistics beside given ones."""

    def run(sample):
        inputs = sample.ids, sample.weights, sample.projection, sample.bias, *sample.running
        options = list(sample.dims), sample.eps, sample.average, False, "native", True
        with torch.no_grad():
            found = torch.ops.autoemb.soft_embedding(sample.tables, *inputs, *options)
        return SimpleNamespace(**dict(zip(("output", "mean", "variance"), found, strict=True)))

    return run


@pytest.fixture(scope="session")
def assert_same():
    """Compare two results bit by bit."""

    def check(actual, expected):
        for name, value in vars(expected).items():
            assert torch.equal(getattr(actual, name), value), name

    return check
