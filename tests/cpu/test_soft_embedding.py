"""The op on the native CPU kernels against a naive one in float64."""

from dataclasses import replace

import pytest
import torch

from tests.naive import check, exact, shift_rows, stretch_rows
from tests.samples import BACKWARD, EMPTY, POPULATED, Case, draw, mode

# Widths that vectors of 4, 8 and 16 floats do not divide, sizes beyond the output width, and more
# distinct ids than a tile holds, or the work memory that is kept between two passes.
MORE = [
    Case((16, 64, 256), 2, 100, ids="distinct"),
    Case((7,), 2, 97, ids="distinct"),
    Case((5, 33), 2, 49, ids="distinct"),
    Case((150,), 1, 48, ids="distinct", layout="strided"),
    Case((70, 4), 2, 97, ids="distinct"),
    Case((3, 20, 20), 2, 5000, ids="distinct"),
    Case((2, 16, 128), 2, 5000, ids="distinct"),
    Case((2, 16, 128), 2, 5000),
    Case((4, 8), 1, 5000, ids="same", average=False),
]
EVERY = POPULATED + [
    pytest.param((case, training), id=f"{case}-{mode(training)}")
    for case in MORE
    for training in (True, False)
]


@pytest.fixture(params=EVERY)
def sample(request):
    return scaled(draw(*request.param, torch.float32))


def scaled(sample):
    """Give z a standard deviation of 1, as torch.nn.Linear's initialisation does.

    In eval mode nothing else keeps the rounding of z, a share of z, from growing with its width.
    """
    with torch.no_grad():
        for columns, width in zip(
            sample.projection.split(sample.dims, 2), sample.dims, strict=True
        ):
            columns /= width**0.5
    return sample


def test_values_and_gradients_equal_naive(sample, run_op, assert_near):
    check(sample, run_op(sample), assert_near)


def test_a_validation_pass_gives_the_same_gradient_of_weights_alone(sample, run_op):
    result = run_op(sample, embeddings=False)
    assert torch.equal(result.weights_grad, run_op(sample).weights_grad)
    for name in ("rows", "embeddings_grad", "projection_grad", "bias_grad"):
        assert getattr(result, name).shape[0] == 0


@pytest.mark.parametrize("case", EMPTY, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=mode)
def test_an_empty_batch(case, training, run_op):
    result = run_op(draw(case, training, torch.float32))
    assert result.output.shape == (0, case.fields, case.dims[-1])
    assert result.rows.shape == (case.fields, 0)
    assert not result.projection_grad.any()
    assert not result.bias_grad.any()


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("training", [True, False], ids=mode)
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 16, 128), 1, 2500, ids="distinct"),
        Case((1, 3, 7), 26, 500, ids="distinct"),
        Case((4, 8), 1, 500),
    ],
    ids=str,
)
def test_any_number_of_threads_gives_the_same_bits(
    case, training, threads, run_op, set_threads, assert_same
):
    sample = draw(case, training, torch.float32)
    set_threads(1)
    once = run_op(sample)
    assert_same(run_op(sample), once)
    set_threads(threads)
    for _ in range(2):
        assert_same(run_op(sample), once)


def test_equal_bits_whatever_other_ids_are_in_the_batch(make_sample, run_op):
    # In eval mode no event depends on another: not by its place in a tile, nor by the tile.
    sample = make_sample((2, 16, 128), 1, 200, ids="distinct", training=False)
    whole = run_op(sample)
    for begin, end in ((0, 1), (30, 101), (150, 200)):
        part = draw_part(sample, begin, end)
        assert torch.equal(run_op(part).output, whole.output[begin:end])
        assert torch.equal(run_op(part).weights_grad, whole.weights_grad[begin:end])


def draw_part(sample, begin, end):
    part = sample.to(torch.float32)
    part.ids, part.grad = part.ids[begin:end], part.grad[begin:end]
    part.weights = part.weights.detach()[begin:end]
    return part


def test_the_gradient_of_the_bias_in_training_is_exactly_zero(make_sample, run_op):
    assert not run_op(make_sample((1, 3, 7), 2, 33)).bias_grad.any()


def test_the_bias_cancels_exactly_in_training(make_sample, run_op):
    sample = make_sample((1, 3, 7), 2, 33)
    output = run_op(sample).output
    with torch.no_grad():
        sample.bias += 1e6
    assert torch.equal(run_op(sample).output, output)


