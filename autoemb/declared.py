"""Declarations, checked where they are made: from code, TOML files, flags and JSON alike."""

from __future__ import annotations

import re
import reprlib
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from autoemb.errors import UserError
from autoemb.files import told

#: Bytes of a TOML file; tomllib needs half a second for so many.
LARGEST_TOML = 2**20

#: Characters of a value that an error shows.
LONGEST = 120


class Declared(BaseModel):
    """A group of named values, immutable and checked once.

    Raises
    ------
    UserError
        From the constructor and :meth:`parse`: for a name that is not declared, and for a value of
        another kind or out of its range. The one line begins with the name, then says the value and
        what was expected.

    Examples
    --------
    >>> class Window(Declared):
    ...     events: int = 1000
    >>> Window(events=5).events
    5
    >>> Window.parse({"events": "many"}, "study.toml")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: study.toml: events is 'many'; expected a whole number
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(said(error)) from None

    # Without it pydantic calls the constructor for nested values, too, and their place is lost.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {name: _as_tuple(value) for name, value in content.items()}

    @classmethod
    def parse(cls, content: object, where: str) -> Self:
        """Return what a parsed file declares; ``where`` is the file that errors name."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{where}: {said(error)}") from None

    @classmethod
    def check(cls, name: str, value: object) -> None:
        """Check one value for itself, whatever the others are.

        Raises
        ------
        UserError
            As the constructor would.

        Examples
        --------
        >>> from autoemb.recipe import Recipe
        >>> Recipe.check("row_rate", 0)
        Traceback (most recent call last):
            ...
        autoemb.errors.UserError: row_rate is 0; expected above 0
        """
        _alone(cls, name)(**{name: value})


@lru_cache(maxsize=256)
def _alone(cls: type[Declared], name: str) -> type[Declared]:
    """Return a declaration of one value of another."""
    field: Any = cls.model_fields[name]
    alone: dict[str, Any] = {name: (field.annotation, field)}
    return create_model(name, __base__=Declared, **alone)


def _as_tuple(value: Any, depth: int = 8) -> Any:
    """Return lists as tuples, down to a depth that no declaration has."""
    if isinstance(value, list) and depth:
        return tuple(_as_tuple(entry, depth - 1) for entry in value)
    return value


#: What is expected by the kind of error; braces are filled from what pydantic tells of it.
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "names with values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "model_type": "names with values",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "string_unicode": "text in Unicode",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} values",
    "tuple_type": "a list",
}


def said(error: ValidationError) -> str:
    """Return the first of the errors in one line: where it is, what stands there, what should."""
    first = error.errors(include_url=False)[0]
    steps = (f"[{part}]" if isinstance(part, int) else f".{_flat(part)}" for part in first["loc"])
    place = "".join(steps).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # of our own validators, which say it all
        return f"{place}: {message}" if place else message
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "extra_forbidden":
        return f"{place} is not known here"
    if first["type"] == "wanted":  # of our own checks of a single value
        expected = message
    elif first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        expected = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    elif first["type"] in _EXPECTED:
        limits = {key: _number(limit) for key, limit in first.get("ctx", {}).items()}
        expected = _EXPECTED[first["type"]].format(**limits)
    else:
        expected = message.removeprefix("Input should be ")
    return f"{place or 'the content'} is {shown(first['input'])}; expected {expected}"


def shown(value: object) -> str:
    """Return a value in few characters of one line.

    Examples
    --------
    >>> shown((2, 16)), shown("a"), shown("b" * 99)
    ('2,16', "'a'", "'bbbbbbbbbbbb...bbbbbbbbbbbbb'")
    >>> len(shown((2, 10**1000))) == LONGEST
    True
    """
    try:
        if isinstance(value, tuple) and 1 < len(value) <= 8 and all(type(v) is int for v in value):
            text = ",".join(map(_number, value))
        else:
            text = reprlib.repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:  # thousands of digits
        return "an enormous number"
    text = " ".join(text.splitlines())  # which a tensor has some of
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    try:
        return str(value)
    except ValueError:  # thousands of digits
        return "an enormous number"


def _flat(name: object) -> str:
    """Return a key of a file, which may be any text, in one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 64 else reprlib.repr(text)


def read_toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file.

    Raises
    ------
    UserError
        If it cannot be read, is larger than 1 MiB, or is not TOML.
    """
    try:
        with told(path, "cannot be read"), path.open("rb") as file:
            content = file.read(LARGEST_TOML + 1)
        if len(content) > LARGEST_TOML:
            raise UserError(f"{path} has more than {LARGEST_TOML:,} bytes; expected a TOML file")
        return tomllib.loads(content.decode("utf-8"))
    except UserError:
        raise
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        # Brackets without end, numbers of thousands of digits: no traceback.
        lines = f"{error}".splitlines() or [type(error).__name__]
        raise UserError(f"{path} is not TOML: {lines[0][:200]}") from None
