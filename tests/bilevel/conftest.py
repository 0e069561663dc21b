"""A small bilevel problem in float64: the library's modules, and the same sums in plain PyTorch.

And small trainers of the paper's methods, with batches for them.
"""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import pytest
import torch
from torch.nn import functional

from autoemb import MLP, Controller, FixedEmbedding, PerIdLogits, SoftEmbedding, task_for
from autoemb.bilevel import BilevelTrainer, Example
from autoemb.schema import STARS
from tests.bilevel.small import TABLES, example_of
from tests.nn.small import PAPER

ROWS, DIMS, FEATURES = (12, 9), (1, 3), 5

# Ids twice and three times in a batch; some in both batches, some in one, some in none.
TRAINING_IDS = [[0, 4], [3, 1], [3, 4], [7, 8], [5, 1], [0, 4], [3, 0], [7, 2]]
VALIDATION_IDS = [[3, 4], [8, 6], [8, 1], [0, 6], [11, 7], [3, 5]]


def squared_error(logits, label):
    return (torch.sigmoid(logits.squeeze(1)) - label).square()


@dataclass
class Problem:
    """Model, controller and batches, with an evaluation of the loss that shares no code."""

    kind: str
    model: torch.nn.Module
    controller: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    training: Example
    validation: Example

    def trainer(self, **options):
        return BilevelTrainer(
            self.model,
            self.controller,
            loss=squared_error,
            features=lambda rows: {table: self.inputs[table][own] for table, own in rows.items()},
            **{"optimizer": "sgd", "row_rate": 1.0} | options,
        )

    def parameters(self):
        """Copies of the weights W and of the controller's parameters A."""
        return tuple(
            {name: p.detach().clone() for name, p in module.named_parameters()}
            for module in (self.model, self.controller)
        )

    def mix(self, alpha, ids):
        """Weights [B, F, N], event by event."""
        tables = []
        for t, table in enumerate(TABLES):
            if self.kind == "logits":
                logits = functional.embedding(ids[table], alpha[f"logits_{t}"])
            else:
                names = [f"networks.{t}.{layer}" for layer in (0, 2)]
                logits = perceptron(alpha, names, self.inputs[table][ids[table]])
            tables.append(torch.softmax(logits, 1))
        return torch.stack(tables, 1)

    def logits(self, weights, alpha, ids):
        """Whole tables, no renumbering, no distinct ids: Eqs. 1, 2 and 7 as they stand."""
        mix = self.mix(alpha, ids)
        projection, bias = weights["embedding.projection"], weights["embedding.bias"]
        found = []
        for t, table in enumerate(TABLES):
            rows = functional.embedding(ids[table], weights[f"embedding.table_{t}"])
            sizes = []
            for n, (begin, end) in enumerate(pairwise(accumulate(DIMS, initial=0))):
                z = functional.linear(rows[:, begin:end], projection[t, :, begin:end], bias[t, n])
                y = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
                sizes.append(mix[:, t, n, None] * torch.tanh(y))
            found.append(sum(sizes) / len(sizes))
        return perceptron(weights, ["hidden.0", "hidden.2"], torch.cat(found, 1))

    def loss(self, example):
        """The loss of events as a function of W and A."""
        return lambda weights, alpha: squared_error(
            self.logits(weights, alpha, example.inputs.ids), example.label
        ).mean()


def perceptron(parameters, names, x):
    first, second = names
    hidden = torch.tanh(x @ parameters[f"{first}.weight"].T + parameters[f"{first}.bias"])
    return hidden @ parameters[f"{second}.weight"].T + parameters[f"{second}.bias"]


@pytest.fixture
def make_problem():
    def make(kind="network"):
        torch.manual_seed(0)
        embedding = SoftEmbedding(ROWS, DIMS, features=TABLES, **PAPER)
        model = MLP(embedding, hidden=(6,)).double()
        if kind == "logits":
            controller = PerIdLogits(TABLES, ROWS, len(DIMS)).double()
        else:
            controller = Controller(TABLES, len(DIMS), FEATURES, hidden=(4,), shared=False).double()
        with torch.no_grad():  # a zero last layer would hide the layers below it
            for parameter in controller.parameters():
                parameter.normal_()
        inputs = {
            table: torch.randn(rows, FEATURES, dtype=torch.float64)
            for table, rows in zip(TABLES, ROWS, strict=True)
        }
        examples = [
            example_of(torch.tensor(ids), torch.rand(len(ids), dtype=torch.float64).round())
            for ids in (TRAINING_IDS, VALIDATION_IDS)
        ]
        return Problem(kind, model, controller, inputs, *examples)

    return make


