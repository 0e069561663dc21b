"""Where numbers lie in memory does not matter to their results."""

import pytest
import torch

from autoemb.ops import cpu, soft_embedding
from tests.naive import check, spread
from tests.samples import mode


@pytest.mark.parametrize("training", [True, False], ids=mode)
def test_strides_and_offsets(make_sample, run_op, training, assert_same):
    sample = make_sample((4, 9), 2, 70, training=training)
    expected = run_op(sample)
    with torch.no_grad():
        wide = torch.full((len(sample.tables[0]), 20), torch.nan)
        sample.tables[0] = wide[:, 3:16].copy_(sample.tables[0])  # part of a wider table
        sample.tables[1] = spread(sample.tables[1], 3, 1, offset=5)
    sample.weights = spread(sample.weights, 2, 2, offset=1)
    sample.grad = spread(sample.grad, 2, 1, offset=3)
    sample.projection = spread(sample.projection, 1, 2)
    sample.bias = spread(sample.bias, 2, 1, offset=1)
    if not training:
        sample.running = tuple(spread(x, 1, 2) for x in sample.running)
    for ids in (spread(sample.ids, 2, 3, offset=1), sample.ids.t().contiguous().t()):
        sample.ids = ids
        assert_same(run_op(sample), expected)


def test_a_gradient_with_gaps_between_its_columns(make_sample, run_op, assert_same):
    sample = make_sample((4, 9), 2, 70)
    expected = run_op(sample)
    sample.grad = spread(sample.grad, 1, 3)
    assert_same(run_op(sample), expected)


def test_expanded_weights_and_gradient(make_sample, run_op, assert_near):
    sample = make_sample((4, 8), 2, 33)
    sample.weights = torch.tensor([0.3, 0.7]).expand(33, 2, 2).requires_grad_()
    sample.grad = torch.ones(()).expand(33, 2, 8)  # of a plain sum
    check(sample, run_op(sample), assert_near)


def test_statistics_of_another_dtype(make_sample, run_op, assert_same):
    sample = make_sample((4, 8), 2, 33, training=False)
    expected = run_op(sample)
    sample.running = tuple(x.double() for x in sample.running)
    assert_same(run_op(sample), expected)


def test_tables_whose_rows_are_not_contiguous_take_the_reference(make_sample, run_op, assert_same):
    sample = make_sample((4, 8), 2, 33)
    expected = run_op(sample, backend="reference")
    with torch.no_grad():
        sample.tables[1] = spread(sample.tables[1], 1, 2)
    assert_same(run_op(sample, backend="auto"), expected)
    with pytest.raises(RuntimeError, match="contiguous"):
        run_op(sample)


@pytest.mark.parametrize("dims", [(1,), (3, 1), (1, 1)], ids=str)
def test_widths_of_one(make_sample, run_op, dims, assert_near):
    # Strides of a dimension of size one mean nothing: torch leaves any number there.
    sample = make_sample(dims, 2, 50, ids="distinct")
    with torch.no_grad():
        sample.tables = [
            table.as_strided(table.shape, (table.shape[1], 1 if len(dims) > 1 else 7))
            for table in sample.tables
        ]
        for table in sample.tables:
            table.requires_grad_()
    check(sample, run_op(sample, backend="auto"), assert_near)


ROWS, WIDTH = 15_000_000, 146
assert ROWS * WIDTH > 2**31


def test_a_table_of_more_than_2_31_numbers(make_sample, run_op, assert_same):
    # 8.8 GB of addresses, of which a few pages are touched.
    sample = make_sample((2, 16, 128), 1, 40, ids="distinct")
    small = run_op(sample)
    count = len(sample.tables[0])
    ids = ROWS - 1 - ROWS // count * torch.arange(count).flip(0)
    assert ids[0] * WIDTH < 2**31 < ids[-1] * WIDTH
    large = torch.empty(ROWS, WIDTH)
    large[ids] = sample.tables[0].detach()
    sample.tables[0], sample.ids = large, ids[sample.ids]
    result = run_op(sample)
    assert torch.equal(result.rows, ids[small.rows])
    result.rows = small.rows
    assert_same(result, small)
    before = large[ids]
    cpu.update_sgd(large, ids[-1:], torch.ones(1, WIDTH), 1.0)
    assert torch.equal(large[ids[-1]], before[-1] - 1)
    assert torch.equal(large[ids[:-1]], before[:-1])


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("ids", lambda x: x.int(), r"expected ids of dtype torch\.int64"),
        ("ids", lambda x: x[:, :1], "expected ids of shape"),
        ("weights", lambda x: x[:-1], "expected weights of shape"),
        ("weights", lambda x: x[..., :1], "expected weights of shape"),
        ("projection", lambda x: x[:, :, :-1], "expected projection of shape"),
        ("projection", lambda x: x.double(), r"expected projection of dtype torch\.float32"),
        ("bias", lambda x: x[:, :, :-1], "expected bias of shape"),
        ("bias", lambda x: x.double(), r"expected bias of dtype torch\.float32"),
        ("tables", lambda x: [x[0], x[1][:, :-1]], "expected table of field 1 of shape"),
        ("grad", lambda x: x[:-1], "expected grad of shape"),
        ("grad", lambda x: x.double(), r"expected grad of dtype torch\.float32"),
    ],
)
def test_shapes_and_dtypes_that_kernels_would_misread_are_named(
    make_sample, run_op, name, changed, message
):
    sample = make_sample((4, 8), 2, 33)
    setattr(sample, name, changed(getattr(sample, name)))
    with pytest.raises((RuntimeError, ValueError), match=message):
        run_op(sample)


def test_the_public_op_gives_what_the_kernels_give(make_sample, run_op):
    sample = make_sample((4, 8), 2, 33)
    positional, named = sample.arguments()
    result = soft_embedding(*positional, **named, backend="native")
    expected = run_op(sample)
    assert torch.equal(result.output, expected.output)
    table, *_, weights, projection, _ = torch.autograd.grad(
        result.output, sample.leaves, sample.grad
    )
    assert torch.equal(weights, expected.weights_grad)
    assert torch.equal(projection, expected.projection_grad)
    rows = sample.ids[:, 0].unique()
    assert torch.equal(table[rows], expected.embeddings_grad[0, : len(rows)])
