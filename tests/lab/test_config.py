import json
import pickle
from typing import Literal, get_args, get_origin

import pytest
import torch

from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.config import OPTIONS
from autoemb.optim import OPTIMIZERS
from autoemb.recipe import OPPONENTS, PRESETS, Recipe
from autoemb.tasks import TASK_NAMES

NAN, INF = float("nan"), float("inf")
CHOICES = {
    name: get_args(field.annotation)
    for name, field in OPTIONS.items()
    if get_origin(field.annotation) is Literal
}
CHOICES["task"] = TASK_NAMES  # or none

INVALID = [
    *[(name, "bogus", f"{', '.join(known)}") for name, known in CHOICES.items()],
    *[(name, None, "one of") for name in ("order", "device", "preset")],
    ("method", "AutoEmb", "one of autoemb, sam, darts, fse"),
    ("dims", (), "positive sizes in ascending order"),
    ("dims", (0,), r"dims\[0\] is 0; expected at least 1"),
    ("dims", (-1, 2), r"dims\[0\] is -1; expected at least 1"),
    ("dims", (16, 2), "dims is 16,2; expected positive sizes in ascending order"),
    ("dims", (2, 10**17), r"dims\[1\] is 10*; expected at most 65536"),
    ("dims", 16, "dims is 16; expected a list"),
    *[(name, (8, 0), "expected at least 1") for name in ("hidden", "controller_hidden")],
    *[(name, ("a",), "expected a whole number") for name in ("hidden", "controller_hidden")],
    *[("batch_size", value, "at least 1") for value in (0, -5)],
    *[("window", value, "at least 1") for value in (0, -1)],
    ("reservoir", 1, "at least 2"),
    *[("limit", value, "at least 2") for value in (1, 0, -1)],
    ("seed", -1, "at least 0"),
    ("seed", 2**63, f"at most {2**63 - 1}"),
    ("offline_fraction", -0.1, "at least 0"),
    ("offline_fraction", 1.1, "at most 1"),
    ("offline_fraction", NAN, "at most 1"),
    *[(name, 2**63, f"at most {2**40}") for name in ("batch_size", "window", "reservoir", "limit")],
    ("learn_chunk", 0, "at least 1"),
    *[("label_delay", value, "at least 0|a finite number") for value in (-1, NAN, INF)],
    *[("budget", value, "at least 0|a finite number") for value in (-0.1, -1, NAN, INF)],
    *[
        ("budget", value, "a share up to 1, or bytes")
        for value in (1.1, 999, "64XB", "-1", "", "B")
    ],
    ("budget", (1,), "a number"),
    ("budget", True, "a number"),
    *[(name, -0.1, "at least 0") for name in ("init_std", "row_weight_decay")],
    *[("init_std", value, "a finite number") for value in (NAN, INF)],
    *[
        (name, value, "above 0" if value <= 0 else "a finite number")
        for name in ("learning_rate", "controller_learning_rate", "row_rate", "norm_eps")
        for value in (0.0, -0.1, NAN, INF)
    ],
    *[(name, "1", "a whole number") for name in ("batch_size", "seed", "limit", "window")],
    *[(name, 1.5, "a whole number") for name in ("batch_size", "seed", "limit", "window")],
    *[(name, True, "a whole number") for name in ("batch_size", "seed", "reservoir")],
    *[(name, "1", "a number") for name in ("learning_rate", "offline_fraction")],
]


@pytest.mark.parametrize(("name", "value", "expected"), INVALID)
def test_an_invalid_value_is_refused_by_its_name(name, value, expected):
    with pytest.raises(UserError, match=expected) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(name)
    assert "; expected " in message
    assert "\n" not in message


def test_every_option_has_an_invalid_value_above():
    assert {name for name, *_ in INVALID} == {*OPTIONS}


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"^bogus is not known here$"):
        RunConfig(bogus=1)


def test_thousands_of_digits_are_refused():
    with pytest.raises(UserError, match="seed is an enormous number; expected at most"):
        RunConfig(seed=10**5000)


