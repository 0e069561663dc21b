"""Small learners and streams, and comparison of states to the last bit."""

import copy
import re
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoemb import Bag, Batch, Label, Recipe, Schema, Sparse, build_learner, learners, schema
from autoemb.bilevel import Outcome
from autoemb.bilevel.hypergradient import KINDS
from autoemb.learners import METHODS
from autoemb.ops import Plan
from autoemb.optim import OPTIMIZERS
from autoemb.schema import Dense
from autoemb.streaming import Step
from autoemb.streaming.graph import StepGraph
from tests.samples import OF_SIZES

BATCH = 6

#: What the default recipe has in its place; so narrow that a table of ids leaves little for rows.
NESTED = {
    "rows": "nested", "budget": 0.055, "model": "dcn", "optimizer": "rowwise-adagrad",
    "controller_history": "counts", "history": "full",
}  # fmt: skip

CASES = [
    *[(method, {}) for method in METHODS],
    *[("autoemb", {"hypergradient": kind}) for kind in KINDS[1:]],
    *[("autoemb", {"hypergradient": k, "validation": "reservoir", "norm": "running"})
      for k in KINDS],
    ("autoemb", {"norm": "batch"}),
    ("darts", {"hypergradient": "exact", "validation": "last-batch"}),
    *[(method, {"optimizer": o}) for method in ("sam", "darts") for o in OPTIMIZERS],
    ("autoemb", {"selection": "hard"}),
    ("autoemb", {"controller": "shared"}),
    ("sam", {"task": "classification"}),
    *[(method, {"history": "full"}) for method in ("fse", "darts", "autoemb")],
    ("autoemb", {"history": "full", "task": "classification"}),
    ("autoemb", {"history": "full", "hypergradient": "exact", "validation": "reservoir"}),
    ("darts", {"history": "full", "validation": "last-batch"}),
    ("sam", {"history": "counts", "freshness": "event"}),
    ("fse", {"learn_chunk": 4}),
    ("autoemb", {"history": "full", "learn_chunk": 4, "freshness": "event"}),
    ("autoemb", {"history": "full", "label_delay": 7.0, "freshness": "event"}),
    ("autoemb", {"validation": "reservoir", "label_delay": 4.0, "learn_chunk": 2}),
    *[(method, NESTED) for method in ("autoemb", "darts")],
    ("autoemb", NESTED | {"budget": 0}),
    ("autoemb", NESTED | {"budget": 0.0625, "worth": "both", "freshness": "event"}),
    ("autoemb", NESTED | {"label_delay": 7.0, "learn_chunk": 4}),
    ("autoemb", NESTED | {"validation": "reservoir", "hypergradient": "exact"}),
    ("autoemb", {"budget": 0.07, "worth": "controller"}),
    ("sam", {"budget": 0.07, "history": "full"}),
]  # fmt: skip

STARS = Label(column="rating", kind="rating", scale=(0, 5))

#: Users and items, each with a table of its own.
PAIR = Schema(label=STARS, sparse=(Sparse(column="user"), Sparse(column="item")))

#: One feature of each kind; items in three features, in two of which they are events of the item.
SHAPES = Schema(
    label=STARS,
    sparse=(
        Sparse(column="user"),
        Sparse(column="item"),
        Sparse(column="other_item", table="item"),
    ),
    bag=(
        schema.Bag(column="words", weights="shares"),
        schema.Bag(column="basket", table="item", counts=False, pooling="sum"),
    ),
    dense=(
        Dense(column="price", transform="log1p"),
        Dense(column="age"),
        Dense(column="flag", transform="none"),
    ),
    weight="weight",
)
SCHEMAS = {"pair": PAIR, "shapes": SHAPES}


@pytest.fixture(params=SCHEMAS)
def kind(request):
    """Name of a schema."""
    return request.param


@pytest.fixture
def make_learner(monkeypatch):
    """Return a function that builds a small untrained learner whose tables start with four rows.

    At 512 wide the layers would take 90 % of the time.
    """
    monkeypatch.setattr(learners, "INITIAL_ROWS", 4)

    def make(method="autoemb", kind="pair", task="regression", **options):
        # Rates at which a step shows in float32 predictions at once.
        small = {"dims": (1, 2), "hidden": (8,), "controller_hidden": (8,), "reservoir": 20}
        small |= OF_SIZES  # where a case does not say otherwise
        rates = {"learning_rate": 0.01, "controller_learning_rate": 0.01}
        own = {"batch_size": BATCH, "seed": 0, "initial_rows": 4}
        for name in ("batch_size", "seed", "initial_rows", "device"):
            if name in options:
                own[name] = options.pop(name)
        if not isinstance(options.get("model", ""), str):  # a module of one's own
            own["model"] = options.pop("model")
        recipe = Recipe.of(method=method, **small | rates | options)
        return build_learner(SCHEMAS[kind], task, recipe, **own)

    return make


def as_text(ids):
    return [f"id {i}" for i in ids]


