"""Declarations, checked where they are made: from code, TOML files, flags and JSON alike."""

from __future__ import annotations

import reprlib
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from autoemb.errors import UserError


class Declared(BaseModel):
    """A group of named values, immutable and checked once.

    Raises
    ------
    UserError
        From the constructor and :meth:`parse`: for a name that is not declared, and for a value of
        another kind or out of its range. The one line names the value and what was expected.

    Examples
    --------
    >>> class Window(Declared):
    ...     events: int = 1000
    >>> Window(events=5).events
    5
    >>> Window.parse({"events": "many"}, "study.toml")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: study.toml: events is 'many'; expected a valid integer
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(said(error)) from None

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


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def said(error: ValidationError) -> str:
    """Return the first of the errors in one line: where it is, what stands there, what should."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # of our own validators, which say it all
        return f"{place}: {message}" if place else message
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "extra_forbidden":
        return f"{place} is not known here"
    expected = message.removeprefix("Input should be ")
    found = " ".join(reprlib.repr(first["input"]).split())  # a tensor's has several lines
    return f"{place or 'the content'} is {found}; expected {expected}"
