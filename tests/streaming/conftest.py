"""Small learners and streams, and comparison of states to the last bit."""

import re
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoemb.bilevel.hypergradient import KINDS
from autoemb.lab import RunConfig, methods
from autoemb.optim import OPTIMIZERS
from autoemb.streaming import Events, learner
from autoemb.streaming.graph import StepGraph

BATCH = 6
CASES = [
    *[(method, {}) for method in methods.METHODS],
    *[("autoemb", {"hypergradient": kind}) for kind in KINDS[1:]],
    *[("autoemb", {"hypergradient": k, "validation": "reservoir", "norm": "running"})
      for k in KINDS],
    ("autoemb", {"norm": "batch"}),
    ("darts", {"hypergradient": "exact", "validation": "last-batch"}),
    *[(method, {"optimizer": o}) for method in ("sam", "darts") for o in OPTIMIZERS],
    ("autoemb", {"selection": "hard"}),
    ("sam", {"task": "classification"}),
]  # fmt: skip


@pytest.fixture
def make_learner(monkeypatch):
    """Return a function that builds a small untrained learner whose tables start with four rows."""
    for module in (learner, methods):
        monkeypatch.setattr(module, "INITIAL_ROWS", 4)

    def make(method="autoemb", **options):
        small = {"dims": (1, 2), "batch_size": BATCH, "reservoir": 20, "seed": 0}
        # At 512 wide the layers take 90 % of the time.
        options = small | {"hidden": (8,), "controller_hidden": (8,)} | options
        # Rates at which a step shows in float32 predictions at once.
        rates = {"learning_rate": 0.01, "controller_learning_rate": 0.01}
        return methods.build_learner(RunConfig(method=method, **rates | options), fields=2)

    return make


@pytest.fixture(scope="session")
def make_batches():
    """Return a function that makes up a stream; new ids appear in every batch."""

    def make(count, size=BATCH, seed=0):
        random = np.random.default_rng(seed)
        batches = []
        for i in range(count):
            newest = 3 * (i + 1)
            ids = [random.integers(0, newest, size) * step + 5 for step in (10**12, 7)]
            label = torch.from_numpy(random.random(size)).float()
            batches.append(Events(ids, label, np.arange(size) + i * size))
        return batches

    return make


@pytest.fixture
def stream(make_batches):
    """Batches after which tables grow, a short one, and full ones again."""
    batches = [*make_batches(12), *make_batches(12, seed=1)]
    short = batches[20]
    batches[20] = Events([ids[:3] for ids in short.ids], short.label[:3], short.timestamp[:3])
    return batches


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *case[1].values()]))
def case(request):
    """A method and its options."""
    return request.param


@pytest.fixture
def case_stream(case, stream):
    """The stream with labels of the case's task."""
    if case[1].get("task") != "classification":
        return stream
    return [events._replace(label=(events.label * 5).long().clamp(0, 4)) for events in stream]


def tensors_in(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class EmulatedGraph(TorchDispatchMode):
    """What a CUDA graph does, on the CPU: the same kernels again, on the same memory.

    A replay runs the operators of one call, on the tensors and numbers that they were given then
    and without Python around them. So it goes wrong where a graph would: a tensor replaced
    instead of changed in place, a count kept by the host, a shape that depends on data. Operators
    that make the host wait are refused. Unlike a graph's, its capture computes: that is the first
    replay.
    """

    REFUSED = re.compile("local_scalar|equal$|lift_fresh|masked_select|nonzero|unique")

    def __init__(self, function, device):
        super().__init__()
        self.calls, self.replays = [], 0
        with self:
            self.outputs = function()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        masks = [tensor for tensor in tensors_in(args)[1:] if tensor.dtype == torch.bool]
        refused = self.REFUSED.search(func._schema.name) or (masks and "index" in str(func))
        assert not refused, f"{func} makes the host wait"
        result = func(*args, **kwargs)
        returns = [out.alias_info for out in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returns):  # no view
            self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for func, args, kwargs, result in self.calls if self.replays > 1 else []:
            pairs = zip(tensors_in(result), tensors_in(func(*args, **kwargs)), strict=True)
            for old, new in pairs:
                assert old.shape == new.shape, f"a shape of {func} depends on data"
                if old is not new:
                    old.copy_(new)


@pytest.fixture
def pad_plans(monkeypatch):
    """Return a function that lets plans be padded on the CPU too."""

    def pad():
        for name in ("plan", "record"):
            module = sys.modules[f"autoemb.ops.{name}"]
            monkeypatch.setattr(module, "is_padded", lambda device: True)

    return pad


@pytest.fixture
def emulated_graph():
    return EmulatedGraph


@pytest.fixture
def make_graphed(make_learner, pad_plans):
    """Return a function that builds a learner as on a GPU, but for the GPU, and its graphs."""
    pad_plans()

    def make(*args, **options):
        learner, graphs = make_learner(*args, **options), []

        def capture(function, device):
            graphs.append(EmulatedGraph(function, device))
            return graphs[-1]

        learner._upload = lambda layout, tensors: layout.pack(tensors)
        learner._graph = StepGraph(learner._compute, learner.device, capture)
        return learner, graphs

    return make


@pytest.fixture(scope="session")
def flat():
    """Return the values of a nested state_dict by their path, as copies."""

    def flatten(value, path=""):
        if isinstance(value, dict):
            value = value.items()
        elif isinstance(value, list | tuple):
            value = enumerate(value)
        elif isinstance(value, np.ndarray):
            return {path: torch.from_numpy(value.copy())}
        else:
            return {path: value.detach().clone() if isinstance(value, torch.Tensor) else value}
        return {
            inner: leaf
            for key, entry in value
            for inner, leaf in flatten(entry, f"{path}/{key}").items()
        }

    return flatten


@pytest.fixture(scope="session")
def changes(flat):
    """Return the paths at which two nested states differ in any bit."""

    def compare(first, second):
        first, second = flat(first), flat(second)

        def same(path):
            a, b = first.get(path), second.get(path)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
                return a.dtype == b.dtype and torch.equal(a, b)
            return type(a) is type(b) and a == b

        return sorted(path for path in first.keys() | second.keys() if not same(path))

    return compare