@pytest.mark.parametrize(
    "options",
    [
        {"dims": (1,)},
        {"dims": (2, 2)},
        {"hidden": ()},
        {"batch_size": 1},
        {"batch_size": 2, "norm": "batch"},
        {"window": 1},
        {"reservoir": 2},
        {"limit": 2},
        {"limit": None},
        {"seed": 2**63 - 1},
        {"offline_fraction": 0},
        {"offline_fraction": 1},
        {"learning_rate": 1e-9},
        {"budget": 0},
        {"budget": 1},
        {"budget": 1000},
        {"batch_size": 2**40},
        *[{name: choice} for name, choices in CHOICES.items() for choice in choices
          if choice != "cuda"],
    ],
)  # fmt: skip
def test_the_ends_of_every_range_are_taken(options):
    config = RunConfig(**options | {"device": "cpu"})
    recorded = config.as_dict() | {"device": options.get("device")}
    for name, value in options.items():
        assert (
            recorded[name] == (list(value) if isinstance(value, tuple) else value)
            or name == "device"
        )


def test_lists_are_taken_as_tuples():
    assert RunConfig(dims=[2, 4]) == RunConfig(dims=(2, 4))
    assert RunConfig(dims=[2, 4]).recipe.dims == (2, 4)


def test_batch_statistics_need_two_events():
    for options in ({"norm": "batch"}, {"preset": "paper"}):
        with pytest.raises(UserError, match="batch_size is 1; expected at least 2 with norm batch"):
            RunConfig(batch_size=1, **options)
    assert RunConfig(batch_size=1, preset="paper", norm="running").batch_size == 1


def test_labels_come_late_where_time_passes():
    with pytest.raises(UserError, match=r"label_delay is 60; expected 0 with order shuffled"):
        RunConfig(label_delay=60.0, order="shuffled")


def test_a_budget_is_for_methods_that_have_sizes():
    with pytest.raises(UserError, match=r"budget is 0.5; expected 0 with method fse"):
        RunConfig(method="fse", budget=0.5)
    for method in ("fse", *OPPONENTS):
        assert RunConfig(method=method).recipe.budget == 0
    for method in ("autoemb", "sam", "darts"):
        assert RunConfig(method=method).recipe.budget == 1 / 16


def test_a_budget_of_several_rows_an_id_is_for_soft_selection():
    with pytest.raises(UserError, match=r"budget is 0.5; expected 0 with hard selection"):
        RunConfig(selection="hard", budget=0.5, rows="sizes")
    assert RunConfig(selection="hard", budget=0.5).recipe.rows == "nested"


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        (0.06, 0.06), ("0.06", 0.06), (".5", 0.5), (0, 0), ("0", 0), (1, 1),
        ("64MB", 64e6), ("64 mb", 64e6), ("1.5GiB", 1.5 * 2**30), ("20kB", 2e4), ("4096B", 4096),
        (5000, 5000), ("1TB", 1e12),
    ],
)  # fmt: skip
def test_a_budget_is_a_share_or_bytes(given, budget):
    config = RunConfig(budget=given)
    assert config.recipe.budget == budget
    assert RunConfig(**json.loads(json.dumps(config.recipe.model_dump()))).recipe == config.recipe


@pytest.mark.parametrize(
    "option", [{"norm": "running"}, {"mix": "mean"}, {"projection": "uniform"}]
)
def test_what_rows_of_several_sizes_alone_have_asks_for_them(option):
    assert RunConfig(**option).recipe.rows == "sizes"
    with pytest.raises(UserError, match=r"; expected \w+, or rows sizes"):
        RunConfig(**option, rows="nested")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a usable GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"device is cuda; .* no usable GPU"):
        RunConfig(device="cuda")
    assert RunConfig(device="auto").torch_device == torch.device("cpu")


def test_the_tasks_and_presets_are_those_there_are():
    choices, _none = get_args(OPTIONS["task"].annotation)
    assert get_args(choices) == TASK_NAMES
    assert CHOICES["preset"] == tuple(PRESETS)


def test_every_option_says_what_it_is_and_is_declared_once():
    assert all(field.description for field in OPTIONS.values())
    assert not {*RunConfig.model_fields} & {*Recipe.model_fields}


def test_options_are_compared_hashed_pickled_and_immutable():
    config, same = (RunConfig(method="sam", seed=3) for _ in range(2))
    assert config == same == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(same)
    assert config != RunConfig(method="fse", seed=3)
    assert pickle.loads(pickle.dumps(config)).recipe.method == "sam"
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4


