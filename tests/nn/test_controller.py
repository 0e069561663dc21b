"""Controllers, the spreading of their weights over events, and hard selection."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import Controller, PerIdLogits, select_hard, spread
from autoemb.ops import distinct_columns


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class TestController:
    def test_equals_a_network_a_field_with_softmax(self, assert_near):
        controller = Controller(fields=2, sizes=3, num_features=5, hidden=(7, 6)).double()
        features = [torch.randn(4, 5).double(), torch.randn(9, 5).double()]
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        weights = controller([torch.arange(4), torch.arange(9)], features)
        for network, inputs, actual in zip(controller.networks, features, weights, strict=True):
            first, second, last = (layer for layer in network if isinstance(layer, nn.Linear))
            hidden = torch.tanh(functional.linear(inputs, first.weight, first.bias))
            hidden = torch.tanh(functional.linear(hidden, second.weight, second.bias))
            logits = functional.linear(hidden, last.weight, last.bias)
            assert_near(actual, torch.softmax(logits, 1))
            assert_near(actual.sum(1), torch.ones(len(inputs)))

    def test_has_the_papers_layers_by_default(self):
        controller = Controller(fields=2, sizes=3, num_features=38)
        shapes = [tuple(p.shape) for p in controller.networks[1].parameters() if p.dim() == 2]
        assert shapes == [(512, 38), (512, 512), (3, 512)]

    def test_starts_with_equal_weights(self):
        controller = Controller(fields=1, sizes=4, num_features=5, hidden=(7,))
        (weights,) = controller([torch.arange(3)], [torch.randn(3, 5)])
        assert torch.equal(weights, torch.full((3, 4), 0.25))

    def test_a_prior_is_what_it_starts_with_and_adds_to(self, assert_near):
        prior = torch.randn(9, 3)
        plain, ahead = (Controller(1, 3, 9, hidden=(4,), prior=p) for p in (None, prior))
        features = torch.rand(5, 9)
        (weights,) = ahead([None], [features])
        assert_near(weights, torch.softmax(features @ prior, 1))
        torch.nn.init.normal_(ahead.networks[0][-1].weight)
        plain.load_state_dict(ahead.state_dict())
        (weights,), (without,) = (c([None], [features]) for c in (ahead, plain))
        assert_near(weights, torch.softmax(without.log() + features @ prior, 1))

    def test_fields_share_nothing(self):
        controller = Controller(fields=2, sizes=3, num_features=5, hidden=(7,))
        first, second = (list(network.parameters()) for network in controller.networks)
        assert not any(a is b for a in first for b in second)
        assert not torch.equal(first[0], second[0])

    def test_all_layers_learn_once_the_last_has_moved(self):
        controller = Controller(fields=1, sizes=3, num_features=5, hidden=(7,))
        optimizer = torch.optim.SGD(controller.parameters(), lr=1)
        for _ in range(2):
            optimizer.zero_grad()
            (weights,) = controller([torch.arange(6)], [torch.randn(6, 5)])
            weights[:, 0].sum().backward()
            optimizer.step()
        assert all(parameter.grad.any() for parameter in controller.parameters())

    def test_no_ids(self):
        controller = Controller(fields=1, sizes=3, num_features=5)
        (weights,) = controller([torch.arange(0)], [torch.zeros(0, 5)])
        assert weights.shape == (0, 3)

    def test_a_missing_field_is_refused(self):
        controller = Controller(fields=2, sizes=3, num_features=5, hidden=(7,))
        with pytest.raises(ValueError, match="shorter"):
            controller([torch.arange(3)], [torch.zeros(3, 5)])


class TestPerIdLogits:
    def test_weights_are_the_softmax_of_the_ids_own_logits(self, assert_near):
        controller = PerIdLogits([6, 7], sizes=3).double()
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        ids = [torch.tensor([5, 0]), torch.tensor([6, 2, 3])]
        weights = controller(ids, [None, None])
        for field in range(2):
            logits = controller.table(f"logits_{field}")
            assert_near(weights[field], torch.softmax(logits[ids[field]], 1))

    def test_starts_with_equal_weights_and_so_do_new_rows(self):
        controller = PerIdLogits([2], sizes=4)
        nn.init.normal_(controller.logits_0)
        before = controller.logits_0.detach().clone()
        controller.grow([5])
        assert torch.equal(controller.logits_0[:2], before)
        (weights,) = controller([torch.tensor([2, 4])], [None])
        assert torch.equal(weights, torch.full((2, 4), 0.25))

    def test_gradient_reaches_only_the_ids_in_play(self):
        controller = PerIdLogits([5], sizes=3)
        (weights,) = controller([torch.tensor([4, 1])], [None])
        weights[:, 0].sum().backward()
        assert controller.logits_0.grad.any(1).tolist() == [False, True, False, False, True]

    def test_ids_out_of_range_are_refused(self):
        controller = PerIdLogits([5], sizes=3)
        for bad in (-1, 5):
            with pytest.raises(IndexError):
                controller([torch.tensor([bad])], [None])


class TestSpread:
    @pytest.mark.parametrize("batch", [0, 1, 2, 31])
    def test_gives_every_event_the_weights_of_its_id(self, batch):
        ids = torch.randint(5, (batch, 3))
        table = torch.randn(3, 5, 2)
        plans = distinct_columns(ids)
        weights = spread([table[f][plan.rows] for f, plan in enumerate(plans)], plans)
        assert weights.shape == (batch, 3, 2)
        for f in range(3):
            assert torch.equal(weights[:, f], table[f][ids[:, f]])

    def test_gradient_of_an_id_is_the_sum_over_its_events(self):
        plans = distinct_columns(torch.tensor([[7], [3], [7]]))
        weights = torch.zeros(2, 2, requires_grad=True)
        grad = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).unsqueeze(1)
        spread([weights], plans).backward(grad)
        assert weights.grad.tolist() == [[3, 4], [6, 8]]

    def test_a_missing_field_is_refused(self):
        with pytest.raises(ValueError, match="longer"):
            spread([torch.zeros(1, 2)], distinct_columns(torch.zeros(3, 2, dtype=torch.int64)))


class TestSelectHard:
    @pytest.mark.parametrize("wants_gradient", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_value_is_exactly_one_hot_at_the_largest(self, wants_gradient, dtype):
        soft = torch.randn(500, 2, 3).softmax(2).to(dtype).requires_grad_(wants_gradient)
        hard = select_hard(soft)
        assert hard.dtype == dtype
        assert torch.equal(hard, functional.one_hot(soft.argmax(2), 3).to(dtype))

    def test_ties_go_to_one_size(self):
        assert (select_hard(torch.full((4, 3), 1 / 3)).sum(1) == 1).all()

    def test_gradient_passes_straight_through(self):
        soft = torch.randn(7, 3).softmax(1).requires_grad_()
        grad = torch.randn(7, 3)
        select_hard(soft).backward(grad)
        assert torch.equal(soft.grad, grad)

    def test_gradient_reaches_logits_as_that_of_the_softmax(self, assert_near):
        logits = torch.randn(7, 3, dtype=torch.float64).requires_grad_()
        grad = torch.randn(7, 3, dtype=torch.float64)
        (actual,) = torch.autograd.grad(select_hard(logits.softmax(1)), logits, grad)
        (expected,) = torch.autograd.grad(logits.softmax(1), logits, grad)
        assert_near(actual, expected, "gradients")

    def test_input_stays_and_empty_is_empty(self):
        soft = torch.tensor([[0.2, 0.8]])
        select_hard(soft)
        assert torch.equal(soft, torch.tensor([[0.2, 0.8]]))
        assert select_hard(torch.zeros(0, 2, 3)).shape == (0, 2, 3)
