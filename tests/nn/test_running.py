"""``norm="running"``: statistics of the batches before, as constants."""

import pytest
import torch

from autoemb import SoftEmbedding
from autoemb.nn.draws import id_keys
from tests.naive import naive, naive_z
from tests.nn.small import ROWS, draw_ids, draw_weights, make

OPTIONS = {"norm": "running", "momentum": 0.3, "dtype": torch.float64}


def arguments(module, ids, weights):
    return module.tables, ids, weights, module.projection, module.bias


def test_a_batch_is_normalised_with_those_before_it(assert_near_with_gradients):
    module = make(**OPTIONS)
    for step, batch in enumerate((33, 1, 31)):
        ids, weights = draw_ids(batch, seed=step), draw_weights(batch, dtype=torch.float64)
        running = module.running_mean.clone(), module.running_var.clone()
        output = module(ids, weights)
        named = {"dims": (2, 4), "eps": module.eps, "average": True}
        expected = naive(*arguments(module, ids, weights), running, **named).output
        assert_near_with_gradients(module, output, expected)


def test_running_statistics_are_the_moments_of_the_weighted_past(assert_near):
    module = make(**OPTIONS)
    past = []  # z of each batch [B, D], for every field and size
    for step in range(4):
        ids = draw_ids(2000, seed=step)  # so many that unbiased and biased variance agree
        past.append(naive_z(module.tables, ids, module.projection, module.bias, (2, 4)))
        module(ids, draw_weights(2000, dtype=torch.float64))
        with torch.no_grad():  # the means of batches lie apart
            for table in module.tables:
                table += 3
    shares = [0.7**3, 0.3 * 0.7**2, 0.3 * 0.7, 0.3]  # the first batch counts whole
    for f in range(2):
        for n in range(2):
            pairs = [*zip(shares, (batch[f][n] for batch in past), strict=True)]
            mean = sum(share * z.mean(0) for share, z in pairs)
            variance = sum(share * (z - mean).square().mean(0) for share, z in pairs)
            assert_near(module.running_mean[f, n], mean)
            assert torch.allclose(module.running_var[f, n], variance, rtol=1e-3)


def test_serving_normalises_as_the_next_training_batch_would():
    module = make(norm="running")
    module(draw_ids(33), draw_weights(33))
    ids, weights = draw_ids(9, seed=1), draw_weights(9, seed=1)
    served = module.eval()(ids, weights)
    assert torch.equal(module.train()(ids, weights), served)


def test_second_derivatives():
    module = make(**OPTIONS)
    module(draw_ids(20), draw_weights(20, dtype=torch.float64))
    ids, weights = draw_ids(5, seed=1), draw_weights(5, dtype=torch.float64).requires_grad_()
    running = module.running_mean.clone(), module.running_var.clone()

    def function(weights, table, projection):
        with torch.no_grad():  # the module changes its buffers in place
            module.running_mean.copy_(running[0])
            module.running_var.copy_(running[1])
        replaced = {"table_0": table, "projection": projection}
        return torch.func.functional_call(module, replaced, (ids, weights))

    leaves = weights, module.table_0, module.projection
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("std", [0.0, 0.01, 2.0])
def test_new_rows_are_drawn_with_the_deviation_asked_for(std):
    module = SoftEmbedding([2000, 2000], (2, 16), init_std=std)
    module.grow({"1": 4000})
    new = torch.arange(2000, 4000)
    module.begin_rows("table_1", new, id_keys(new.numpy(), seed=0, table="1"))
    for rows in (module.table_0, module.table_1[2000:]):
        assert rows.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    "options", [{"norm": "layer"}, {"init_std": -0.1}, {"init_std": float("nan")}]
)
def test_a_wrong_option_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SoftEmbedding(ROWS, (2, 4), **options)
