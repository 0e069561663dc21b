"""The embedding of a fixed width against torch's."""

import pytest
import torch
from torch.nn import functional

from autoemb import FixedEmbedding
from tests.nn.small import ROWS, draw_ids, draw_weights


def test_equals_one_embedding_a_field():
    module = FixedEmbedding(ROWS, 6, dtype=torch.float64)
    ids = draw_ids(33)
    expected = [functional.embedding(ids[:, f], module.table(f"table_{f}")) for f in range(2)]
    for weights in (None, draw_weights(33)):
        assert torch.equal(module(ids, weights), torch.stack(expected, 1))
    assert (module.num_features, module.output_dim) == (2, 6)


def test_gradient_of_a_row_is_the_sum_over_its_events():
    module = FixedEmbedding([4], 2)
    module(torch.tensor([[1], [3], [1]])).sum().backward()
    assert module.table_0.grad[:, 0].tolist() == [0, 2, 0, 1]


def test_empty_batch():
    output = FixedEmbedding(ROWS, 6)(draw_ids(0))
    assert output.shape == (0, 2, 6)
    output.sum().backward()


def test_bad_ids_are_refused():
    module = FixedEmbedding(ROWS, 6)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match=f"table '1': id {bad} is not in"):
            module(torch.tensor([[0, bad]]))
    with pytest.raises(RuntimeError, match=r"torch.int64 but got torch.int32"):
        module(draw_ids(3).int())
    with pytest.raises(ValueError, match=r"ids of shape \[B, 2\]"):
        module(draw_ids(3)[:, :1])


def test_state_dict_round_trip():
    module, other = FixedEmbedding(ROWS, 6), FixedEmbedding(ROWS, 6)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(draw_ids(7)), module(draw_ids(7)))
