"""The kernels of the op against a naive one in float64, without tiles or distinct ids."""

from dataclasses import replace

import pytest
import torch

from autoemb.ops import cuda
from tests import naive
from tests.naive import exact, shift_rows, spread, stretch_rows
from tests.samples import EMPTY, POPULATED, Case, draw
from tests.samples import mode as mode_name

MORE = [
    Case((16, 64, 256), 2, 100),
    Case((150,), 1, 40),
    Case((1, 3, 7), 40, 500, ids="distinct"),  # blocks go through several tiles
    Case((2, 16, 128), 100, 20, ids="distinct"),
]
EVERY = POPULATED + [
    pytest.param((case, training), id=f"{case}-{mode_name(training)}")
    for case in MORE
    for training in (True, False)
]


def check(sample, result, assert_near, mode="ieee"):
    kinds = ("ieee values", "ieee gradients") if mode == "ieee" else (mode, mode)
    naive.check(sample, result, assert_near, kinds)


@pytest.fixture(params=EVERY)
def sample(request):
    return draw(*request.param, torch.float32)


def test_values_and_gradients_equal_naive(sample, run_op, assert_near):
    check(sample, run_op(sample), assert_near)


@pytest.mark.parametrize(
    ("dims", "batch"),  # 2 events may nearly coincide, which has no bound
    [((2, 16, 128), 31), ((2, 16, 128), 500), ((8,), 500), ((1, 3, 7), 31), ((16, 64, 256), 100)],
    ids=str,
)
# Five distinct ids leave some columns little variance: rounding of z has no bound there.
@pytest.mark.parametrize(
    ("training", "ids"), [(True, "distinct"), (False, "distinct"), (False, "repeated")]
)
def test_every_mode_against_naive(
    make_sample, run_op, mode, dims, batch, training, ids, assert_near
):
    sample = make_sample(dims, 2, batch, ids=ids, training=training)
    with torch.no_grad():  # z of standard deviation 1, as torch.nn.Linear's initialisation gives
        for columns, width in zip(sample.projection.split(dims, 2), dims, strict=True):
            columns /= width**0.5
    check(sample, run_op(sample), assert_near, mode)


def test_a_mode_is_that_of_torch(make_sample, run_op, mode):
    sample = make_sample((32,), 1, 40, ids="distinct")
    error = (run_op(sample).output - exact(sample)["output"]).abs().max()
    low, high = {"ieee": (0, 1e-5), "tf32": (1e-5, 2e-3), "bf16": (2e-3, 3e-2)}[mode]
    assert low <= error < high


def test_bias_gradient_in_training_is_exactly_zero(make_sample, run_op):
    assert not run_op(make_sample((1, 3, 7), 2, 33)).bias_grad.any()


def test_bias_cancels_exactly_in_training(make_sample, run_op):
    sample = make_sample((1, 3, 7), 2, 33)
    output = run_op(sample).output
    with torch.no_grad():
        sample.bias += 1e6
    assert torch.equal(run_op(sample).output, output)


@pytest.mark.parametrize("case", ["train", "eval"])
def test_a_validation_pass_gives_the_same_gradient_of_weights_alone(make_sample, run_op, case):
    sample = make_sample((2, 16, 128), 2, 70, training=case == "train")
    result = run_op(sample, embeddings=False)
    assert torch.equal(result.weights_grad, run_op(sample).weights_grad)
    for name in ("rows", "embeddings_grad", "projection_grad", "bias_grad"):
        assert getattr(result, name).shape[0] == 0


@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_an_empty_batch(case, run_op):
    for training in (True, False):
        result = run_op(draw(case, training, torch.float32))
        assert result.output.shape == (0, case.fields, case.dims[-1])
        assert result.rows.shape == (case.fields, 0)
        assert not result.projection_grad.any()
        assert not result.bias_grad.any()


def test_gradient_of_an_expanded_sum(make_sample, run_op, assert_near):
    sample = make_sample((4, 8), 2, 33)
    sample.grad = torch.ones(()).expand(33, 2, 8)  # all strides are zero
    check(sample, run_op(sample), assert_near)


@pytest.mark.parametrize("training", [True, False], ids=mode_name)
def test_inputs_of_any_strides(make_sample, run_op, training):
    sample = make_sample((4, 8), 2, 70, training=training)
    expected = vars(run_op(sample))

    with torch.no_grad():
        sample.tables = [spread(sample.tables[0], 3, 1), spread(sample.tables[1], 2, 1)]
        sample.weights, sample.grad = spread(sample.weights, 2, 2), spread(sample.grad, 1, 3)
        sample.projection, sample.bias = spread(sample.projection, 1, 2), spread(sample.bias, 2, 1)
        sample.ids = sample.ids.t().contiguous().t()
    for name, value in vars(run_op(sample)).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("batch", [33, 500])
def test_statistics_where_the_mean_is_100_deviations(make_sample, run_op, batch, assert_near):
    sample = make_sample((2, 16, 128), 2, batch, ids="distinct")
    shift_rows(sample)
    result, expected = run_op(sample), exact(sample)
    assert 50 < (expected["mean"] / expected["variance"].sqrt()).median() < 200
    for name in ("mean", "variance"):
        ratio = (getattr(result, name) / expected[name]).to(torch.float32)
        assert_near(ratio, torch.ones_like(ratio), "statistics")


