"""The file of a study: what it may hold, and what it says of what it may not."""

import itertools
import math
import random
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoemb.errors import UserError
from autoemb.lab.study import read_study
from autoemb.lab.study.config import MOST_CANDIDATES
from tests.lab.study.conftest import SMALL


def test_methods_share_options_and_add_their_own(write):
    narrow, soft = read_study(write()).methods
    small = {"batch_size": 50, "window": 50, "hidden": [8], "controller_hidden": [8]}
    small |= {"model": "mlp", "optimizer": "adagrad"}
    assert narrow.options == {**small, "method": "fse", "dims": [2]}
    assert soft.options["dims"] == [2, 4]
    assert narrow.candidates == ({},)


def test_opponents_run_beside_the_methods_unless_they_are_not_wanted(write):
    text = SMALL.replace("opponents = false\n", "") + "[tuning]\nrow_rate = [1, 2]\n"
    found = {method.name: method for method in read_study(write(text)).methods}
    assert [*found] == ["mean", "bias", "logistic", "fm", "narrow", "soft"]
    assert found["bias"].options["window"] == 50
    assert (len(found["fm"].candidates), len(found["soft"].candidates)) == (1, 2)
    own = text.replace("[methods.soft]", '[methods.offsets]\nmethod = "bias"\n[methods.soft]')
    names = [method.name for method in read_study(write(own)).methods]
    assert names == ["mean", "logistic", "fm", "narrow", "offsets", "soft"]


def test_data_lie_beside_the_file_or_where_one_says(write, tmp_path):
    assert [one.path for one in read_study(write()).data] == [tmp_path / "ratings.csv"]
    other = tmp_path / "other"
    assert [one.path for one in read_study(write(), other).data] == [other / "ratings.csv"]


def test_every_method_tries_as_many_candidates(write):
    text = SMALL + "[tuning]\ncandidates = 3\nlearning_rate = [0.1, 0.2]\nrow_rate = [1, 2, 3]\n"
    narrow, soft = read_study(write(text)).methods
    assert len(narrow.candidates) == len(soft.candidates) == 3
    assert narrow.candidates == soft.candidates
    assert len({tuple(one.items()) for one in narrow.candidates}) == 3