@pytest.fixture(scope="session")
def with_strings():
    """Return a function that makes the ids of a batch text."""

    def convert(batch):
        bags = {name: bag._replace(values=as_text(bag.values)) for name, bag in batch.bags.items()}
        sparse = {name: as_text(ids) for name, ids in batch.sparse.items()}
        return replace(batch, sparse=sparse, bags=bags)

    return convert


@pytest.fixture(scope="session")
def make_batches():
    """Return a function that makes up a stream; new ids appear in every batch."""

    def make(count, size=BATCH, seed=0, kind="pair"):
        random = np.random.default_rng(seed)
        batches = []
        for i in range(count):
            newest = 3 * (i + 1)
            users, items = (random.integers(0, newest, size) * s + 5 for s in (10**12, 7))
            label = torch.from_numpy(5 * random.random(size)).float()
            batch = Batch(
                {"user": users, "item": items}, label=label, timestamp=np.arange(size) + i * size
            )
            batches.append(batch if kind == "pair" else shaped(batch, random, newest))
        return batches

    return make


def shaped(batch, random, newest):
    """Return a batch with more features, of which some events have none."""
    size = len(batch)
    bags = {}
    for name, step in (("words", 3), ("basket", 7)):
        offsets = np.cumsum([0, *random.integers(0, 4, size)])
        values = random.integers(0, newest, offsets[-1]) * step + 5
        weights = random.random(len(values)).astype(np.float32) if name == "words" else None
        bags[name] = Bag(values, offsets, weights)
    dense = torch.from_numpy(random.normal(3, 2, (size, 3))).float()
    dense[torch.from_numpy(random.random((size, 3)) < 0.2)] = float("nan")
    return replace(
        batch,
        sparse={**batch.sparse, "other_item": random.integers(0, newest, size) * 7 + 5},
        bags=bags,
        dense=dense,
        weight=torch.from_numpy(random.random(size)).float(),
    )


@pytest.fixture(scope="session")
def part_of():
    """Return a function that returns the first events of a batch of users and items."""

    def part(batch, events):
        sparse = {name: ids[:events] for name, ids in batch.sparse.items()}
        return Batch(sparse, label=batch.label[:events], timestamp=batch.timestamp[:events])

    return part


@pytest.fixture
def stream(make_batches, part_of):
    """Batches after which tables grow, a short one, and full ones again."""
    batches = [*make_batches(12), *make_batches(12, seed=1)]
    batches[20] = part_of(batches[20], 3)
    return batches


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def case(request):
    """A method and its options."""
    return request.param


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
        for name in ("plan", "pool", "record"):
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
        if isinstance(value, Step | Outcome | Plan):
            value = value._asdict()
        if isinstance(value, Mapping):
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
                bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]  # of NaN, too
                return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*bits)
            return type(a) is type(b) and a == b

        return sorted(path for path in first.keys() | second.keys() if not same(path))

    return compare


@pytest.fixture(scope="session")
def knowledge():
    """Return all that a learner knows, of rows those that ids own, in the order of the ids.

    Two learners that know the same are equal in it, however many rows their tables have.
    """

    def of_part(part, rows):
        found = {"dense": part.function.dense, "rows": part.function.gather(rows)}
        found["buffers"] = dict(part.function.module.named_buffers())
        found["optimizer"] = None
        if part.dense_optimizer is not None:
            found["optimizer"] = part.dense_optimizer.state_dict()
        kept = []

        def note(parameter, own, _values):
            kept.append({n: v[own] for n, v in part.row_optimizer.state[parameter].items()})

        for name, row in part.function.rows.items():
            row.owner.update_rows(row.name, rows[row.table], found["rows"][name], note)
        return found | {"kept of rows": kept}

    def known(learner):
        rows = {table: torch.arange(ids) for table, ids in learner.num_ids().items()}
        state = learner.state_dict()
        found = {name: state[name] for name in ("encoder", "reservoir", "recent", "random")}
        parts = filter(None, (learner.trainer.model, learner.trainer.controller))
        found["parts"] = [of_part(part, rows) for part in parts]
        found["history"] = {
            table: {name: value[: len(rows[table])] for name, value in vars(history).items()}
            for table, history in learner.history.tables.items()
        }
        found["waiting"] = state["waiting"]
        if learner.statistics is not None:
            found["statistics"] = state["statistics"]
            for table, own in state["statistics"]["tables"].items():
                found["statistics"]["tables"][table] = own[: len(rows[table])]
        if (grants := learner.grants) is not None:
            values = zip(grants.traffic, rows.values(), strict=True)
            state["grants"]["traffic"] = [value[: len(own)] for value, own in values]
            found["grants"] = state["grants"]
            sizes = range(len(grants.embedding.embedding_dims))
            tables = enumerate(rows.values())
            found["slots"] = [grants.embedding.slots(field)[own] for field, own in tables]
            found["owned"] = [
                grants.embedding.arena(f, n).num_owned for f in range(len(rows)) for n in sizes
            ]
        return copy.deepcopy(found)

    return known
