"""The soft embedding against a naive one of torch's modules: numbers, statistics, dtypes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import Recipe, SoftEmbedding
from tests.nn.small import ROWS, draw_ids, draw_weights, make


class NaiveSoftEmbedding(nn.Module):
    """Eqs. 1, 2 and 7 event by event; its state_dict has the documented keys by itself."""

    def __init__(self, rows, dims, eps=1e-5, momentum=0.1, average=True, dtype=torch.float64):
        super().__init__()
        width = dims[-1]
        self.average = average

        def each(make):
            return nn.ModuleList(nn.ModuleList(make(d) for d in dims) for _ in rows)

        self.tables = nn.ModuleList(
            nn.ParameterList(torch.zeros(n, d, dtype=dtype) for d in dims) for n in rows
        )
        self.projections = each(lambda d: nn.Linear(d, width, dtype=dtype))
        self.norms = each(lambda d: nn.BatchNorm1d(width, eps, momentum, affine=False, dtype=dtype))

    def forward(self, ids, weights):
        fields = []
        for f, tables in enumerate(self.tables):
            total = 0
            for n, table in enumerate(tables):
                z = self.projections[f][n](functional.embedding(ids[:, f], table))
                total = total + weights[:, f, n, None] * torch.tanh(self.norms[f][n](z))
            fields.append(total / len(tables) if self.average else total)
        return torch.stack(fields, 1)


@pytest.mark.parametrize("dims", [(2, 16, 128), (8,), (1, 3, 7), (2, 2)], ids=str)
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (0.1, 0.7)])
def test_training_and_serving_equal_naive(dims, average, eps, momentum, assert_near):
    rows = [40, 3, 7]
    module = make(dims, rows, eps=eps, momentum=momentum, average=average, dtype=torch.float64)
    naive = NaiveSoftEmbedding(rows, dims, eps, momentum, average)
    naive.load_state_dict(module.state_dict())
    for step, batch in enumerate((33, 31, 2)):
        ids = draw_ids(batch, rows, step)
        weights = draw_weights(batch, len(dims), 3, torch.float64, step)
        gradients = []
        for model in (module, naive):
            mixed = weights.clone().requires_grad_()
            model.zero_grad()
            output = model(ids, mixed)
            output.square().sum().backward()
            gradients.append((output, mixed.grad))
        for actual, expected in zip(*gradients, strict=True):
            assert_near(actual, expected, "gradients")
        parameters = dict(naive.named_parameters())
        for f, table in enumerate(module.tables):
            expected = torch.cat([parameters[f"tables.{f}.{n}"].grad for n in range(len(dims))], 1)
            assert_near(table.grad, expected, "gradients")
            expected = [parameters[f"projections.{f}.{n}.weight"].grad for n in range(len(dims))]
            assert_near(module.projection.grad[f], torch.cat(expected, 1), "gradients")
        assert not module.bias.grad.any()
    expected = naive.state_dict()
    for key, value in module.state_dict().items():
        assert_near(value.double(), expected[key].double())
    module.eval()
    naive.eval()
    for batch in (33, 1):
        ids, weights = draw_ids(batch, rows), draw_weights(batch, len(dims), 3, torch.float64)
        assert_near(module(ids, weights), naive(ids, weights))
    unchanged = module.state_dict()
    for key, value in expected.items():
        assert_near(unchanged[key].double(), value.double())


def test_running_variance_is_unbiased_and_counts_batches(assert_near):
    module = make(momentum=1.0, dtype=torch.float64)
    ids, weights = draw_ids(31), draw_weights(31, dtype=torch.float64)
    module(ids, weights)
    for f in range(2):
        columns = module.tables[f].split((2, 4), 1)
        for n, matrix in enumerate(module.projection[f].split((2, 4), 1)):
            z = functional.linear(columns[n][ids[:, f]], matrix, module.bias[f, n])
            assert_near(module.running_mean[f, n], z.mean(0))
            assert_near(module.running_var[f, n], z.var(0, correction=1))
    assert (module.num_batches_tracked == 1).all()


def test_training_without_gradients_updates_the_statistics_alike(inputs):
    module = make()
    other = copy.deepcopy(module)
    module(*inputs)
    with torch.no_grad():
        other(*inputs)
    assert torch.equal(module.running_mean, other.running_mean)
    assert torch.equal(module.running_var, other.running_var)


def test_bias_acts_in_eval_mode_only(inputs):
    module = make()
    module(*inputs).sum().backward()
    assert not module.bias.grad.any()
    module.eval()
    module(*inputs).sum().backward()
    assert module.bias.grad.all()


def test_reference_backend_gives_the_same_numbers(inputs, assert_near):
    module = make(backend="reference")
    other = make()
    other.load_state_dict(module.state_dict())
    assert_near(other(*inputs), module(*inputs).double())


def test_defaults_are_those_of_the_recipe():
    module, recipe = SoftEmbedding([3]), Recipe()
    assert module.embedding_dims == recipe.dims == (2, 16, 128)
    assert (module.norm, module.eps) == (recipe.norm, recipe.norm_eps) == ("none", 1.0)
    assert module.init_std == recipe.init_std == 0.1
    assert module.average is (recipe.mix == "mean") is False
    assert recipe.projection == "identity"
    assert torch.equal(module.projection[0, :, -128:], torch.eye(128))
    assert not module.bias.any()
    assert (module.momentum, module.backend, module.sparse) == (0.1, "auto", False)
    assert (module.num_features, module.output_dim) == (1, 128)
    assert "[3], embedding_dims=(2, 16, 128), norm='none'" in repr(module)
    assert "features=['city']" in repr(SoftEmbedding([3], features=["city"]))


def test_initial_values_of_the_papers_are_those_of_embedding_and_linear():
    module = make((1, 64), [5000])
    assert abs(module.table_0.mean()) < 0.01
    assert abs(module.table_0.std() - 1) < 0.01
    for n, (columns, width) in enumerate(
        zip(module.projection[0].split((1, 64), 1), (1, 64), strict=True)
    ):
        for values in (columns, module.bias[0, n]):
            assert 0.9 / width**0.5 < values.abs().max() <= 1 / width**0.5
    assert not module.running_mean.any()
    assert (module.running_var == 1).all()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_a_module_cast_to_another_dtype_trains_and_serves(dtype):
    module = make().to(dtype)
    ids, weights = draw_ids(31), draw_weights(31, dtype=dtype)
    output = module(ids, weights)
    output.sum().backward()
    assert output.dtype == module.table_0.grad.dtype == dtype
    assert module.running_var.dtype == torch.promote_types(dtype, torch.float32)
    assert module.num_batches_tracked.dtype == torch.int64
    assert module.eval()(ids, weights).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_module_made_in_a_dtype_keeps_exact_statistics(dtype, assert_near):
    module = make((1, 3, 7), dtype=dtype)
    naive = NaiveSoftEmbedding(ROWS, (1, 3, 7))
    naive.load_state_dict(module.state_dict())
    ids, weights = draw_ids(33), draw_weights(33, 3, dtype=dtype)
    statistics = torch.promote_types(dtype, torch.float32)
    assert_near(module(ids, weights), naive(ids, weights.double()))
    expected = naive.state_dict()
    for key, value in module.state_dict().items():
        if "running" in key:
            assert value.dtype == statistics
            assert_near(value, expected[key])
    assert_near(module.eval()(ids, weights), naive.eval()(ids, weights.double()))


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch_gives_an_empty_output_and_leaves_the_statistics_alone(training):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    weights = draw_weights(0).requires_grad_()
    output = module(draw_ids(0), weights)
    assert output.shape == (0, 2, 4)
    output.sum().backward()
    assert weights.grad.shape == (0, 2, 2)
    assert not any(p.grad.any() for p in module.parameters())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
