"""A served model made by hand, with features of every kind, and events for it."""

import numpy as np
import torch

from autoemb import Bag, IdTable
from autoemb.nn.dense import DenseTransform
from autoemb.nn.layers import Cross, mlp
from autoemb.schema import STARS, Dense, Schema, Sparse
from autoemb.schema import Bag as BagFeature
from autoemb.serving import ServedModel, ServedTable

D = 4

SCHEMA = Schema(
    label=STARS,
    sparse=(
        Sparse(column="user_id"),
        Sparse(column="item_id"),
        Sparse(column="prev", table="item_id", counts=False),
    ),
    bag=(BagFeature(column="tags"), BagFeature(column="seen", table="item_id", pooling="sum")),
    dense=(Dense(column="price"),),
)

EVENTS = {
    "user_id": np.array([1, 50, 4, 3]),
    "item_id": ["alien", "jaws", "\ud7ffé", "unheard of"],
    "prev": ["", "alien", "jaws", "jaws"],
    "tags": Bag(
        np.array([8, 9, 9, 1, 7]),
        np.array([0, 2, 2, 3, 5]),
        np.array([1, 0.5, 2, 1, 3], np.float32),
    ),
    "seen": Bag(["alien", "jaws", "nobody's"], np.array([0, 1, 1, 3, 3])),
    "price": np.array([16, np.nan, 12, 8], np.float32),
}


def make_table(ids_by_width, random=None, width=D):
    """Return a table whose ids own rows of widths 1, 3 and 4 (the embedding itself)."""
    random = torch.Generator().manual_seed(1) if random is None else random
    ids = IdTable()
    for own in ids_by_width:
        if len(own):
            ids.rows(own)
    widths = (1, width - 1, width) if width > 2 else (width,)
    sizes = [*zip(ids_by_width, widths, strict=False)]
    return ServedTable(
        ids,
        [torch.randn(len(own), d, generator=random) for own, d in sizes],
        [torch.randn(width if d < width else 0, d, generator=random) for _, d in sizes],
        [torch.randn(width, generator=random) for _ in sizes],
        torch.randn(width, generator=random),
    )


def make_cross(width, rank=3):
    """Return a cross layer that does something."""
    layer = Cross(width, rank)
    with torch.no_grad():
        for own in layer.parameters():
            own.normal_(0, 0.3)
    return layer


def make_model(linear, crosses=0):
    """Return a model of four features of one id or several and a dense one, crossed or not."""
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    dense = DenseTransform(SCHEMA.dense)
    dense.update(torch.tensor([[8.0], [12.0]]))  # mean 10, deviation 2
    tables = {
        "user_id": make_table([np.array([50, 7]), np.array([3]), np.array([900, 1])], random),
        "item_id": make_table([["jaws"], [], ["alien", "\ud7ffé"]], random),
        "tags": make_table([np.array([7]), np.array([8]), np.array([9])], random),
    }
    return ServedModel(
        SCHEMA,
        tables,
        mlp(5 * D + 2, (5, 6), 5),
        "classification",
        crosses=[make_cross(5 * D + 2) for _ in range(crosses)],
        dense=dense,
        scale=0.5,
        linear=linear,
        about={"data": {"name": "by hand"}},
    )