def test_a_method_may_try_values_of_its_own(write):
    text = SMALL + "[methods.soft.tuning]\ninit_std = [0.1, 0.2]\n[tuning]\nrow_rate = [1, 2]\n"
    narrow, soft = read_study(write(text)).methods
    assert (len(narrow.candidates), len(soft.candidates)) == (2, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [0, 1]", "seeds = [0, 0]"), "seeds is 0,0; expected different values in a list"),
        (("seeds = [0, 1]", "seeds = 3"), "seeds is 3; expected a list"),
        (("seeds = [0, 1]", "seeds = [true]"), r"seeds\[0\] is True; expected a whole number"),
        (("seeds = [0, 1]", "seeds = [-1]"), r"seeds\[0\] is -1; expected at least 0"),
        (
            ("seeds = [0, 1]", 'tasks = ["rank"]'),
            r"tasks\[0\] is 'rank'; expected one of regression",
        ),
        (("seeds = [0, 1]", "orders = []"), r"orders is \[\]; expected different values"),
        (("seeds = [0, 1]", "processes = 3"), "processes is not known here"),
        (
            ("batch_size = 50", "batch = 50"),
            "options has 'batch', which is not an option of a run: batch_size, ",
        ),
        (("batch_size = 50", "seed = 5"), "options has 'seed', which is not an option of a run"),
        (("dims = [2]", "dims = [0]"), r"methods.narrow.dims\[0\] is 0; expected at least 1"),
        (("dims = [2]", 'dims = "wide"'), "methods.narrow.dims is 'wide'; expected a list"),
        (
            ("dims = [2]", "learning_rate = '1'"),
            "methods.narrow.learning_rate is '1'; expected a number",
        ),
        (("methods.narrow", 'methods."a b"'), "methods has 'a b'; expected names of letters"),
        (
            ("[methods.soft]", "[tuning]\nrow_rate = 3\n[methods.soft]"),
            "tuning.row_rate is 3; expected a list",
        ),
        *[
            (
                ("[methods.soft]", f"[tuning]\ncandidates = {wrong}\n[methods.soft]"),
                "tuning.candidates is .*; expected (a whole number|at least 1)",
            )
            for wrong in ("0", "'3'", "[1, 2]", "2.5")
        ],
        *[
            (("[methods.soft]", f"[methods.soft]\n{name} = 70"), f"soft.{name} is 70; .*the same")
            for name in ("batch_size", "window")
        ],
        (
            ("[methods.soft]", "[tuning]\noffline_fraction = [0.5]\n[methods.soft]"),
            r"tuning.offline_fraction is 0.5; expected it in \[options\]",
        ),
        (
            ('["ratings.csv"]', '["a/ratings.csv", "b/ratings.csv"]'),
            "different names, which tables",
        ),
        (('data = ["ratings.csv"]', ""), "data is missing"),
        (('data = ["ratings.csv"]', "data = [3]"), r"data\[0\]"),
        (("batch_size = 50", "batch_size = 0"), "options.batch_size is 0; expected at least 1"),
        (
            ("batch_size = 50", "batch_size = 1"),
            "methods.narrow: batch_size is 1; expected at least 2 with norm batch",
        ),
        (("budget = 0", "budget = 0.5\nselection = 'hard'"), "soft: budget is"),
        (("[methods.soft]", "[methods.soft]\ntuning = 3"), "soft.tuning is 3; expected names"),
        (("[methods.soft]", "[tuning]\ninit_std = [-1]\n[methods.soft]"), "tuning.init_std is -1"),
        (
            ("[methods.soft]", "[tuning]\ninit_std = []\n[methods.soft]"),
            r"init_std is \[\]; expect",
        ),
        (("[methods.soft]", "[tuning]\nbogus = [1]\n[methods.soft]"), "tuning has 'bogus'"),
        (
            ("[methods.soft]", "[tuning]\ncandidates = 1001\n[methods.soft]"),
            "tuning.candidates is 1001; expected at most 1000",
        ),
    ],
)
def test_what_a_study_does_not_have_is_named(write, change, message):
    text = SMALL.replace(*change)
    if "norm batch" in message:
        text = text.replace("[methods.narrow]", "[methods.narrow]\nnorm = 'batch'")
    path = write(text)
    with pytest.raises(UserError, match=message) as caught:
        read_study(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_no_study(write, tmp_path):
    with pytest.raises(UserError, match="is not TOML"):
        read_study(write("data = ["))
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(UserError, match="methods is missing"):
        read_study(write("data = ['a']"))


@pytest.mark.parametrize("content", ["[" * 10**5, "9" * 5000, "{a = " * 10**4])
def test_deep_brackets_and_thousands_of_digits_are_refused(write, content):
    with pytest.raises(UserError, match=r"study\.toml is not TOML"):
        read_study(write(f"data = {content}"))


def grid(*lengths, candidates=None):
    names = ("learning_rate", "controller_learning_rate", "row_rate", "norm_eps", "init_std")
    lines = [
        f"{name} = {[i + 1 for i in range(n)]}" for name, n in zip(names, lengths, strict=False)
    ]
    lines += [] if candidates is None else [f"candidates = {candidates}"]
    return SMALL + "[tuning]\n" + "\n".join(lines) + "\n"


def values(candidates):
    return [tuple(one[name] for name in sorted(one)) for one in candidates]


def test_combinations_keep_their_order_and_their_sample(write):
    # learning_rate, row_rate and controller_learning_rate, by the alphabet.
    every = [(c, lr, r) for c in (1, 2, 3) for lr in (1, 2, 3, 4) for r in (1, 2)]
    found = read_study(write(grid(4, 3, 2))).methods[0].candidates
    assert values(found) == every == [*itertools.product((1, 2, 3), (1, 2, 3, 4), (1, 2))]
    for most in (1, 5, 23):
        found = read_study(write(grid(4, 3, 2, candidates=most))).methods[0].candidates
        assert values(found) == random.Random(0).sample(every, most)
    found = read_study(write(grid(4, 3, 2, candidates=24))).methods[0].candidates
    assert values(found) == every


@pytest.mark.parametrize("lengths", [(40, 40, 40, 40, 4), (10_000,) * 5])
def test_of_millions_of_combinations_a_few_are_drawn_without_listing_them(write, lengths):
    path = write(grid(*lengths, candidates=8))  # of 10^7, and of more than an index can count
    tracemalloc.start()
    begin = time.perf_counter()
    first = read_study(path).methods[0].candidates
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert math.prod(lengths) > 10**7
    assert len({*values(first)}) == 8
    assert read_study(path).methods[0].candidates == first
    assert seconds < 60  # 6 s of 50,000 values, their memory traced
    assert peak < 2**26


def test_more_combinations_than_candidates_may_be_are_refused(write):
    assert len(read_study(write(grid(100, 10))).methods[0].candidates) == MOST_CANDIDATES
    with pytest.raises(UserError, match="tuning has 1001 combinations; expected at most 1000, or"):
        read_study(write(grid(77, 13)))
    with pytest.raises(UserError, match=f"tuning has {10**15} combinations"):
        read_study(write(grid(*(1000,) * 5)))


PIECES = (
    "data", "seeds", "= [", "]", "[methods.x]", "tuning", "candidates = 3", '"', "\n", "-1", "nan",
    "1e400", "= 9", "{", "}", "dims", "[options]", "1979-05-27", "\x00", "é",
)  # fmt: skip
FILE_STAYS = [HealthCheck.function_scoped_fixture]  # it is written anew by every example


@settings(max_examples=150, deadline=None, suppress_health_check=FILE_STAYS)
@given(
    position=st.integers(0, len(SMALL)),
    cut=st.integers(0, 30),
    part=st.lists(st.sampled_from(PIECES), max_size=4),
)
def test_a_changed_file_is_read_or_refused_in_one_line(write, position, cut, part):
    path = write(SMALL[:position] + "".join(part) + SMALL[position + cut :])
    try:
        read_study(path)
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert said.startswith(str(path)) or not said
