"""The records of optimisers, and who reads them."""

from typing import get_args

import pytest
import torch

from autoemb.optim import OPTIMIZERS, RowOptimizer
from autoemb.recipe import Recipe

every = pytest.mark.parametrize("kind", [pytest.param(k, id=k.name) for k in OPTIMIZERS.values()])


def test_recipes_take_every_optimizer():
    assert get_args(Recipe.model_fields["optimizer"].annotation) == tuple(OPTIMIZERS)


@every
def test_a_record_is_under_its_name_and_whole(kind):
    assert OPTIMIZERS[kind.name] is kind
    assert issubclass(kind.rows, RowOptimizer)
    assert all(rate > 0 for rate in kind.rates)
    assert kind.op is None or hasattr(torch.ops.autoemb, kind.op)


@every
def test_an_optimizer_brings_its_rates_to_a_recipe(kind):
    recipe = Recipe.of(optimizer=kind.name)
    assert {name: getattr(recipe, name) for name in kind.rates._fields} == kind.rates._asdict()
    assert Recipe.of(optimizer=kind.name, row_rate=5.0).row_rate == 5
    paper = Recipe.of("paper")
    assert Recipe.of("paper", optimizer=kind.name) == paper.model_copy(
        update={"optimizer": kind.name}
    )


def test_a_recipe_that_is_given_nothing_has_the_rates_of_its_optimizer():
    assert Recipe.of(optimizer=Recipe().optimizer) == Recipe() == Recipe.of()
