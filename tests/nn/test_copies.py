"""Modules that are pickled, copied, saved and loaded: equal, and apart from the first."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from autoemb import MLP, Bag, Controller, FixedEmbedding, PerIdLogits, SoftEmbedding
from autoemb.nn import Inputs
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.schema import Bag as BagFeature
from tests.nn.small import PAPER, let_own

FEATURES = ["user_id", BagFeature(column="tags")]
IDS = {
    "user_id": torch.tensor([3, 0, 3]),
    "tags": Bag(torch.tensor([1, 4, 1]), torch.tensor([0, 2, 2, 3])),
}
ROWS = {"user_id": torch.tensor([1, 3]), "tags": torch.tensor([0, 4, 2])}
HISTORY = {"user_id": torch.rand(2, 6), "tags": torch.rand(3, 6)}


def granted():
    module = GrantedEmbedding([4, 5], (1, 2), features=FEATURES, norm="running")
    for table, ids, size in ((0, [3, 1], 1), (1, [1, 4], 0)):
        rows = let_own(module, table, torch.tensor(ids), size)
        with torch.no_grad():
            module.arena(table, size).rows[rows] = 1.0
    return module


MODULES = {
    "soft": lambda: SoftEmbedding([4, 5], (1, 2), features=FEATURES, **PAPER),
    "fixed": lambda: FixedEmbedding([4, 5], 3, features=FEATURES),
    "granted": granted,
    "model": lambda: MLP(SoftEmbedding([4, 5], (1, 2), features=FEATURES), hidden=(4,)),
    "controller": lambda: Controller(["user_id", "tags"], 2, 6, (4,), prior=torch.rand(6, 2)),
    "shared": lambda: Controller(["user_id", "tags"], 2, 6, (4,), shared=True),
    "logits": lambda: PerIdLogits(["user_id", "tags"], [4, 5], 2),
}


def saved_whole(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved_whole,
}


def results(module):
    if isinstance(module, Controller | PerIdLogits):
        return torch.cat([*module(ROWS, HISTORY).values()])
    return module(Inputs(IDS) if isinstance(module, MLP) else IDS)


def begun(kind):
    """Return a module whose zeros and statistics are not those of the start."""
    torch.manual_seed(0)
    module = MODULES[kind]()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "arena" not in name:
                parameter.normal_()
    results(module)
    return module


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODULES)
def test_a_copy_is_equal_and_apart(kind, way):
    module = begun(kind)
    twin = WAYS[way](module)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())
    expected = results(module.eval())
    assert torch.equal(results(twin.eval()), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for part in twin.modules():
        if hasattr(part, "grow"):
            part.grow({"user_id": 9, "tags": 9})
        if isinstance(part, GrantedEmbedding):
            let_own(part, 0, torch.tensor([0, 8]), 1)
    assert torch.equal(results(module), expected)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("kind", MODULES)
def test_a_state_is_loaded_as_weights_alone(kind):
    module, other = begun(kind), MODULES[kind]()
    if kind == "controller":
        other.prior.copy_(module.prior)  # an argument, not learnt: no part of the state
        assert "prior" not in module.state_dict()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(results(other.eval()), results(module.eval()))


@pytest.mark.parametrize("kind", ["soft", "fixed", "granted", "model", "logits"])
def test_a_copy_goes_on_drawing_and_growing_alike(kind):
    module = begun(kind)
    twin = pickle.loads(pickle.dumps(module))
    for part in (module, twin):
        for child in part.modules():
            if hasattr(child, "grow"):
                child.grow({"user_id": 7})
                assert child.num_rows("user_id") == 7
    assert all(map(torch.equal, module.parameters(), twin.parameters()))
    assert isinstance(next(twin.parameters()), nn.Parameter)
