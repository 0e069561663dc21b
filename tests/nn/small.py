"""A small embedding and batches for it."""

import torch

from autoemb import SoftEmbedding

ROWS = [4, 5]

#: What the paper's embedding differs in from the default one.
PAPER = {"norm": "batch", "eps": 1e-5, "init_std": 1.0, "average": True, "projection": "uniform"}


def make(dims=(2, 4), rows=ROWS, **options):
    """Return the paper's embedding, small, with some options of its own."""
    return SoftEmbedding(rows, dims, **PAPER | options)


def draw_ids(batch, rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (batch,), generator=generator) for n in rows], 1)


def draw_weights(batch, sizes=2, fields=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(batch, fields, sizes, generator=generator, dtype=torch.float64)
    return weights.softmax(2).to(dtype)


def let_own(module, number, ids, size, *, whether=True):
    """Let ids own a size of a granted embedding, or not, and return their rows of its arena."""
    wanted = module.owned(number, ids)
    wanted[:, size] = whether
    module.assign(number, ids, wanted)
    return module.places(number, size)[ids].long()
