"""Controllers and hard selection."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import Controller, PerIdLogits, Recipe, select_hard
from autoemb.nn.draws import random_keys


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


TABLES = ["user_id", "item_id"]


def some_rows(*lengths):
    return dict(zip(TABLES, map(torch.arange, lengths), strict=False))


def some_history(*lengths, width=5, dtype=torch.float32):
    return dict(zip(TABLES, (torch.randn(n, width, dtype=dtype) for n in lengths), strict=False))


def by_hand(network, inputs):
    """Return the mix that a network of three layers gives, in the order of the equations."""
    first, second, last = (layer for layer in network if isinstance(layer, nn.Linear))
    hidden = torch.tanh(functional.linear(inputs, first.weight, first.bias))
    hidden = torch.tanh(functional.linear(hidden, second.weight, second.bias))
    return torch.softmax(functional.linear(hidden, last.weight, last.bias), 1)


class TestController:
    def test_equals_a_network_a_table_with_softmax(self, assert_near):
        controller = Controller(TABLES, 3, 5, hidden=(7, 6), shared=False).double()
        history = some_history(4, 9, dtype=torch.float64)
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        mix = controller(some_rows(4, 9), history)
        assert [*mix] == TABLES
        for network, table in zip(controller.networks, TABLES, strict=True):
            assert_near(mix[table], by_hand(network, history[table]))
            assert_near(mix[table].sum(1), torch.ones(len(history[table])))

    @pytest.mark.parametrize("shared", [False, True])
    def test_tables_are_told_by_name_whatever_their_order(self, shared):
        controller = Controller(TABLES, sizes=3, num_features=5, hidden=(7,), shared=shared)
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        rows, history = some_rows(4, 9), some_history(4, 9)
        mix = controller(rows, history)
        turned = controller(
            dict(reversed(rows.items())), dict(reversed(history.items())) | {"city": torch.ones(1)}
        )
        assert all(torch.equal(mix[table], turned[table]) for table in TABLES)

    def test_is_that_of_the_recipe_by_default(self):
        controller, recipe = Controller(TABLES, sizes=3, num_features=38), Recipe()
        assert controller.shared is (recipe.controller == "shared")
        widths = [p.shape[0] for p in controller.networks[-1].parameters() if p.dim() == 2]
        assert (*widths,) == (*recipe.controller_hidden, 3)

    def test_has_the_papers_layers_where_they_are_asked_for(self):
        paper = Recipe.of("paper")
        controller = Controller(
            TABLES, 3, 38, paper.controller_hidden, shared=paper.controller == "shared"
        )
        shapes = [tuple(p.shape) for p in controller.networks[1].parameters() if p.dim() == 2]
        assert shapes == [(512, 38), (512, 512), (3, 512)]

    @pytest.mark.parametrize("shared", [False, True])
    def test_starts_with_equal_weights(self, shared):
        controller = Controller(TABLES, sizes=4, num_features=5, hidden=(7,), shared=shared)
        mix = controller(some_rows(3, 2), some_history(3, 2))
        assert torch.equal(mix["item_id"], torch.full((2, 4), 0.25))

    @pytest.mark.parametrize("shared", [False, True])
    def test_a_prior_is_what_it_starts_with_and_adds_to(self, assert_near, shared):
        prior = torch.randn(9, 3)
        plain, ahead = (
            Controller(TABLES, 3, 9, hidden=(4,), prior=p, shared=shared) for p in (None, prior)
        )
        rows, history = some_rows(5, 2), some_history(5, 2, width=9)
        mix = ahead(rows, history)
        for table in TABLES:
            assert_near(mix[table], torch.softmax(history[table] @ prior, 1))
        torch.nn.init.normal_(ahead.networks[0][-1].weight)
        plain.load_state_dict(ahead.state_dict())
        mix, without = ahead(rows, history), plain(rows, history)
        for table in TABLES:
            expected = torch.softmax(without[table].log() + history[table] @ prior, 1)
            assert_near(mix[table], expected)

    def test_separate_tables_share_nothing(self):
        controller = Controller(TABLES, sizes=3, num_features=5, hidden=(7,), shared=False)
        first, second = (list(network.parameters()) for network in controller.networks)
        assert not any(a is b for a in first for b in second)
        assert not torch.equal(first[0], second[0])

    def test_a_shared_network_is_told_the_table_beside_the_history(self, assert_near):
        controller = Controller(TABLES, 3, 5, hidden=(7, 6), shared=True).double()
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        history = some_history(4, 9, dtype=torch.float64)
        mix = controller(some_rows(4, 9), history)
        (network,) = controller.networks
        for number, table in enumerate(TABLES):
            told = torch.zeros(len(history[table]), 2, dtype=torch.float64)
            told[:, number] = 1
            assert_near(mix[table], by_hand(network, torch.cat([history[table], told], 1)))

    def test_the_mix_of_an_id_does_not_depend_on_the_others(self, assert_near):
        controller = Controller(TABLES, 3, 5, hidden=(7,), shared=True)
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        history = some_history(40, 9)
        alone = {"user_id": history["user_id"][7:8], "item_id": history["item_id"][:0]}
        mix, one = (controller({}, given) for given in (history, alone))
        assert_near(one["user_id"], mix["user_id"][7:8].double())

    def test_all_layers_learn_once_the_last_has_moved(self):
        controller = Controller(["user_id"], sizes=3, num_features=5, hidden=(7,))
        optimizer = torch.optim.SGD(controller.parameters(), lr=1)
        for _ in range(2):
            optimizer.zero_grad()
            mix = controller(some_rows(6), some_history(6))["user_id"]
            mix[:, 0].sum().backward()
            optimizer.step()
        assert all(parameter.grad.any() for parameter in controller.parameters())

    @pytest.mark.parametrize("shared", [False, True])
    def test_no_ids(self, shared):
        controller = Controller(TABLES, sizes=3, num_features=5, shared=shared)
        mix = controller(some_rows(0, 0), some_history(0, 0))
        assert [value.shape for value in mix.values()] == [(0, 3), (0, 3)]

    def test_a_missing_table_is_named(self):
        controller = Controller(TABLES, sizes=3, num_features=5, hidden=(7,))
        with pytest.raises(KeyError, match="item_id"):
            controller(some_rows(3), some_history(3))


class TestPerIdLogits:
    def test_weights_are_the_softmax_of_the_ids_own_logits(self, assert_near):
        controller = PerIdLogits(TABLES, [6, 7], sizes=3).double()
        for parameter in controller.parameters():
            nn.init.normal_(parameter)
        rows = {"item_id": torch.tensor([6, 2, 3]), "user_id": torch.tensor([5, 0])}
        mix = controller(rows, {})
        for number, table in enumerate(TABLES):
            logits = controller.table(f"logits_{number}")
            assert_near(mix[table], torch.softmax(logits[rows[table]], 1))

    def test_starts_with_equal_weights_and_so_do_new_ids(self):
        controller = PerIdLogits(["user_id"], [2], sizes=4)
        nn.init.normal_(controller.logits_0)
        before = controller.logits_0.detach().clone()
        controller.grow({"user_id": 5})
        controller.begin_rows("logits_0", torch.tensor([2, 4]), random_keys(2))
        assert torch.equal(controller.logits_0[:2], before)
        mix = controller({"user_id": torch.tensor([2, 4])}, {})["user_id"]
        assert torch.equal(mix, torch.full((2, 4), 0.25))

    def test_gradient_reaches_only_the_ids_in_play(self):
        controller = PerIdLogits(["user_id"], [5], sizes=3)
        controller({"user_id": torch.tensor([4, 1])}, {})["user_id"][:, 0].sum().backward()
        assert controller.logits_0.grad.any(1).tolist() == [False, True, False, False, True]

    @pytest.mark.parametrize("bad", [-1, 5])
    def test_ids_out_of_range_are_refused(self, bad):
        controller = PerIdLogits(["user_id"], [5], sizes=3)
        with pytest.raises(IndexError, match=rf"table 'user_id': id {bad} is not in \[0, 4\]"):
            controller({"user_id": torch.tensor([bad])}, {})


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