@pytest.fixture(params=["network", "logits"])
def problem(request, make_problem):
    return make_problem(request.param)


@pytest.fixture(params=["fse", "sam", "darts", "autoemb"])
def method(request):
    """Each of the paper's methods."""
    return request.param


@pytest.fixture(scope="session")
def build():
    """Return a function that builds model, controller and trainer of one of the methods."""

    def build(method, rows=(40, 30), *, hypergradient="exact", dtype=None, norm=None, **options):
        torch.manual_seed(0)
        norm = {} if norm is None else {"norm": norm}
        dims, lengths = (1, 2), dict(zip(TABLES, rows, strict=True))
        controller = None
        inputs = {table: torch.randn(n, FEATURES, dtype=dtype) for table, n in lengths.items()}
        if method == "fse":
            model = MLP(FixedEmbedding(rows, sum(dims), features=TABLES), hidden=(4,))
        else:
            model = MLP(SoftEmbedding(rows, dims, features=TABLES, **PAPER | norm), hidden=(4,))
        if method == "darts":
            controller = PerIdLogits(TABLES, rows, len(dims))
        elif method != "fse":
            controller = Controller(TABLES, len(dims), FEATURES, hidden=(4,), shared=False)
        modules = [model] if controller is None else [model, controller]
        for module in modules:
            module.to(dtype)
            with torch.no_grad():  # a controller's zeros would hide what depends on them
                for parameter in module.parameters():
                    parameter.normal_()
        trainer = BilevelTrainer(
            model,
            controller,
            loss=task_for("regression", STARS).loss,
            features=lambda found: {  # rows may be added
                table: inputs[table][own % lengths[table]] for table, own in found.items()
            },
            joint=method == "sam",
            hypergradient=hypergradient,
            **options,
        )
        return model, controller, trainer

    return build


@pytest.fixture(scope="session")
def batch():
    """Return a function that draws events of each table's first half, most ids repeated."""

    def batch(seed, rows=(40, 30), size=8, dtype=None):
        random = torch.Generator().manual_seed(seed)
        ids = [torch.randint(0, n // 4, (size,), generator=random) * 2 for n in rows]
        label = torch.rand(size, generator=random, dtype=dtype)
        return example_of(torch.stack(ids, 1), label)

    return batch


@pytest.fixture(scope="session")
def cycle(batch):
    """Return a function that takes one turn of Algorithm 1."""

    def cycle(trainer, seed=0, **options):
        if trainer.bilevel:
            trainer.controller_step(batch(seed, **options), batch(seed + 1, **options))
        return trainer.step(batch(seed + 2, **options))

    return cycle


@pytest.fixture(scope="session")
def dense_forward():
    """Return a function that computes the logits of real modules on whole tables."""

    def dense_forward(model, controller, trainer, events):
        ids = events.inputs.ids
        if controller is None:
            return model(events.inputs, None)
        mix = controller(ids, trainer.features(ids))  # of each event, as if all ids were distinct
        return model(torch.stack([*ids.values()], 1), torch.stack([*mix.values()], 1))

    return dense_forward


@pytest.fixture(scope="session")
def assert_exact():
    """Compare float64 results of the same sums in another order."""
    return partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="session")
def flat():
    """Return the values of a nested state_dict by their path."""

    def flatten(value, path=""):
        if isinstance(value, dict):
            value = value.items()
        elif isinstance(value, list | tuple):
            value = enumerate(value)
        else:
            return {path: value.detach().clone() if isinstance(value, torch.Tensor) else value}
        return {
            inner: leaf
            for key, entry in value
            for inner, leaf in flatten(entry, f"{path}/{key}").items()
        }

    return flatten


@pytest.fixture(scope="session")
def assert_same(flat):
    """Compare two nested states to the last bit."""

    def check(first, second):
        first, second = flat(first), flat(second)
        assert first.keys() == second.keys()
        changed = [
            path
            for path, value in first.items()
            if not (
                torch.equal(value, second[path])
                if isinstance(value, torch.Tensor)
                else value == second[path]
            )
        ]
        assert changed == []

    return check
