"""Row numbers of their own for ids, -1 for none: only the kernels' own interface takes them yet."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

from autoemb.ops import cpu
from tests.naive import check
from tests.samples import mode


@pytest.fixture
def run_call(kernels):
    """Run both passes; ``row_numbers`` [F, N, B] are those of the events' ids."""

    def run(sample, row_numbers, threads=1):
        sample = sample.to(torch.float32)
        batch, fields, sizes = sample.weights.shape
        width, total = sample.projection.shape[1:]
        if sample.running is None:
            mean, variance = torch.zeros(2, fields, sizes, width)
        else:
            mean, variance = (x.clone() for x in sample.running)
        columns = [0, *accumulate(sample.dims)][:-1]
        call = cpu._cpu.Call(
            batch=batch,
            width=width,
            dims=list(sample.dims),
            tables=[
                (table[:, c:].data_ptr(), table.stride(0), row_numbers[f, n].data_ptr())
                for f, table in enumerate(sample.tables)
                for n, c in enumerate(columns)
            ],
            num_rows=[2**40] * fields,  # of ids: rows have numbers of their own
            ids=(sample.ids.data_ptr(), *sample.ids.stride()),
            weights=(sample.weights.data_ptr(), *sample.weights.stride()),
            projection=sample.projection.data_ptr(),
            bias=sample.bias.data_ptr(),
            mean=mean.data_ptr(),
            variance=variance.data_ptr(),
            eps=sample.eps,
            average=sample.average,
            training=sample.running is None,
            kernels=kernels,
            threads=threads,
        )
        nan = SimpleNamespace(
            output=torch.empty(batch, fields, width),
            embeddings_grad=torch.empty(fields, batch, total),
            weights_grad=torch.empty(batch, fields, sizes),
            projection_grad=torch.empty(fields, width, total),
            bias_grad=torch.empty(fields, sizes, width),
        )
        for memory in vars(nan).values():
            memory.fill_(torch.nan)
        rows = torch.empty(fields, batch, dtype=torch.int64)
        assert cpu._cpu.forward(call, nan.output.data_ptr(), 0, 0) == (-1, 0)
        found = cpu._cpu.backward(
            call,
            (sample.grad.data_ptr(), *sample.grad.stride()[:2]),
            nan.weights_grad.data_ptr(),
            rows.data_ptr(),
            nan.embeddings_grad.data_ptr(),
            nan.projection_grad.data_ptr(),
            nan.bias_grad.data_ptr(),
        )
        assert found == (-1, 0)
        return SimpleNamespace(rows=rows, mean=mean, variance=variance, **vars(nan))

    return run


def some_absent(sample):
    """Row numbers of which 4 in 10 ids have none; of one size all ids have a row."""
    fields, sizes, most = len(sample.tables), len(sample.dims), max(map(len, sample.tables))
    chosen = torch.rand(fields, sizes, most, generator=torch.Generator().manual_seed(0)) < 0.4
    chosen[1, 0] = False
    ids = sample.ids.t().unsqueeze(1).expand(fields, sizes, -1)
    row_numbers = ids.masked_fill(chosen.gather(2, ids), -1).contiguous()
    assert 0.2 < (row_numbers[0] == -1).double().mean() < 0.6
    return row_numbers


@pytest.mark.parametrize("training", [True, False], ids=mode)
@pytest.mark.parametrize("ids", ["repeated", "distinct"])
def test_they_add_nothing_to_output_statistics_and_gradients(
    make_sample, run_call, training, ids, assert_near
):
    sample = make_sample((2, 16, 128), 2, 110, training=training, ids=ids)
    with torch.no_grad():  # z of standard deviation 1, see test_soft_embedding
        sample.projection /= 8
    row_numbers = some_absent(sample)
    check(sample, run_call(sample, row_numbers), assert_near, row_numbers)


def test_any_number_of_threads_gives_the_same_bits(make_sample, run_call, assert_same):
    sample = make_sample((2, 16, 128), 2, 300, ids="distinct")
    row_numbers = some_absent(sample)
    assert_same(run_call(sample, row_numbers, threads=3), run_call(sample, row_numbers))


def test_rows_may_lie_anywhere(make_sample, run_call, run_op, assert_same):
    sample = make_sample((2, 16, 128), 2, 110)
    expected = run_op(sample)
    size = max(map(len, sample.tables))
    order = torch.stack([torch.randperm(size) for _ in range(2)])
    tables = [torch.full((size, 146), torch.nan) for _ in range(2)]
    for f, table in enumerate(sample.tables):
        tables[f][order[f, : len(table)]] = table.detach()
    row_numbers = torch.stack([order[f][sample.ids[:, f]] for f in range(2)])
    row_numbers = row_numbers.unsqueeze(1).repeat(1, 3, 1)
    sample.tables = tables
    assert_same(run_call(sample, row_numbers), expected)


@pytest.mark.parametrize("training", [True, False], ids=mode)
def test_a_size_that_nobody_has(make_sample, run_call, training):
    sample = make_sample((4, 8), 1, 33, training=training)
    row_numbers = sample.ids.t().unsqueeze(1).repeat(1, 2, 1)
    row_numbers[:, 0] = -1
    result = run_call(sample, row_numbers)
    if training:
        assert torch.equal(result.mean[0, 0], sample.bias[0, 0])
        assert not result.variance[0, 0].any()
    assert not result.weights_grad[:, :, 0].any()
    assert not result.projection_grad[:, :, :4].any()
    assert not result.embeddings_grad[:, :, :4].any()
    for part in vars(result).values():
        assert part.isfinite().all()
