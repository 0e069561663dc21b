"""A small bilevel problem in float64: the library's modules, and the same sums in plain PyTorch."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import pytest
import torch
from torch.nn import functional

from autoemb import Controller, PerIdLogits, RatingModel, SoftEmbedding
from autoemb.bilevel import Batch, BilevelTrainer

ROWS, DIMS, FEATURES = (12, 9), (1, 3), 5

# Ids twice and three times in a batch; some in both batches, some in one, some in none.
TRAINING_IDS = [[0, 4], [3, 1], [3, 4], [7, 8], [5, 1], [0, 4], [3, 0], [7, 2]]
VALIDATION_IDS = [[3, 4], [8, 6], [8, 1], [0, 6], [11, 7], [3, 5]]


def squared_error(logits, target):
    return (torch.sigmoid(logits.squeeze(1)) - target).square()


@dataclass
class Problem:
    """Model, controller and batches, with an evaluation of the loss that shares no code."""

    kind: str
    model: torch.nn.Module
    controller: torch.nn.Module
    inputs: list[torch.Tensor]
    training: Batch
    validation: Batch

    def trainer(self, **options):
        return BilevelTrainer(
            self.model,
            self.controller,
            loss=squared_error,
            features=lambda field, rows: self.inputs[field][rows],
            **{"optimizer": "sgd"} | options,
        )

    def parameters(self):
        """Copies of the weights W and of the controller's parameters A."""
        return tuple(
            {name: p.detach().clone() for name, p in module.named_parameters()}
            for module in (self.model, self.controller)
        )

    def mix(self, alpha, ids):
        """Weights [B, F, N], event by event."""
        fields = []
        for f in range(len(ROWS)):
            if self.kind == "logits":
                logits = functional.embedding(ids[:, f], alpha[f"logits_{f}"])
            else:
                names = [f"networks.{f}.{layer}" for layer in (0, 2)]
                logits = perceptron(alpha, names, self.inputs[f][ids[:, f]])
            fields.append(torch.softmax(logits, 1))
        return torch.stack(fields, 1)

    def logits(self, weights, alpha, ids):
        """Whole tables, no renumbering, no distinct ids: Eqs. 1, 2 and 7 as they stand."""
        mix = self.mix(alpha, ids)
        projection, bias = weights["embedding.projection"], weights["embedding.bias"]
        fields = []
        for f in range(len(ROWS)):
            rows = functional.embedding(ids[:, f], weights[f"embedding.table_{f}"])
            sizes = []
            for n, (begin, end) in enumerate(pairwise(accumulate(DIMS, initial=0))):
                z = functional.linear(rows[:, begin:end], projection[f, :, begin:end], bias[f, n])
                y = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
                sizes.append(mix[:, f, n, None] * torch.tanh(y))
            fields.append(sum(sizes) / len(sizes))
        return perceptron(weights, ["hidden.0", "hidden.2"], torch.cat(fields, 1))

    def loss(self, batch):
        """The loss of a batch as a function of W and A."""
        return lambda weights, alpha: squared_error(
            self.logits(weights, alpha, batch.ids), batch.target
        ).mean()


def perceptron(parameters, names, x):
    first, second = names
    hidden = torch.tanh(x @ parameters[f"{first}.weight"].T + parameters[f"{first}.bias"])
    return hidden @ parameters[f"{second}.weight"].T + parameters[f"{second}.bias"]


@pytest.fixture
def make_problem():
    def make(kind="network"):
        torch.manual_seed(0)
        model = RatingModel(SoftEmbedding(ROWS, DIMS), hidden=(6,)).double()
        if kind == "logits":
            controller = PerIdLogits(ROWS, len(DIMS)).double()
        else:
            controller = Controller(len(ROWS), len(DIMS), FEATURES, hidden=(4,)).double()
        with torch.no_grad():  # a zero last layer would hide the layers below it
            for parameter in controller.parameters():
                parameter.normal_()
        inputs = [torch.randn(rows, FEATURES, dtype=torch.float64) for rows in ROWS]
        batches = [
            Batch(torch.tensor(ids), torch.rand(len(ids), dtype=torch.float64).round())
            for ids in (TRAINING_IDS, VALIDATION_IDS)
        ]
        return Problem(kind, model, controller, inputs, *batches)

    return make


@pytest.fixture(params=["network", "logits"])
def problem(request, make_problem):
    return make_problem(request.param)


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
