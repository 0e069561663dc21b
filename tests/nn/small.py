"""A small embedding and batches for it."""

import torch

from autoemb import SoftEmbedding

ROWS = [4, 5]


def make(dims=(2, 4), rows=ROWS, **options):
    return SoftEmbedding(rows, dims, **options)


def draw_ids(batch, rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (batch,), generator=generator) for n in rows], 1)


def draw_weights(batch, sizes=2, fields=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(batch, fields, sizes, generator=generator, dtype=torch.float64)
    return weights.softmax(2).to(dtype)
