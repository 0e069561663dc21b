"""Declarations: what is refused, in which words, and where it stood."""

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from autoemb.declared import LARGEST_TOML, Declared, read_toml, shown
from autoemb.errors import UserError
from autoemb.schema import Schema


class Inner(Declared):
    size: Annotated[int, Ge(1), Le(9)] = 1
    share: Annotated[float, Gt(0), Lt(1)] = 0.5


class Outer(Declared):
    name: Annotated[str, Field(min_length=1, max_length=3)] = "a"
    kind: Literal["one", "two"] = "one"
    only: Literal["this"] = "this"
    flag: bool = False
    rate: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pair: Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] = (1,)
    free: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, "name is 3; expected text"),
        ({"name": ""}, "name is ''; expected at least 1 characters"),
        ({"name": "abcd"}, "name is 'abcd'; expected at most 3 characters"),
        ({"name": "\ud800"}, "name is '\\ud800'; expected text in Unicode"),
        ({"kind": "three"}, "kind is 'three'; expected one of one, two"),
        ({"only": 3}, "only is 3; expected this"),
        ({"flag": 1}, "flag is 1; expected true or false"),
        ({"rate": "1"}, "rate is '1'; expected a number"),
        ({"rate": float("inf")}, "rate is inf; expected a finite number"),
        ({"inner": 3}, "inner is 3; expected names with values"),
        ({"inner": {"size": 0}}, "inner.size is 0; expected at least 1"),
        ({"inner": {"size": 10}}, "inner.size is 10; expected at most 9"),
        ({"inner": {"share": 0}}, "inner.share is 0; expected above 0"),
        ({"inner": {"share": 1.0}}, "inner.share is 1.0; expected below 1"),
        ({"inner": {"bogus": 1}}, "inner.bogus is not known here"),
        ({"inner": {"a\nb": 1}}, "inner.'a\\nb' is not known here"),
        ({"several": [{}, {"size": 2.5}]}, "several[1].size is 2.5; expected a whole number"),
        ({"several": {"a": 1}}, "several is {'a': 1}; expected a list"),
        ({"pair": []}, "pair is []; expected at least 1 values"),
        ({"pair": [1, 2, 3]}, "pair is 1,2,3; expected at most 2 values"),
        ({"free": 1}, "free is 1; expected names with values"),
    ],
)
def test_a_refusal_says_place_value_and_what_was_expected(values, message):
    with pytest.raises(UserError) as caught:
        Outer(**values)
    assert str(caught.value) == message
    with pytest.raises(UserError) as caught:
        Outer.parse(values, "file.toml")
    assert str(caught.value) == f"file.toml: {message}"


def test_what_is_no_group_of_values_is_refused():
    with pytest.raises(UserError, match=r"^f: the content is 3; expected names with values$"):
        Outer.parse(3, "f")


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"^f: label\.kind is missing$"):
        Schema.parse({"label": {"column": "click"}, "sparse": [{"column": "user_id"}]}, "f")


def test_our_own_checks_name_their_place():
    content = {
        "label": {"column": "a", "kind": "click", "positive_above": 1.0},
        "sparse": [{"column": "user_id"}],
    }
    with pytest.raises(UserError, match=r"^f: label: scale and positive_above are for ratings"):
        Schema.parse(content, "f")


def test_one_value_is_checked_for_itself():
    Outer.check("pair", [1, 2])
    Outer.check("kind", "two")
    with pytest.raises(UserError, match=r"^pair\[1\] is 'a'; expected a whole number$"):
        Outer.check("pair", [1, "a"])
    with pytest.raises(UserError, match=r"^inner\.size is 0; expected at least 1$"):
        Outer.check("inner", {"size": 0})


def test_a_value_is_shown_in_few_characters():
    assert shown((2, 16, 128)) == "2,16,128"
    assert shown((16,)) == "[16]"
    assert shown(10**5000) == "an enormous number"
    assert shown((1, 10**5000)) == "1,an enormous number"
    assert len(shown("a" * 10**6)) < 50
    assert len(shown([["a" * 100] * 100] * 100)) < 2000
    assert "\n" not in shown("a\nb")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "is not TOML: "),
        (b"a = " + b"[" * 100_000, "is not TOML: "),
        (b"a = {b=" * 5000, "is not TOML: "),
        (b"a = " + b"9" * 5000, "is not TOML: "),
        (b"\xff", "is not TOML: "),
        (b"#" * (LARGEST_TOML + 1), "has more than 1,048,576 bytes; expected a TOML file"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path, content, message):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="none cannot be read: No such file"):
        read_toml(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*Outer.model_fields, "bogus", "a\nb"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["size", "share", "x"]), inner)
            ),
            max_leaves=6,
        ),
        max_size=3,
    )
)
def test_whatever_a_file_holds_is_taken_or_refused_in_one_line(content):
    try:
        Outer.parse(content, "file")
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 500
