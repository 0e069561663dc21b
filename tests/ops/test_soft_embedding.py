"""The op against a naive one, its derivatives, and what torch asks of a registered op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torch.nn import functional

from autoemb.ops import distinct, soft_embedding
from tests.naive import exact, naive, naive_z, shift_rows, stretch_rows
from tests.samples import BACKWARD, FORWARD

few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def apply(function, sample, **changes):
    positional, named = sample.arguments()
    return function(*positional, **named | changes).output


def gradients(function, sample, **changes):
    return torch.autograd.grad(apply(function, sample, **changes), sample.leaves, sample.grad)


def test_output_equals_naive(sample, assert_near):
    assert_near(apply(soft_embedding, sample), apply(naive, sample))


def test_gradient_of_every_input_equals_naive(sample, assert_near):
    pairs = zip(gradients(soft_embedding, sample), gradients(naive, sample), strict=True)
    for actual, expected in pairs:
        assert_near(actual, expected, "gradients")


def gradients_of_gradients(function, sample):
    sample.grad.requires_grad_()
    # In training mode the bias has no part in the output.
    leaves = sample.leaves if sample.running else sample.leaves[:-1]
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(x.shape, generator=generator).to(torch.bfloat16).to(x.dtype) for x in leaves
    ]
    output = apply(function, sample)
    first = torch.autograd.grad(output, leaves, sample.grad, create_graph=True)
    return torch.autograd.grad(first, [*leaves, sample.grad], cotangents)


def test_gradients_of_gradients_equal_naive(sample, assert_near):
    pairs = zip(
        gradients_of_gradients(soft_embedding, sample),
        gradients_of_gradients(naive, sample),
        strict=True,
    )
    for actual, expected in pairs:
        assert_near(actual, expected, "gradients")


def test_statistics_are_those_the_batch_was_normalised_with(sample, assert_near):
    positional, named = sample.arguments()
    result, expected = (f(*positional, **named) for f in (soft_embedding, naive))
    assert_near(result.mean, expected.mean)
    assert_near(result.variance, expected.variance)
    assert not any(x.requires_grad for x in result[1:])


def test_backward_gives_distinct_rows_padded_by_the_last_with_zero_gradients(sample):
    embeddings_grad, *_, rows = BACKWARD.reference(*backward_arguments(sample))
    for f, column in enumerate(sample.ids.unbind(1)):
        expected = column.unique()
        assert torch.equal(rows[f, : len(expected)], expected)
        assert (rows[f, len(expected) :] == expected[-1]).all()
        assert not embeddings_grad[f, len(expected) :].any()


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_another_default_dtype_changes_nothing(make_sample, backend):
    sample = make_sample((1, 3), 2, 33).to(torch.float32)
    expected = gradients(soft_embedding, sample, backend=backend)
    torch.set_default_dtype(torch.float64)
    try:
        actual = gradients(soft_embedding, sample, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("average", [True, False])
def test_bias_gradient_in_training_is_exactly_zero(make_sample, average):
    sample = make_sample((1, 3, 7), 2, 33, average=average)
    assert not gradients(soft_embedding, sample)[-1].any()


def test_bias_cancels_exactly_in_training(make_sample):
    sample = make_sample((1, 3, 7), 2, 33)
    output = apply(soft_embedding, sample)
    with torch.no_grad():
        sample.bias += 1e6
    assert torch.equal(apply(soft_embedding, sample), output)


@pytest.mark.parametrize("ids", ["repeated", "same", "distinct"])
def test_sparse_gradients_hold_the_distinct_rows_and_equal_the_dense_ones(
    make_sample, training, ids, assert_near
):
    sample = make_sample((1, 3), 3, 31, ids=ids, training=training)
    dense = gradients(soft_embedding, sample)
    sparse = gradients(soft_embedding, sample, sparse=True)
    for f in range(3):
        assert sparse[f].is_sparse
        assert torch.equal(sparse[f].coalesce().indices()[0], sample.ids[:, f].unique())
    for actual, expected in zip(sparse, dense, strict=True):
        assert_near(actual, expected, "gradients")


@pytest.mark.parametrize(
    "wanted", range(5), ids=["table 0", "table 1", "weights", "matrix", "bias"]
)
def test_a_single_gradient_equals_the_same_one_among_all(small, wanted):
    expected = gradients(soft_embedding, small)[wanted]
    for i, leaf in enumerate(small.leaves):
        leaf.requires_grad_(i == wanted)
    (actual,) = torch.autograd.grad(apply(soft_embedding, small), small.leaves[wanted], small.grad)
    assert torch.equal(actual, expected)


def test_gradient_of_a_plain_sum_equals_naive(small, assert_near):
    # backward() of a sum hands over an expanded gradient: all strides are zero
    apply(soft_embedding, small).sum().backward()
    expected = torch.autograd.grad(apply(naive, small).sum(), small.leaves)
    for leaf, gradient in zip(small.leaves, expected, strict=True):
        assert_near(leaf.grad, gradient, "gradients")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dims", [(2, 16, 128), (8,), (4, 8), (1, 3, 7), (2, 2)], ids=str)
@pytest.mark.parametrize("batch", [31, 500])  # 2 events may nearly coincide, which has no bound
def test_low_precision_against_naive_in_float64(
    make_sample, dtype, dims, batch, training, assert_near
):
    sample = make_sample(dims, 2, batch, training=training).to(dtype)
    exact = sample.to(torch.float64)
    output = apply(soft_embedding, sample)
    assert output.dtype == dtype
    assert_near(output, apply(naive, exact))
    pairs = zip(gradients(soft_embedding, sample), gradients(naive, exact), strict=True)
    for actual, expected in pairs:
        assert actual.dtype == dtype
        assert_near(actual, expected, "gradients")
    pairs = zip(
        gradients_of_gradients(soft_embedding, sample),
        gradients_of_gradients(naive, exact),
        strict=True,
    )
    for actual, expected in pairs:
        assert actual.dtype == dtype
        assert_near(actual, expected, "gradients")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [33, 500])
def test_statistics_where_the_mean_is_100_deviations(make_sample, dtype, batch, assert_near):
    sample = make_sample((2, 16, 128), 2, batch, ids="distinct")
    shift_rows(sample)
    sample = sample.to(dtype)
    positional, named = sample.arguments()
    result, expected = soft_embedding(*positional, **named), exact(sample)
    assert 50 < (expected["mean"] / expected["variance"].sqrt()).median() < 200
    for name in ("mean", "variance"):
        actual = getattr(result, name)
        assert actual.dtype == torch.promote_types(dtype, torch.float32)
        ratio = (actual / expected[name]).to(actual.dtype)
        assert_near(ratio, torch.ones_like(ratio), "statistics")


@pytest.mark.parametrize("width", [2, 16, 128])
def test_statistics_where_embeddings_nearly_lie_on_a_line(make_sample, width, assert_near):
    # Variances from the covariance of the rows (condition 1e6) would be off by 4e-3 and more.
    sample = make_sample((width,), 1, 500, ids="distinct")
    stretch_rows(sample)
    sample = sample.to(torch.float32)
    positional, named = sample.arguments()
    result, expected = soft_embedding(*positional, **named), exact(sample)
    ratio = (result.variance / expected["variance"]).to(torch.float32)
    assert_near(ratio, torch.ones_like(ratio), "statistics")


@pytest.mark.parametrize("sparse", [False, True])
def test_empty_batch_gives_an_empty_output_and_zero_gradients(
    empty_case, training, sparse, make_sample
):
    sample = make_sample(**vars(empty_case), training=training)
    output = apply(soft_embedding, sample, sparse=sparse)
    assert output.shape == (0, empty_case.fields, empty_case.dims[-1])
    for leaf, gradient in zip(
        sample.leaves, gradients(soft_embedding, sample, sparse=sparse), strict=True
    ):
        assert gradient.shape == leaf.shape
        assert not gradient.to_dense().any()


def test_empty_batch_has_zero_gradients_of_gradients(empty_case, training, make_sample):
    sample = make_sample(**vars(empty_case), training=training)
    output = apply(soft_embedding, sample)
    first = torch.autograd.grad(output.sum(), sample.leaves, create_graph=True)
    second = torch.autograd.grad(first[0].sum(), sample.leaves, materialize_grads=True)
    assert not any(gradient.any() for gradient in second)


@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("bad", [-1, "V", -(2**63), 2**63 - 1])
def test_ids_out_of_range_raise_and_name_field_and_id(small, field, bad):
    rows = len(small.tables[field])
    bad = rows if bad == "V" else bad
    small.ids[3, field] = bad
    message = rf"out of range in field {field}: id {bad} is not in \[0, {rows - 1}\]"
    with pytest.raises(IndexError, match=message):
        apply(soft_embedding, small)


@pytest.mark.parametrize("average", [True, False])
def test_gradcheck_and_gradgradcheck(small, average):
    positional, named = small.arguments()
    *tables, weights, projection, bias = small.leaves

    def function(weights, projection, bias, *tables):
        running = positional[-1]
        named["average"] = average
        return soft_embedding(tables, small.ids, weights, projection, bias, running, **named).output

    inputs = weights, projection, bias, *tables
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradcheck_and_gradgradcheck_of_the_weights_alone(small):
    # A validation pass: the backward op leaves its other results empty.
    for leaf in small.leaves:
        leaf.requires_grad_(leaf is small.weights)
    positional, named = small.arguments()

    def function(weights):
        return soft_embedding(*positional[:2], weights, *positional[3:], **named).output

    assert torch.autograd.gradcheck(function, (small.weights,))
    assert torch.autograd.gradgradcheck(function, (small.weights,))


def backward_arguments(sample, embeddings=True):
    _, *statistics = FORWARD.reference(False, *sample.problem())
    return sample.grad, embeddings, *sample.problem(*statistics)


def double_backward_arguments(sample, embeddings=True):
    arguments = backward_arguments(sample, embeddings)
    *first, _ = BACKWARD.reference(*arguments)
    return [torch.randn_like(x) for x in first], *arguments


every_overload = pytest.mark.parametrize("name", ["reference", "sparse_reference"])


@every_overload
@pytest.mark.parametrize("batch", [0, 6])
def test_opcheck_of_the_forward_op(make_sample, training, batch, name):
    sample = make_sample((1, 3), 2, batch, training=training)
    opcheck(getattr(FORWARD, name), (False, *sample.problem()))


@pytest.mark.parametrize("name", ["default", "sparse"])
def test_opcheck_of_the_forward_op_in_float32(make_sample, training, name):
    sample = make_sample((1, 3), 2, 6, training=training).to(torch.float32)
    opcheck(getattr(FORWARD, name), (False, *sample.problem()))


def test_opcheck_with_the_statistics_of_the_batch(make_sample):
    sample = make_sample((1, 3), 2, 6, training=False)
    opcheck(FORWARD.reference, (True, *sample.problem()))


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_of_the_backward_op(small, embeddings, dtype):
    sample = small.to(dtype)
    sample.grad.requires_grad_()
    op = BACKWARD.reference if dtype == torch.float64 else BACKWARD.default
    opcheck(op, backward_arguments(sample, embeddings))


@pytest.mark.parametrize("embeddings", [True, False])
def test_opcheck_of_the_double_backward_op(small, embeddings):
    # third derivatives are not offered
    arguments = double_backward_arguments(small.detached(), embeddings)
    opcheck(torch.ops.autoemb.soft_embedding_double_backward, arguments)


@few
@given(seed=seeds)
def test_order_of_events_does_not_matter(make_sample, assert_near, seed):
    sample = make_sample((1, 3, 7), 2, 33, seed=seed)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(seed))
    positional, named = sample.arguments()
    tables, ids, weights, *rest = positional
    output = soft_embedding(*positional, **named).output
    shuffled = soft_embedding(tables, ids[order], weights[order], *rest, **named).output
    assert_near(shuffled, output[order])
    expected = torch.autograd.grad(output, tables, sample.grad)
    actual = torch.autograd.grad(shuffled, tables, sample.grad[order])
    for a, e in zip(actual, expected, strict=True):
        assert_near(a, e, "gradients")


@few
@given(seed=seeds)
def test_repeating_the_batch_repeats_the_output(make_sample, assert_near, seed):
    sample = make_sample((1, 3, 7), 2, 31, seed=seed)
    positional, named = sample.arguments()
    tables, ids, weights, *rest = positional
    twice = soft_embedding(tables, ids.repeat(2, 1), weights.repeat(2, 1, 1), *rest, **named)
    assert_near(twice.output, soft_embedding(*positional, **named).output.repeat(2, 1, 1))


@few
@given(seed=seeds)
def test_rows_that_no_event_uses_do_not_matter(make_sample, seed):
    sample = make_sample((1, 3, 7), 2, 33, seed=seed)
    positional, named = sample.arguments()
    tables, ids, *rest = positional
    longer = [torch.cat([t, torch.full_like(t[:1], torch.nan)]).detach() for t in tables]
    for table in longer:
        table.requires_grad_()
    output = soft_embedding(longer, ids, *rest, **named).output
    assert torch.equal(output, apply(soft_embedding, sample))
    for gradient in torch.autograd.grad(output, longer, sample.grad):
        assert not gradient[-1].any()
        assert gradient.isfinite().all()


@few
@given(seed=seeds)
def test_rows_may_be_gathered_and_ids_renumbered(make_sample, seed):
    # what the trainer does, so that a step never has the size of a table
    sample = make_sample((1, 3, 7), 2, 33, seed=seed)
    plans = [distinct(column) for column in sample.ids.unbind(1)]
    positional, named = sample.arguments()
    gathered = [t[plan.rows] for t, plan in zip(sample.tables, plans, strict=True)]
    ids = torch.stack([plan.inverse for plan in plans], 1)
    output = soft_embedding(gathered, ids, *positional[2:], **named).output
    assert torch.equal(output, apply(soft_embedding, sample))


def test_the_naive_op_normalises_as_torch_does(sample, assert_near):
    # Written out since rows may be absent; where all are there, torch's layers say the same.
    z = naive_z(sample.tables, sample.ids, sample.projection, sample.bias, sample.dims)
    output = apply(naive, sample)
    for f, sizes in enumerate(z):
        total = torch.zeros_like(output[:, f])
        for n, values in enumerate(sizes):
            running = [None, None] if sample.running is None else [x[f, n] for x in sample.running]
            training = sample.running is None
            y = functional.batch_norm(values, *running, training=training, eps=sample.eps)
            total = total + sample.weights[:, f, n].unsqueeze(1) * torch.tanh(y)
        assert_near(output[:, f], total / len(sizes) if sample.average else total)
