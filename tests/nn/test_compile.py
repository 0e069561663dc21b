"""Compiled and exported modules keep the op as one node and give the same numbers."""

import copy

import pytest
import torch

from tests.nn.small import draw_ids, draw_weights, make

OP = torch.ops.autoemb.soft_embedding.default
BACKWARD = torch.ops.autoemb.soft_embedding_backward.default


@pytest.mark.parametrize("sparse", [False, True])
def test_compiled_training_step_keeps_the_op_as_one_node(sparse, recording_backend, assert_near):
    backend, graphs = recording_backend
    eager = make(sparse=sparse)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for seed in range(3):
        ids = draw_ids(7, seed=seed)
        weights = [draw_weights(7, seed=seed).requires_grad_() for _ in range(2)]
        compiled(ids, weights[0]).square().sum().backward()
        eager(ids, weights[1]).square().sum().backward()
        assert_near(weights[0].grad, weights[1].grad.double(), "gradients")
    for a, b in zip(module.parameters(), eager.parameters(), strict=True):
        assert_near(a.grad, b.grad.double(), "gradients")
    for a, b in zip(module.buffers(), eager.buffers(), strict=True):
        assert_near(a.double(), b.double())
    # One graph each way: other ids of the same shape do not compile again.
    ours = [[n.target for n in graph.nodes if "autoemb" in str(n.target)] for graph in graphs]
    assert ours == [[OP], [BACKWARD]]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_inference_keeps_the_op_as_one_node(inputs, strict, dynamic):
    module = make()
    module(*inputs)
    module.eval()
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    program = torch.export.export(module, inputs, dynamic_shapes=(batch, batch), strict=strict)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(OP) == 1
    assert all(target is OP or target.__name__ == "getitem" for target in targets)
    for size in (7, 3) if dynamic else (7,):
        served = draw_ids(size, seed=1), draw_weights(size, seed=1)
        assert torch.equal(program.module()(*served), module(*served))
