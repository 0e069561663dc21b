"""Bags against a loop over their entries, their derivatives, and what they refuse."""

import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.ops import distinct, pool

few = settings(max_examples=60, deadline=None, derandomize=True)
every_pooling = pytest.mark.parametrize("pooling", ["mean", "sum"])


def naive(values, positions, offsets, weights, pooling):
    rows = []
    for begin, end in pairwise(offsets.tolist()):
        total = torch.zeros(values.shape[1], dtype=values.dtype)
        divisor = torch.zeros((), dtype=values.dtype)
        for entry in range(begin, end):
            weight = 1.0 if weights is None else weights[entry]
            total = total + weight * values[positions[entry]]
            divisor = divisor + weight
        if pooling == "mean":
            total = total / divisor if divisor != 0 else torch.zeros_like(total)
        rows.append(total)
    return torch.stack(rows) if rows else torch.zeros(0, values.shape[1], dtype=values.dtype)


def draw(lengths, rows=5, width=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    positions = torch.randint(rows, (sum(lengths),), generator=generator)
    offsets = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    weights = torch.rand(len(positions), generator=generator, dtype=torch.float64) + 0.5
    return values.requires_grad_(), positions, offsets, weights.to(dtype).requires_grad_()


@pytest.fixture(params=["trimmed", "padded"])
def pooled(request, monkeypatch):
    """The function, and on the CPU its way on a GPU, with entries behind the last bag."""
    if request.param == "trimmed":
        return pool
    module = sys.modules["autoemb.ops.pool"]
    monkeypatch.setattr(module, "is_padded", lambda device: True)

    def with_padding(values, positions, offsets, weights=None, *, pooling):
        far = torch.tensor([0, -1, len(values), 2**63 - 1])
        positions = torch.cat([positions, far])
        if weights is not None:
            weights = torch.cat([weights, weights.new_full((4,), 7.0)])
        return pool(values, positions, offsets, weights, pooling=pooling)

    return with_padding


@every_pooling
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@few
@given(lengths=st.lists(st.integers(0, 6), max_size=8), seed=st.integers(0, 2**16))
def test_equals_a_loop(assert_near, pooling, weighted, dtype, lengths, seed):
    values, positions, offsets, weights = draw(lengths, dtype=dtype, seed=seed)
    weights = weights if weighted else None
    result = pool(values, positions, offsets, weights, pooling=pooling)
    assert result.dtype == dtype
    exact = values.double(), positions, offsets, weights.double() if weighted else None
    assert_near(result, naive(*exact, pooling))


@every_pooling
@pytest.mark.parametrize("lengths", [(2, 0, 3, 1), (0, 0), (), (4,)], ids=str)
def test_derivatives_of_both_orders(pooled, pooling, lengths):
    values, positions, offsets, weights = draw(lengths)

    def function(values, weights=None):
        return pooled(values, positions, offsets, weights, pooling=pooling)

    for inputs in ((values,), (values, weights)):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@every_pooling
def test_gradients_equal_those_of_a_loop(pooled, pooling, assert_near):
    values, positions, offsets, weights = draw([2, 0, 5, 1, 30])
    found, expected = (
        torch.autograd.grad(
            f(values, positions, offsets, weights, pooling=pooling).square().sum(),
            [values, weights],
        )
        for f in (pooled, naive)
    )
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, "gradients")


def test_weights_that_sum_to_zero_have_no_mean(pooled):
    values, positions, offsets, _ = draw([2, 2])
    weights = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    result = pooled(values, positions, offsets, weights, pooling="mean")
    assert not result[0].any()
    assert result[1].all()
    for gradient in torch.autograd.grad(result.square().sum(), [values, weights]):
        assert gradient.isfinite().all()
    assert pooled(values, positions, offsets, weights, pooling="sum")[0].any()


def test_what_is_not_a_number_stays_in_its_bag(pooled):
    values, positions, offsets, _ = draw([2, 2, 1])
    positions = torch.tensor([0, 1, 2, 3, 3])
    with torch.no_grad():
        values[2] = torch.nan
    result = pooled(values, positions, offsets, pooling="sum")
    assert result.isnan().any(1).tolist() == [False, True, False]