def test_rounding_sees_rows_without_their_common_shift(make_sample, run_op, mode, assert_near):
    sample = make_sample((2, 16, 128), 2, 200, ids="distinct")
    shift_rows(sample)
    result, expected = run_op(sample), exact(sample)
    kind = "statistics" if mode == "ieee" else mode
    assert_near(result.output, expected["output"], kind)
    assert_near(result.weights_grad, expected["weights_grad"], kind)


@pytest.mark.parametrize("width", [2, 16, 128])
def test_statistics_where_embeddings_nearly_lie_on_a_line(make_sample, run_op, width, assert_near):
    sample = make_sample((width,), 1, 500, ids="distinct")
    stretch_rows(sample)
    result, expected = run_op(sample), exact(sample)
    ratio = (result.variance / expected["variance"]).to(torch.float32)
    assert_near(ratio, torch.ones_like(ratio), "statistics")


@pytest.mark.parametrize("ids", ["zipf", "same"])
def test_hot_ids(make_sample, run_op, ids, assert_near):
    sample = make_sample((4, 8), 2, 4096, ids="same")
    if ids == "zipf":
        generator = torch.Generator().manual_seed(0)
        popularity = 1 / torch.arange(1, 4097, dtype=torch.float64)
        drawn = popularity.expand(2, -1).multinomial(4096, True, generator=generator)
        sample.ids = drawn.t().contiguous()
        assert sample.ids.unique(return_counts=True)[1].max() > 400
    check(sample, run_op(sample), assert_near)


@pytest.mark.parametrize("dims", [(2, 16, 128), (16, 64, 256)], ids=str)
def test_reruns_are_equal_to_the_bit_whatever_thread_comes_first(make_sample, run_op, dims, mode):
    sample = make_sample(dims, 2, 150)
    first = vars(run_op(sample))
    for seed in (1, 2):
        for name, value in vars(run_op(sample, seed=seed)).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        (target, seed)
        for target, count in (("emulated", 20), ("cuda", 100))
        for seed in range(count)
    ],
    indirect=["target"],
)
def test_random_shapes(make_sample, run_op, seed, assert_near):
    generator = torch.Generator().manual_seed(seed)

    def draw_one(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    sizes = torch.randint(1, draw_one(4, 20, 200), (draw_one(1, 2, 3),), generator=generator)
    sample = make_sample(
        tuple(sorted(sizes.tolist())),
        draw_one(1, 2, 5),
        draw_one(2, 7, 32, 64, 97, 130),
        ids=draw_one("repeated", "distinct"),
        layout=draw_one("contiguous", "strided"),
        average=draw_one(True, False),
        training=draw_one(True, False),
        seed=seed,
    )
    check(sample, run_op(sample), assert_near)


@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("bad", [-1, "V", -(2**63), 2**63 - 1])
def test_an_id_out_of_range_is_raised_later_and_touches_nothing(
    make_sample, move_problem, target, field, bad
):
    sample = make_sample((1, 3), 2, 40)
    rows = len(sample.tables[field])
    bad = rows if bad == "V" else bad
    sample.ids[37, field] = bad
    problem = move_problem(sample.problem())
    output, mean, variance = cuda.forward(target.kernels, False, *problem)
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    message = rf"out of range in field {field}: id {bad} is not in \[0, {rows - 1}\]"
    with pytest.raises(IndexError, match=message):
        cuda.check_ids(target.device)
    cuda.check_ids(target.device)  # raised once

    assert not output[37, field].any()
    problem = problem._replace(mean=mean, variance=variance)
    result = cuda.backward(target.kernels, sample.grad.to(target.device), True, *problem)
    if target.device.type == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match=message):
        cuda.check_ids(target.device)
    assert not result[1][37, field].any()
    good = sample.ids[:, field][sample.ids[:, field] != bad].unique()
    assert torch.equal(result[4][field].cpu().unique(), good)
    assert all(x.isfinite().all() for x in result)


def test_tensors_on_other_devices_are_refused_by_name(make_sample, target, move_problem):
    problem = move_problem(make_sample((4,), 1, 8).problem())
    problem = problem._replace(bias=problem.bias.to("meta"))
    with pytest.raises(RuntimeError, match=r"expected bias on .* but got it on meta"):
        cuda.forward(target.kernels, False, *problem)
    elsewhere = problem._replace(weights=problem.weights.to("meta"))
    with pytest.raises(RuntimeError, match=rf"on {target.device.type} but got them on meta"):
        cuda.forward(target.kernels, False, *elsewhere)


@pytest.mark.parametrize(
    ("dims", "message"),
    [((1,) * 17, "take 1 to 16 sizes, not 17"), ((12000, 8), "their sum is 12008")],
)
def test_sizes_beyond_the_kernels_are_refused(make_sample, run_op, dims, message):
    with pytest.raises(ValueError, match=message):
        run_op(make_sample(dims, 1, 2))


@pytest.mark.parametrize(
    "case",
    [
        Case((2, 16, 128), 2, 200, ids="distinct"),
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
    kind = "statistics" if far else "ieee values"
    assert_near(result.mean, expected["mean"], kind)
    assert_near(result.variance, expected["variance"], kind)
