"""``norm="none"``: sizes as they are, and projections that start as the identity."""

import pytest
import torch

from autoemb import SoftEmbedding
from tests.naive import naive_z
from tests.nn.small import ROWS, draw_ids, draw_weights, make


@pytest.mark.parametrize("training", [True, False])
def test_sizes_are_mixed_as_they_are(assert_near_with_gradients, training):
    module = make(norm="none", average=False, dtype=torch.float64).train(training)
    ids, weights = draw_ids(33), draw_weights(33, dtype=torch.float64)
    z = naive_z(module.tables, ids, module.projection, module.bias, (2, 4))
    sizes = [torch.stack([torch.tanh(part) for part in field], 1) for field in z]  # [B, N, D]
    expected = (weights.unsqueeze(3) * torch.stack(sizes, 1)).sum(2)
    output = module(ids, weights)
    assert_near_with_gradients(module, output, expected)


def test_it_takes_no_statistics_and_a_batch_of_one():
    module = make(norm="none")
    module(draw_ids(1), draw_weights(1))
    assert not module.running_mean.any()
    assert bool((module.running_var == 1).all())
    assert not module.num_batches_tracked.any()


def test_the_widest_size_starts_as_a_plain_embedding():
    module = SoftEmbedding(ROWS, (2, 4), norm="none", average=False, projection="identity")
    ids, weights = draw_ids(9), torch.zeros(9, len(ROWS), 2)
    weights[..., 1] = 1
    rows = [table[ids[:, f], 2:] for f, table in enumerate(module.tables)]
    torch.testing.assert_close(module(ids, weights), torch.tanh(torch.stack(rows, 1)))
    assert not module.bias.any()
    assert bool(module.projection[:, :, :2].all())  # the others start at random
