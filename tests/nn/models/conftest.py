"""Embeddings of four features, one of them a bag that shares a table, and inputs for them."""

import pytest
import torch

from autoemb import Bag, FixedEmbedding, SoftEmbedding, Sparse
from autoemb.nn import Inputs
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.schema import Bag as BagFeature
from tests.nn.small import let_own

FEATURES = [
    Sparse(column="user_id"),
    Sparse(column="item_id"),
    Sparse(column="city"),
    BagFeature(column="prev_items", table="item_id", pooling="sum"),
]
ROWS = [5, 7, 3]  # of users, items, cities
EVENTS, DENSE, WIDTH = 6, 2, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def granted():
    embedding = GrantedEmbedding(ROWS, (2, WIDTH), features=FEATURES)
    for table, rows in enumerate(ROWS):
        for size in range(2):
            own = let_own(embedding, table, torch.arange(rows), size)
            torch.nn.init.normal_(embedding.arena(table, size).rows[own])
    return embedding


EMBEDDINGS = {
    "soft": lambda: SoftEmbedding(ROWS, (2, WIDTH), features=FEATURES),
    "fixed": lambda: FixedEmbedding(ROWS, WIDTH, features=FEATURES),
    "granted": granted,
}


@pytest.fixture(params=EMBEDDINGS)
def embedding(request):
    return EMBEDDINGS[request.param]()


@pytest.fixture
def inputs():
    """Row numbers: an id twice, an event with an empty bag, one with an id twice in its bag."""
    bag = Bag(torch.tensor([0, 6, 6, 2, 1]), torch.tensor([0, 1, 1, 3, 4, 5, 5]), None)
    ids = {
        "user_id": torch.tensor([4, 0, 4, 1, 2, 3]),
        "item_id": torch.tensor([6, 6, 0, 5, 1, 3]),
        "city": torch.tensor([2, 0, 1, 1, 1, 2]),
        "prev_items": bag,
    }
    return Inputs(ids, torch.randn(EVENTS, DENSE, dtype=torch.float64))


@pytest.fixture
def nudge():
    """Return a function that makes a model float64 and moves its parameters off their start."""

    def move(model):
        model.double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model

    return move
