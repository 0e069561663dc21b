"""What a soft embedding refuses, and that nothing has changed then."""

import copy

import pytest
import torch

from autoemb import SoftEmbedding, build_info
from tests.nn.small import draw_ids, draw_weights, make


def test_a_batch_of_one_is_refused_in_training_and_served_in_eval_mode():
    module = make()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel.*table 0"):
        module(draw_ids(1), draw_weights(1))
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    assert module.eval()(draw_ids(1), draw_weights(1)).shape == (1, 2, 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_out_of_range_raise_and_change_nothing(training, bad, inputs):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    ids, weights = inputs
    ids[3, 1] = bad
    with pytest.raises(IndexError, match=rf"table '1': id {bad} is not in \[0, 4\]"):
        module(ids, weights)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool], ids=str)
def test_ids_of_another_dtype_are_refused(dtype, inputs):
    with pytest.raises(RuntimeError, match=f"expected ids of dtype torch.int64 but got {dtype}"):
        make()(inputs[0].to(dtype), inputs[1])


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 1), ()], ids=str)
def test_ids_of_another_shape_are_refused(shape, inputs):
    with pytest.raises(ValueError, match=r"expected ids of shape \[B, 2\]"):
        make()(torch.zeros(shape, dtype=torch.int64), inputs[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_weights_of_another_dtype_are_refused(dtype, inputs):
    message = f"expected weights of dtype torch.float32 but got {dtype}"
    with pytest.raises(RuntimeError, match=message):
        make()(inputs[0], inputs[1].to(dtype))


@pytest.mark.parametrize("shape", [(7, 2), (7, 2, 3), (6, 2, 2), (7, 1, 2), (1, 2, 2)], ids=str)
def test_weights_of_another_shape_are_refused(shape, inputs):
    with pytest.raises(ValueError, match=r"expected weights of shape \[7, 2, 2\]"):
        make()(inputs[0], torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "num_embeddings must be positive"),
        (([4, 0],), {}, "num_embeddings must be positive"),
        (([4, -1],), {}, "num_embeddings must be positive"),
        (([4], ()), {}, "embedding_dims must be positive"),
        (([4], (0, 2)), {}, "embedding_dims must be positive"),
        (([4], (4, 2)), {}, "embedding_dims must ascend"),
        (([4],), {"norm": "layer"}, 'norm must be one of "none", "batch", "running"; got'),
        (([4],), {"projection": "zero"}, 'projection must be one of "identity", "uniform"; got'),
        (([4],), {"backend": "cuda"}, 'backend must be one of "auto", "reference", "native"'),
    ],
)
def test_constructor_arguments_are_checked(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SoftEmbedding(*arguments, **options)


def test_native_backend_where_it_is_not_built_says_why(monkeypatch):
    info = build_info() | {"native": False, "cuda": False, "reason": "no compiler"}
    monkeypatch.setattr("autoemb.nn.checks.build_info", lambda: info)
    with pytest.raises(RuntimeError, match="not in this build: no compiler"):
        make(backend="native")
    make(backend="auto")
    make(backend="reference")