@pytest.mark.parametrize("batch", [2, 500])
def test_one_distinct_id_in_a_batch_has_exactly_zero_gradients(make_sample, run_op, batch):
    # Its row is the mean of the batch, so nothing depends on it; rounding must not be amplified
    # by 1 / sqrt(eps).
    result = run_op(make_sample((2, 16, 128), 2, batch, ids="same"))
    for name in ("output", "variance", "embeddings_grad", "projection_grad", "bias_grad"):
        assert not getattr(result, name).any(), name


def test_the_backward_pass_writes_none_of_its_inputs(make_sample, kernels):
    # In training mode it finds the mean again, more exactly than float32 keeps it.
    sample = make_sample((4, 8), 2, 33)
    sample = sample.detached()
    mean, variance = torch.full((2, 2, 2, 8), torch.nan)
    problem = sample.problem(mean, variance.fill_(1.0))
    _, *inputs = problem.flat()
    before = [x.clone() for x in (*inputs, sample.grad)]
    results = BACKWARD(sample.grad, True, *problem)
    for value, old in zip((*inputs, sample.grad), before, strict=True):
        assert torch.equal(value.nan_to_num(), old.nan_to_num())
    assert mean.isnan().all()
    assert all(x.isfinite().all() for x in results)


@pytest.mark.parametrize("deviations", [100, 1000])
@pytest.mark.parametrize("batch", [33, 500])
def test_statistics_where_the_mean_is_many_deviations(
    make_sample, run_op, batch, deviations, assert_near
):
    sample = make_sample((2, 16, 128), 2, batch, ids="distinct")
    shift_rows(sample)
    with torch.no_grad():
        for table in sample.tables:
            table /= deviations / 100
            for columns, width in zip(table.split(sample.dims, 1), sample.dims, strict=True):
                columns += 125 / width**0.5 * (1 - 100 / deviations)
    result, expected = run_op(sample), exact(sample)
    ratio = (expected["mean"] / expected["variance"].sqrt()).median()
    assert deviations / 2 < ratio < 2 * deviations
    for name in ("mean", "variance"):
        quotient = (getattr(result, name) / expected[name]).to(torch.float32)
        assert_near(quotient, torch.ones_like(quotient), "statistics")


@pytest.mark.parametrize("width", [2, 16, 128])
def test_statistics_where_embeddings_nearly_lie_on_a_line(make_sample, run_op, width, assert_near):
    sample = make_sample((width,), 1, 500, ids="distinct")
    stretch_rows(sample)
    result, expected = run_op(sample), exact(sample)
    ratio = (result.variance / expected["variance"]).to(torch.float32)
    assert_near(ratio, torch.ones_like(ratio), "statistics")


# 5,000 distinct ids: the batch's statistics are put together from those of many tiles.
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 16, 128), 2, 5000, ids="distinct"),
        Case((1, 3, 7), 26, 31, layout="strided"),
        Case((8,), 2, 33, ids="same"),
        Case((4, 8), 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("far", [False, True])  # from the given ones, and from zero
def test_statistics_of_a_batch_that_is_normalised_with_others(
    case, far, run_op, run_forward, assert_near
):
    sample = draw(case, False, torch.float32)
    if far:
        shift_rows(sample)
    result, expected = run_forward(sample), exact(replace(sample, running=None))
    assert torch.equal(result.output, run_op(sample).output)
    kind = "statistics" if far else "values"
    assert_near(result.mean, expected["mean"], kind)
    assert_near(result.variance, expected["variance"], kind)


@pytest.mark.parametrize("seed", range(10))
def test_random_shapes(make_sample, run_op, seed, assert_near):
    generator = torch.Generator().manual_seed(seed)

    def draw_one(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    sizes = torch.randint(1, draw_one(4, 20, 200), (draw_one(1, 2, 5),), generator=generator)
    sample = make_sample(
        tuple(sizes.tolist()),  # in any order: the last is the output width
        draw_one(1, 2, 5),
        draw_one(7, 32, 48, 97, 130),
        ids="distinct",
        layout=draw_one("contiguous", "strided"),
        average=draw_one(True, False),
        training=draw_one(True, False),
        seed=seed,
    )
    check(scaled(sample), run_op(sample), assert_near)


@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("bad", [-1, "V", -(2**63), 2**63 - 1])
def test_an_id_out_of_range_is_named(make_sample, run_op, field, bad):
    sample = make_sample((1, 3), 2, 40)
    rows = len(sample.tables[field])
    bad = rows if bad == "V" else bad
    sample.ids[37, field] = bad
    with pytest.raises(
        IndexError, match=rf"out of range in field {field}: id {bad} is not in \[0, {rows - 1}\]"
    ):
        run_op(sample)
