"""The native CPU kernels under test: every set of them that this CPU runs."""

from types import SimpleNamespace

import pytest
import torch

from autoemb.ops import cpu
from tests.samples import BACKWARD, FORWARD, overload

GRADIENTS = "embeddings_grad", "weights_grad", "projection_grad", "bias_grad", "rows"


def pytest_collection_modifyitems(items):
    if not cpu.COMPILED:
        skip = pytest.mark.skip(reason=f"the native CPU kernels are not built: {cpu.IMPORT_ERROR}")
        for item in items:
            if "tests/cpu/" in item.nodeid:
                item.add_marker(skip)


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def kernels(request, monkeypatch):
    """The name of the instruction set in use: each in turn, whatever the best one is."""
    if request.param not in cpu._cpu.kernels:
        pytest.skip(f"this CPU has no {request.param}")
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
        sample = sample.detached()
        forward, backward = (overload(op, sample, backend) for op in (FORWARD, BACKWARD))
        output, *statistics = forward(False, *sample.problem())
        before = [x.clone() for x in statistics]
        gradients = backward(sample.grad, embeddings, *sample.problem(*statistics))
        assert all(map(torch.equal, statistics, before))
        mean, variance = statistics
        results = dict(zip(GRADIENTS, gradients, strict=True))
        return SimpleNamespace(output=output, mean=mean, variance=variance, **results)

    return run


@pytest.fixture
def run_forward(kernels):
    """Run the forward pass with the batch's own statistics beside given ones."""

    def run(sample):
        found = FORWARD(True, *sample.detached().problem())
        return SimpleNamespace(**dict(zip(("output", "mean", "variance"), found, strict=True)))

    return run


@pytest.fixture(scope="session")
def assert_same():
    """Compare two results bit by bit."""

    def check(actual, expected):
        for name, value in vars(expected).items():
            assert torch.equal(getattr(actual, name), value), name

    return check
