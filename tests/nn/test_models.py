"""The recommender over either embedding, and its compiled and exported forms."""

import copy
import itertools

import pytest
import torch
from torch import nn

from autoemb import MLP, FixedEmbedding, SoftEmbedding
from autoemb.nn import Inputs
from autoemb.nn.layers import mlp
from tests.nn.small import make

IDS = torch.tensor([[0, 1], [3, 4], [0, 4], [2, 0], [3, 1], [1, 1], [0, 2]])
OP = torch.ops.autoemb.soft_embedding.default
BACKWARD = torch.ops.autoemb.soft_embedding_backward.default


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def soft_model(**options):
    return MLP(make(), hidden=(8, 6), **options)


def weights(dtype=torch.float32):
    return torch.randn(len(IDS), 2, 2).softmax(2).to(dtype)


def plain_mlp(network, widths):
    """Return the same network of torch's own layers in float64."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    plain = nn.Sequential(*layers[:-1]).double()
    plain.load_state_dict(network.state_dict())
    return plain


@pytest.mark.parametrize("hidden", [(), (4,), (8, 6)], ids=str)
def test_mlp_is_linear_layers_with_tanh_between(hidden, assert_near):
    network = mlp(3, hidden, 2).double()
    inputs = torch.randn(7, 3, dtype=torch.float64)
    assert_near(network(inputs), plain_mlp(network, (3, *hidden, 2))(inputs))


@pytest.mark.parametrize("batch", [1, 31, 500])
def test_mlp_of_the_papers_width_in_float32(batch, assert_near):
    # wide enough for every library that may multiply
    network = mlp(38, (512, 512), 3)
    exact = plain_mlp(network, (38, 512, 512, 3))
    inputs = torch.randn(batch, 38, requires_grad=True)

    def derivatives(network, inputs):
        output = network(inputs)
        leaves = [inputs, *network.parameters()]
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)
        return output, *first, *second

    actual = derivatives(network, inputs)
    expected = derivatives(exact, inputs.detach().double().requires_grad_())
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert_near(a, e, "gradients")


@pytest.mark.parametrize("outputs", [1, 5])
def test_logits_are_the_network_over_embeddings_side_by_side(outputs):
    model = soft_model(outputs=outputs).eval()
    mixed = weights()
    rows = model.embedding(IDS, mixed)
    logits = model(IDS, mixed)
    assert logits.shape == (7, outputs)
    assert torch.equal(logits, model.hidden(torch.cat([rows[:, 0], rows[:, 1]], 1)))


def test_fixed_width_needs_no_weights():
    model = MLP(FixedEmbedding([4, 5], 6), outputs=5, hidden=(8,))
    users, items = model.embedding.table("table_0"), model.embedding.table("table_1")
    expected = model.hidden(torch.cat([users[IDS[:, 0]], items[IDS[:, 1]]], 1))
    assert torch.equal(model(IDS), expected)


def test_inputs_by_name_are_those_by_column_and_dense_ones_come_last():
    model = MLP(make(features=["user_id", "item_id"]), hidden=(8,), num_dense=3).eval()
    dense = torch.randn(7, 3)
    inputs = Inputs({"item_id": IDS[:, 1], "city": IDS[:, 0], "user_id": IDS[:, 0]}, dense)
    mix = {"user_id": torch.rand(4, 2), "item_id": torch.rand(5, 2)}
    each = torch.stack([mix["user_id"][IDS[:, 0]], mix["item_id"][IDS[:, 1]]], 1)
    embedded = model.embedding(IDS, each).flatten(1)
    torch.testing.assert_close(model(inputs, mix), model.hidden(torch.cat([embedded, dense], 1)))


def test_default_layers_are_the_papers():
    model = MLP(SoftEmbedding([4, 5]))
    shapes = [tuple(layer.weight.shape) for layer in model.hidden if isinstance(layer, nn.Linear)]
    assert shapes == [(512, 256), (512, 512), (1, 512)]


def test_every_parameter_but_the_cancelled_bias_learns():
    model = soft_model()
    model(IDS, weights()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any() == (name != "embedding.bias")


def test_second_derivatives_reach_weights_and_parameters():
    model = soft_model().double()
    mixed = weights(torch.float64).requires_grad_()
    parameters = [p for n, p in model.named_parameters() if n != "embedding.bias"]

    def function(mixed, *_):
        return model(IDS, mixed)

    assert torch.autograd.gradgradcheck(function, (mixed, *parameters))


@pytest.mark.filterwarnings(  # torch.compile itself instantiates it while it traces
    "ignore:.*should not be instantiated:DeprecationWarning"
)
def test_compiled_training_step_keeps_the_op_as_one_node(recording_backend, assert_near):
    backend, graphs = recording_backend
    eager = soft_model()
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(2):
        mixed = weights()
        losses = [module(IDS, mixed).square().sum() for module in (compiled, eager)]
        for loss in losses:
            loss.backward()
        assert_near(losses[0], losses[1].double())
    for a, b in zip(model.parameters(), eager.parameters(), strict=True):
        assert_near(a.grad, b.grad.double(), "gradients")
    for a, b in zip(model.buffers(), eager.buffers(), strict=True):
        assert_near(a.double(), b.double())
    ours = [[n.target for n in graph.nodes if "autoemb" in str(n.target)] for graph in graphs]
    assert ours == [[OP], [BACKWARD]]


def test_exported_inference_keeps_the_op_as_one_node():
    model = soft_model().eval()
    mixed = weights()
    program = torch.export.export(model, (IDS, mixed))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(OP) == 1
    assert torch.equal(program.module()(IDS, mixed), model(IDS, mixed))