def test_a_rerun_gives_the_same_bits_on_any_number_of_threads():
    values, positions, offsets, weights = draw([50] * 100, rows=300, width=64, dtype=torch.float32)

    def run():
        result = pool(values, positions, offsets, weights)
        return [result, *torch.autograd.grad(result.square().sum(), [values, weights])]

    before, expected = torch.get_num_threads(), run()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, run(), expected))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("given_offsets", [False, True])
def test_opcheck(given_offsets):
    values, positions, offsets, weights = draw([2, 0, 3])
    targets = torch.tensor([0, 0, 2, 2, 2])
    order = offsets if given_offsets else None
    entries = weights, positions, targets, order
    torch.library.opcheck(torch.ops.autoemb.bag_sum, (values, *entries, 3))
    grads = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.autoemb.bag_inner, (grads, values, *entries))


def test_a_compiled_pool_is_one_node(recording_backend, assert_near):
    backend, graphs = recording_backend
    values, positions, offsets, weights = draw([2, 0, 3])
    compiled = torch.compile(pool, fullgraph=True, backend=backend)
    results = []
    for function in (compiled, pool):
        result = function(values, positions, offsets, weights, pooling="sum")
        results.append([result, *torch.autograd.grad(result.square().sum(), [values, weights])])
    for one, other in zip(*results, strict=True):
        assert_near(one, other)
    ours = [sum("autoemb" in str(node.target) for node in graph.nodes) for graph in graphs]
    assert ours == [1, 2]  # backward: values and weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "max"}, 'pooling must be one of "mean", "sum"'),
        ({"offsets": torch.tensor([0, 3, 2, 5])}, "ascend from 0 to 5"),
        ({"offsets": torch.tensor([0, 2, 4])}, "ascend from 0 to 5"),
        ({"offsets": torch.tensor([1, 2, 5])}, "ascend from 0 to 5"),
        ({"offsets": torch.tensor([], dtype=torch.int64)}, r"expected offsets of shape \[B \+ 1\]"),
        ({"offsets": torch.tensor([0, 5], dtype=torch.int32)}, "expected offsets of dtype"),
        ({"positions": torch.zeros(5)}, "expected positions of dtype"),
        ({"positions": torch.tensor([0, 1, 2, 3, 5])}, r"row 5 is not in \[0, 4\]"),
        ({"positions": torch.tensor([0, 1, -1, 3, 4])}, r"row -1 is not in \[0, 4\]"),
        ({"weights": torch.rand(4)}, r"expected weights of shape \[5\]"),
        ({"weights": torch.ones(5, dtype=torch.int64)}, "expected weights of a floating dtype"),
        ({"weights": torch.rand(5, device="meta")}, "expected weights on cpu but got it on meta"),
        ({"values": torch.zeros(5)}, "expected values of 2 dimensions"),
        ({"values": torch.zeros(5, 2, dtype=torch.int64)}, "expected values of a floating dtype"),
    ],
)
def test_what_it_cannot_pool_is_refused(change, message):
    values, positions, offsets, weights = draw([2, 0, 3])
    arguments = {"values": values, "positions": positions, "offsets": offsets, "weights": weights}
    with pytest.raises((IndexError, RuntimeError, ValueError), match=message):
        pool(**arguments | change)


def test_a_table_shared_by_a_feature_and_a_bag(assert_near):
    table = torch.randn(50, 4, dtype=torch.float64)
    feature, bag = torch.tensor([7, 3, 7]), torch.tensor([9, 7, 7, 49])
    plan = distinct(torch.cat([feature, bag]))
    own, entries = plan.inverse.split_with_sizes([len(feature), len(bag)])
    values, offsets = table[plan.rows], torch.tensor([0, 2, 2, 4])
    assert torch.equal(values[own], table[feature])
    assert_near(pool(values, entries, offsets), naive(table, bag, offsets, None, "mean"))
