"""DCN-v2 against its equation written out."""

import pytest
import torch

from autoemb import MLP
from autoemb.nn import DCN


def naive(model, inputs):
    """Return the logits, number by number: x0_i * (sum_j W_ij x_j + b_i) + x_i."""
    logits = []
    for event, dense in zip(model.embedding(inputs), inputs.dense, strict=True):
        start = x = torch.cat([*event, dense])
        for cross in model.crosses:
            matrix = cross.outer.weight @ cross.inner.T
            x = torch.stack(
                [
                    start[i] * (sum(row[j] * x[j] for j in range(len(x))) + cross.outer.bias[i])
                    + x[i]
                    for i, row in enumerate(matrix)
                ]
            )
        logits.append(model.hidden(x.unsqueeze(0))[0])
    return torch.stack(logits)


@pytest.mark.parametrize("outputs", [1, 3])
def test_logits_are_the_equation_of_the_paper(embedding, inputs, nudge, outputs, assert_near):
    model = nudge(DCN(embedding, outputs, hidden=(5,), num_dense=2, rank=3))
    assert_near(model(inputs), naive(model, inputs))


def test_gradients(embedding, inputs, nudge):
    model = nudge(DCN(embedding, hidden=(3,), num_dense=2, rank=2))
    parameters = [*model.parameters()]
    assert torch.autograd.gradcheck(lambda *_: model(inputs), parameters, fast_mode=True)


def test_it_starts_as_the_mlp_and_its_crosses_learn(embedding, inputs):
    model = DCN(embedding, hidden=(5,), num_dense=2).double()
    plain = MLP(embedding, hidden=(5,), num_dense=2).double()
    plain.hidden.load_state_dict(model.hidden.state_dict())
    logits = model(inputs)
    assert torch.equal(logits, plain(inputs))
    logits.sum().backward()
    assert all(cross.outer.weight.grad.any() for cross in model.crosses)
