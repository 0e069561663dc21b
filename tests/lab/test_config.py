import dataclasses
import json

import pytest
import torch

from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.config import CHOICES, Recipe
from autoemb.optim import OPTIMIZERS

NAN, INF = float("nan"), float("inf")

INVALID = [
    *[(name, "bogus", "expected one of") for name in CHOICES],
    *[(name, None, "expected one of") for name, known in CHOICES.items() if None not in known],
    ("method", "AutoEmb", "expected one of fse, sam, darts, autoemb"),
    ("dims", (), "positive sizes in ascending order"),
    ("dims", (0,), "positive sizes"),
    ("dims", (-1, 2), "positive sizes"),
    ("dims", (16, 2), "--dims is 16,2; .* ascending order"),
    ("batch_size", 1, "at least 2"),
    ("batch_size", 0, "at least 2"),
    ("batch_size", -5, "at least 2"),
    ("window", 0, "at least 1"),
    ("window", -1, "at least 1"),
    ("reservoir", 1, "at least 2"),
    ("limit", 1, "at least 2"),
    ("limit", 0, "at least 2"),
    ("limit", -1, "at least 2"),
    ("seed", -1, "0 to 2"),
    ("seed", 2**63, "0 to 2"),
    ("offline_fraction", -0.1, "0 to 1"),
    ("offline_fraction", 1.1, "0 to 1"),
    ("offline_fraction", NAN, "0 to 1"),
    *[(name, 2**63, "at most") for name in ("batch_size", "window", "reservoir", "limit")],
    ("dims", (2, 10**17), "sizes of at most"),
    *[("budget", value, "a share above 0, at most 1") for value in (0, -0.1, 1.1, NAN)],
    *[("init_std", value, "a number from 0") for value in (-0.1, NAN, INF)],
    *[
        (name, value, "a positive number")
        for name in ("learning_rate", "controller_learning_rate", "row_rate", "norm_eps")
        for value in (0.0, -0.1, NAN, INF)
    ],
]


@pytest.mark.parametrize(("name", "value", "expected"), INVALID)
def test_an_invalid_value_is_refused_by_the_name_of_its_option(name, value, expected):
    option = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=expected) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{option} is ")
    assert "\n" not in message
    if not isinstance(value, tuple):
        assert f"{option} is {value}; expected" in message


def test_every_option_but_switches_has_an_invalid_value_above():
    assert {name for name, *_ in INVALID} == {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize(
    "options",
    [
        {"dims": (1,)},
        {"dims": (2, 2)},
        {"batch_size": 2},
        {"window": 1},
        {"reservoir": 2},
        {"limit": 2},
        {"limit": None},
        {"seed": 2**63 - 1},
        {"offline_fraction": 0},
        {"offline_fraction": 1},
        {"learning_rate": 1e-9},
        {"budget": 1},
        {"preset": None},
        *[{name: choice} for name, choices in CHOICES.items() for choice in choices
          if choice != "cuda"],
    ],
)  # fmt: skip
def test_the_ends_of_every_range_are_taken(options):
    config = RunConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_budget_is_for_methods_that_have_sizes():
    with pytest.raises(UserError, match=r"--budget is 0.5; expected none with --method fse"):
        RunConfig(method="fse", budget=0.5)


def test_a_budget_is_for_soft_selection():
    with pytest.raises(UserError, match=r"--budget is 0.5; expected none with --selection hard"):
        RunConfig(selection="hard", budget=0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a usable GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"--device is cuda; .* no usable GPU"):
        RunConfig(device="cuda")
    assert RunConfig(device="auto").torch_device == torch.device("cpu")


RECIPES = {
    None: Recipe(
        optimizer="adagrad", learning_rate=0.003, controller_learning_rate=0.01, row_rate=16,
        norm="none", norm_eps=1, mix="sum", init_std=0.1, projection="identity",
        start="popularity", validation="new-events",
    ),
    "paper": Recipe(
        controller="separate", controller_hidden=(512, 512), optimizer="adam", learning_rate=0.01, controller_learning_rate=0.001, row_rate=1,
        norm="batch", norm_eps=1e-5, mix="mean", init_std=1, projection="uniform",
        start="equal", validation="reservoir",
    ),
}  # fmt: skip
ADAM_RATES = {"learning_rate": 0.0003, "controller_learning_rate": 0.0001, "row_rate": 300}
EVERY = {
    "norm": "batch", "norm_eps": 0.5, "mix": "mean", "init_std": 0, "projection": "uniform",
    "start": "equal", "validation": "last-batch",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"preset": "paper"}, {}),
        ({"preset": "paper", "learning_rate": 0.5}, {"learning_rate": 0.5}),
        ({"preset": "paper", "optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"preset": "paper", "start": "popularity"}, {"start": "popularity"}),
        ({"controller_learning_rate": 0.5}, {"controller_learning_rate": 0.5}),
        ({"optimizer": "adam"}, {"optimizer": "adam", **ADAM_RATES}),
        ({"optimizer": "rowwise-adagrad"}, {"optimizer": "rowwise-adagrad"}),
        (
            {"row_rate": 2, "optimizer": "sgd"},
            {
                "optimizer": "sgd",
                "learning_rate": 0.1,
                "controller_learning_rate": 0.1,
                "row_rate": 2,
            },
        ),
        (EVERY, EVERY),
    ],
)
def test_given_options_go_before_the_presets(options, changes):
    assert RunConfig(**options).recipe == RECIPES[options.get("preset")]._replace(**changes)


def test_within_a_budget_ids_start_with_equal_weights_unless_asked():
    assert RunConfig(budget=0.5).recipe.start == "equal"
    assert RunConfig(budget=0.5, start="popularity").recipe.start == "popularity"
    assert RunConfig(budget=0.5, preset="paper").recipe == RECIPES["paper"]


@pytest.mark.parametrize(("every", "distance"), [(10, 3.2), (100, 9.9)])
def test_row_rate_is_about_what_adam_over_a_whole_table_moves_a_row(every, distance):
    table = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([table], lr=1.0, fused=True)
    begin = 0.0
    for step in range(8000):
        if step == 4000:  # past the bias correction
            begin = table.item()
        table.grad = torch.tensor([float(step % every == 0)])
        adam.step()
    assert (begin - table.item()) / (4000 / every) == pytest.approx(distance, rel=0.03)
    assert distance < OPTIMIZERS["adam"].row_rate


def test_the_defaults_are_the_papers_but_for_the_recipe():
    config = RunConfig()
    assert config.dims == (2, 16, 128)
    assert (config.batch_size, config.offline_fraction) == (500, 0.7)
    assert (config.method, config.task, config.order) == ("autoemb", "regression", "chronological")
    assert config.hypergradient == "first"


def test_what_is_recorded_is_plain_and_resolved():
    recorded = RunConfig(preset="paper", device="cpu").as_dict()
    assert json.loads(json.dumps(recorded)) == recorded
    assert {*recorded} == {field.name for field in dataclasses.fields(RunConfig)}
    assert (recorded["learning_rate"], recorded["controller_learning_rate"]) == (0.01, 0.001)
    assert (recorded["dims"], recorded["device"]) == ([2, 16, 128], "cpu")