def test_changed_options_resolve_the_recipe_anew():
    config = RunConfig(optimizer="sgd", seed=3, row_rate=2)
    other = config.but(optimizer="adam", seed=4)
    assert (other.seed, other.recipe.learning_rate, other.recipe.row_rate) == (4, 0.0003, 2)
    assert config.but(preset="paper").recipe.learning_rate == 0.01
    assert config.but(optimizer=None).recipe == RunConfig(row_rate=2).recipe
    assert (config.seed, config.recipe.optimizer) == (3, "sgd")
    with pytest.raises(UserError, match="seed is -1"):
        config.but(seed=-1)


DEFAULT = Recipe(
    model="dcn", hidden=(128,), rows="nested", budget=0.0625, controller_history="counts",
    optimizer="rowwise-adagrad", learning_rate=0.005, controller_learning_rate=0.01, row_rate=7.5,
    norm="none", norm_eps=1, mix="sum", init_std=0.1, projection="identity",
    start="popularity", validation="new-events",
)  # fmt: skip
PAPER = Recipe(
    history="none", model="mlp", hidden=(512, 512), rows="sizes", budget=0,
    controller_history="full", controller="separate", controller_hidden=(512, 512),
    optimizer="adagrad", learning_rate=0.01, controller_learning_rate=0.001, row_rate=1,
    norm="batch", norm_eps=1e-5, mix="mean", init_std=1, projection="uniform",
    start="equal", validation="reservoir",
)  # fmt: skip
ADAM_RATES = {"learning_rate": 0.0003, "controller_learning_rate": 0.0001, "row_rate": 300.0}
SGD_RATES = {"learning_rate": 0.1, "controller_learning_rate": 0.1}
EVERY = {
    "norm": "batch", "norm_eps": 0.5, "mix": "mean", "init_std": 0.0, "projection": "uniform",
    "start": "equal", "validation": "last-batch", "rows": "sizes",
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
        ({"controller_learning_rate": None}, {}),
        ({"optimizer": "adam"}, {"optimizer": "adam", **ADAM_RATES}),
        ({"optimizer": "adagrad"}, {"optimizer": "adagrad"}),
        ({"row_rate": 2, "optimizer": "sgd"}, {"optimizer": "sgd", "row_rate": 2.0, **SGD_RATES}),
        (EVERY, EVERY),
    ],
)
def test_given_options_go_before_the_presets(options, changes):
    preset = PAPER if options.get("preset") == "paper" else DEFAULT
    assert RunConfig(**options).recipe == preset.model_copy(update=changes)


def test_within_a_budget_of_several_rows_ids_start_with_equal_weights_unless_asked():
    assert RunConfig(budget=0.5).recipe.start == "popularity"
    assert RunConfig(budget=0.5, rows="sizes").recipe.start == "equal"
    assert RunConfig(budget=0.5, norm="running").recipe.start == "equal"
    assert RunConfig(budget=0, rows="sizes").recipe.start == "popularity"
    assert RunConfig(rows="sizes", start="popularity").recipe.start == "popularity"
    assert RunConfig(budget=0.5, preset="paper").recipe == PAPER.model_copy(update={"budget": 0.5})


def test_a_preset_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"^preset is 'mine'; expected one of default, paper$"):
        Recipe.of("mine")


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
    assert distance < OPTIMIZERS["adam"].rates.row_rate


def test_the_defaults_are_those_of_the_recipe():
    config = RunConfig()
    assert config.recipe == DEFAULT
    assert config.recipe.dims == (2, 16, 128)
    assert (config.recipe.hidden, config.recipe.controller_hidden) == ((128,), (64,))
    assert (config.batch_size, config.offline_fraction) == (500, 0.7)
    assert (config.task, config.order) == (None, "chronological")
    assert (config.recipe.method, config.recipe.hypergradient) == ("autoemb", "first")


def test_what_is_recorded_is_plain_and_resolved():
    recorded = RunConfig(preset="paper", device="cpu").as_dict()
    assert json.loads(json.dumps(recorded)) == recorded
    assert [*recorded] == [*OPTIONS]
    assert (recorded["learning_rate"], recorded["controller_learning_rate"]) == (0.01, 0.001)
    assert (recorded["dims"], recorded["device"]) == ([2, 16, 128], "cpu")
    assert RunConfig(**recorded).recipe == PAPER
