"""The file of a study: what it may hold, and what it says of what it may not."""

import pytest

from autoemb.errors import UserError
from autoemb.lab.study import read_study
from tests.lab.study.conftest import SMALL


def test_methods_share_options_and_add_their_own(write):
    narrow, soft = read_study(write()).methods
    assert narrow.options == {"batch_size": 50, "window": 50, "method": "fse", "dims": [2]}
    assert soft.options["dims"] == [2, 4]
    assert narrow.candidates == ({},)


def test_data_lie_beside_the_file_or_where_one_says(write, tmp_path):
    assert read_study(write()).data == (tmp_path / "ratings.csv",)
    assert read_study(write(), tmp_path / "other").data == (tmp_path / "other" / "ratings.csv",)


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
        (("seeds = [0, 1]", "seeds = [0, 0]"), "seeds is .*different whole numbers"),
        (("seeds = [0, 1]", "seeds = 3"), "seeds is 3; expected different whole numbers"),
        (("seeds = [0, 1]", "seeds = [true]"), "seeds is .*whole numbers"),
        (("seeds = [0, 1]", "seeds = [-1]"), "--seed is -1"),
        (("seeds = [0, 1]", 'tasks = ["rank"]'), "tasks is .*expected some of regression"),
        (("seeds = [0, 1]", "orders = []"), "orders is .*different names"),
        (("seeds = [0, 1]", "processes = 3"), "processes is 3; expected only data"),
        (("batch_size = 50", "batch = 50"), "options.batch is 50; expected an option of a run"),
        (("batch_size = 50", "seed = 5"), "options.seed is 5; expected an option of a run"),
        (("dims = [2]", "dims = [0]"), "--dims is 0"),
        (("dims = [2]", 'dims = "wide"'), "dims is 'wide'; expected a list of whole numbers"),
        (("dims = [2]", "learning_rate = '1'"), "learning_rate is '1'; expected a number"),
        (("methods.narrow", 'methods."a b"'), "expected a name of letters"),
        (("[methods.soft]", "[tuning]\nrow_rate = 3\n[methods.soft]"), "tuning.row_rate is 3"),
        *[
            (
                ("[methods.soft]", f"[tuning]\ncandidates = {wrong}\n[methods.soft]"),
                "tuning.candidates is .*; expected a positive whole number",
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
        (('["ratings.csv"]', '["a/ratings.csv", "b/ratings.csv"]'), "different names of files"),
        (('data = ["ratings.csv"]', ""), "data is None; expected different names"),
        (("data =", "data ="), None),
    ],
)
def test_what_a_study_does_not_have_is_named(write, change, message):
    path = write(SMALL.replace(*change))
    if message is None:
        read_study(path)
        return
    with pytest.raises(UserError, match=message) as caught:
        read_study(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_study(write, tmp_path):
    with pytest.raises(UserError, match="is not TOML"):
        read_study(write("data = ["))
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(UserError, match="methods is None; expected a table"):
        read_study(write("data = ['a']"))
