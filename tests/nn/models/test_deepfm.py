"""DeepFM against sums over pairs and ids that are written out."""

import pytest
import torch

from autoemb import SoftEmbedding
from autoemb.nn import DeepFM


def naive(model, inputs, outputs):
    """Return the logits, event by event."""
    embedded = model.embedding(inputs)
    first = [model.first.get_parameter(f"weight_{f}") for f in range(4)]
    logits = []
    for b, event in enumerate(embedded):
        total = torch.zeros(outputs, dtype=event.dtype)
        for f, name in enumerate(("user_id", "item_id", "city")):
            total = total + first[f][inputs.ids[name][b]]
        values, offsets, _ = inputs.ids["prev_items"]
        for id in values[offsets[b] : offsets[b + 1]]:
            total = total + first[3][id]
        for c, number in enumerate(inputs.dense[b]):
            total = total + number * model.first_dense[c]
        for f in range(4):
            for g in range(f + 1, 4):
                for d, product in enumerate(event[f] * event[g]):
                    total = total + product * (1 if outputs == 1 else model.pairs[d])
        row = torch.cat([*event, inputs.dense[b]])
        logits.append(total + model.hidden(row.unsqueeze(0))[0])
    return torch.stack(logits)


@pytest.mark.parametrize("outputs", [1, 3])
def test_logits_are_the_sums_of_the_paper(embedding, inputs, nudge, outputs, assert_near):
    model = nudge(DeepFM(embedding, outputs, hidden=(5,), num_dense=2))
    assert_near(model(inputs), naive(model, inputs, outputs))


@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients(embedding, inputs, nudge, outputs):
    model = nudge(DeepFM(embedding, outputs, hidden=(3,), num_dense=2))
    parameters = [*model.parameters()]
    assert torch.autograd.gradcheck(lambda *_: model(inputs), parameters, fast_mode=True)


def test_ids_have_no_weights_at_first_and_those_of_a_shared_table_are_apart(inputs):
    embedding = SoftEmbedding([5, 7], (2, 4), features=["user_id", "item_id"])
    model = DeepFM(embedding)
    assert model.first.row_tables == {"weight_0": "user_id", "weight_1": "item_id"}
    assert not any(weight.any() for weight in model.first.parameters())
    model.first.grow({"user_id": 9})
    assert len(model.first.get_parameter("weight_0")) == 9


def test_an_embedding_without_features_is_refused():
    with pytest.raises(ValueError, match=r"weight for each id; give its embedding features=\["):
        DeepFM(SoftEmbedding([5, 7]))
