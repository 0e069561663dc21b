"""A naive op, event by event, and samples on which rounding shows."""

from types import SimpleNamespace

import torch
from torch.nn import functional


def naive_z(tables, ids, projection, bias, dims):
    """Eq. 1 event by event: [B, D] for every field and size."""
    columns = [table.split(dims, 1) for table in tables]
    matrices = [matrix.split(dims, 1) for matrix in projection]
    return [
        [
            functional.linear(
                functional.embedding(ids[:, f], columns[f][n]), matrices[f][n], bias[f, n]
            )
            for n in range(len(dims))
        ]
        for f in range(len(tables))
    ]


def naive(tables, ids, weights, projection, bias, running, *, dims, eps, average):
    """Eqs. 1, 2 and 7 with no distinct ids."""
    shape = len(tables), len(dims), -1
    fields, means, variances = [], [], []
    for f, sizes in enumerate(naive_z(tables, ids, projection, bias, dims)):
        total = torch.zeros_like(sizes[0])
        for n, z in enumerate(sizes):
            if running is None:
                mean, variance = z.mean(0), z.var(0, correction=0)
            else:
                mean, variance = running[0][f, n], running[1][f, n]
            y = (z - mean) * (variance + eps).rsqrt()
            total = total + weights[:, f, n].unsqueeze(1) * torch.tanh(y)
            means.append(mean)
            variances.append(variance)
        fields.append(total / len(dims) if average else total)
    return SimpleNamespace(
        output=torch.stack(fields, 1),
        mean=torch.stack(means).view(shape),
        variance=torch.stack(variances).view(shape),
    )


def exact(sample):
    """Results of both passes of the naive op in float64, by name."""
    sample = sample.to(torch.float64)
    positional, named = sample.arguments()
    result = naive(*positional, **named)
    *tables_grad, weights_grad, projection_grad, bias_grad = torch.autograd.grad(
        result.output, sample.leaves, sample.grad
    )
    return vars(result) | {
        "tables_grad": tables_grad,
        "weights_grad": weights_grad,
        "projection_grad": projection_grad,
        "bias_grad": bias_grad,
    }


def tables_grad(sample, result):
    """Gradients of distinct rows, spread over the tables; rows are ascending, padding is zero."""
    grads = []
    for f, table in enumerate(sample.tables):
        rows = sample.ids[:, f].unique()
        padding = rows[-1:].expand(len(sample.ids) - len(rows))
        assert torch.equal(result.rows[f], torch.cat([rows, padding]))
        assert not result.embeddings_grad[f, len(rows) :].any()
        grad = torch.zeros_like(table)
        grads.append(grad.index_copy(0, rows, result.embeddings_grad[f, : len(rows)]))
    return grads


def check(sample, result, assert_near, kinds=("values", "gradients")):
    """Compare results of kernels with the exact ones."""
    expected = exact(sample)
    values, gradients = kinds
    for name in ("output", "mean", "variance"):
        assert_near(getattr(result, name), expected[name], values)
    for name in ("weights_grad", "projection_grad", "bias_grad"):
        assert_near(getattr(result, name), expected[name], gradients)
    for one, other in zip(tables_grad(sample, result), expected["tables_grad"], strict=True):
        assert_near(one, other, gradients)


def shift_rows(sample):
    """Give z a mean of 100 standard deviations."""
    with torch.no_grad():
        sample.projection.abs_()  # one sign, so that the shift of the rows reaches z whole
        for table in sample.tables:
            for columns, width in zip(table.split(sample.dims, 1), sample.dims, strict=True):
                columns += 125 / width**0.5


def stretch_rows(sample):
    """Spread the rows of a single size 1,000 times wider along a line that z does not see."""
    generator = torch.Generator().manual_seed(1)
    line = torch.randn(*sample.dims, generator=generator, dtype=torch.float64)
    line /= line.norm()
    with torch.no_grad():
        along = torch.randn(len(sample.tables[0]), 1, generator=generator, dtype=torch.float64)
        sample.tables[0] += 1000 * along * line
        across = sample.projection.double()
        sample.projection.copy_(across - (across @ line).unsqueeze(2) * line)


def spread(x, rows, columns, offset=0):
    """The same numbers further apart in memory, among NaN, ``offset`` numbers from its start."""
    shape = *x.shape[:-2], rows * x.shape[-2], columns * x.shape[-1]
    memory = x.new_empty(offset + torch.Size(shape).numel())
    if memory.is_floating_point():
        memory.fill_(torch.nan)
    return memory[offset:].view(shape)[..., ::rows, ::columns].copy_(x.detach())
