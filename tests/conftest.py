"""The tolerances of every test that compares numbers, samples, a compiler that shows graphs."""

import os

# Two threads on two busy cores make every product slower; for this process and those it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.samples import sampler

# Largest error allowed, as a share of the largest number expected (or of 1 where that is smaller),
# by the dtype of the result. Sums of terms of mixed sign lose digits relative to their terms, not
# to their total, so an error entry by entry would say little.
TOLERANCES = {
    "values": {
        # The same sums in another order; where all ids are the same, 1/sqrt(eps) = 316 multiplies
        # the rounding that a plain mean leaves: 1.3e-11 seen, 7e-14 elsewhere.
        torch.float64: 1e-10,
        torch.float32: 4e-6,  # 2.4e-6 seen after 256-term products
        torch.bfloat16: 5e-3,  # float32 arithmetic, then one rounding: 2**-8 = 3.9e-3 at most
    },
    "gradients": {
        torch.float64: 1e-9,  # as values, through one more 1/sqrt(eps): 4.4e-11 seen
        torch.float32: 1e-5,  # 7.2e-6 seen where two rows nearly coincide, else 2.2e-6
        torch.bfloat16: 5e-3,  # as values
    },
    "statistics": {  # at mean/std = 100, or where rows nearly lie on a line
        torch.float64: 1e-12,  # 3.4e-14 seen
        torch.float32: 1e-4,  # 2.0e-5 seen; raw moments are off by 1e-2
    },
    "updates": {torch.float32: 1e-6},  # 1.3e-7 seen
    # The kernels, by how they multiply: the project's bars. Rounding is 2**-24, 2**-11 and 2**-9.
    "ieee values": {torch.float32: 1e-5},  # 1.4e-6 seen
    "ieee gradients": {torch.float32: 1e-4},  # 1.1e-6 seen
    "tf32": {torch.float32: 2e-3},
    "bf16": {torch.float32: 2e-2},
    "tanh": {
        torch.float32: 2.4e-7,  # what its docstring promises; 1.8e-7 seen
    },
}


@pytest.fixture(scope="session")
def assert_near():
    """Compare a result with a more exact one, by the tolerance of the result's dtype."""

    def check(actual, expected, kind="values"):
        assert actual.shape == expected.shape
        if actual.numel() == 0:
            return
        allowed = TOLERANCES[kind][actual.dtype]
        actual, expected = (x.detach().to_dense().to(torch.float64) for x in (actual, expected))
        scale = expected.abs().max().clamp(min=1)
        error = ((actual - expected).abs().max() / scale).item()
        assert error <= allowed, f"error {error:.2g}, allowed {allowed:.2g}"  # NaN fails too

    return check


@pytest.fixture(scope="session")
def make_sample():
    """Draw a sample of the op's inputs by the fields of a Case, in float32."""
    return sampler(torch.float32)


@pytest.fixture
def recording_backend():
    """Return a backend for torch.compile and the list of graphs it is given, as they come."""
    from functorch.compile import make_boxed_func  # 0.9 s, which few tests need
    from torch._dynamo.backends.common import aot_autograd

    graphs = []

    def record(graph, _inputs):
        graphs.append(graph.graph)
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    yield aot_autograd(fw_compiler=record, bw_compiler=record), graphs
    torch.compiler.reset()
