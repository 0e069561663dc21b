"""Recorded JSON, read without trusting it.

The files a report is drawn from may come from a stranger: every access names the field and says
what was expected there, and nothing but numbers, short names and text gets through.
"""

import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoemb.errors import UserError

# Such a name is safe in a file name, a table of any kind and a figure, so nothing escapes it later.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class JsonObject:
    """One JSON object with the place it came from.

    Parameters
    ----------
    value
        What the parser returned; anything but a dictionary is refused.
    where
        File (and line) named in error messages.
    path
        Dotted path from the file's top to this object, empty at the top.

    Raises
    ------
    UserError
        From the constructor and every method, where the field is missing or of another kind.

    Examples
    --------
    >>> record = JsonObject({"online": {"loss": None}}, "summary.json")
    >>> record.child("online").number("loss")
    nan
    >>> record.child("online").count("interactions")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: summary.json: online.interactions is missing; expected a whole number
    """

    def __init__(self, value: object, where: str, path: str = "") -> None:
        self.where = where
        self.path = path
        if not isinstance(value, dict):
            shown = path.removesuffix(".") or "the content"
            raise UserError(f"{where}: {shown} is {reprlib.repr(value)}; expected an object")
        self.value: dict[str, Any] = value

    def error(self, key: str, expected: str) -> UserError:
        """Return the error for a field that is missing or not what was expected."""
        found = f"is {reprlib.repr(self.value[key])}" if key in self.value else "is missing"
        return UserError(f"{self.where}: {self.path}{key} {found}; expected {expected}")

    def number(self, key: str) -> float:
        """Return a number; null and what is not finite become NaN, shown as "n/a"."""
        value = self.value.get(key)
        if value is None and key in self.value:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "a number or null")
        try:
            number = float(value)
        except OverflowError:
            return math.nan
        return number if math.isfinite(number) else math.nan

    def count(self, key: str) -> int:
        """Return a whole number from 0 to 2**63 - 1."""
        value = self.value.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise self.error(key, "a whole number")
        return value

    def text(self, key: str) -> str:
        """Return text of any content; whoever shows it escapes it."""
        value = self.value.get(key)
        if not isinstance(value, str):
            raise self.error(key, "text")
        return value

    def name(self, key: str) -> str:
        """Return a short name of letters, digits, dots, dashes and underscores."""
        value = self.value.get(key)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self.error(key, "a name of at most 64 letters, digits, dots, dashes, underscores")
        return value

    def choice(self, key: str, *options: str) -> str:
        """Return a text that is one of ``options``."""
        value = self.value.get(key)
        if not isinstance(value, str) or value not in options:
            raise self.error(key, " or ".join(options))
        return value

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """Return a list of numbers as a tuple, null as None."""
        value = self.value.get(key)
        if value is None and key in self.value:
            return None
        if not isinstance(value, list):
            raise self.error(key, "a list of numbers or null")
        items = JsonObject(
            {f"{key}[{i}]": item for i, item in enumerate(value)}, self.where, self.path
        )
        return tuple(items.number(item) for item in items.value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object of free content, such as a configuration, nested eight deep at most."""
        value = self.child(key).value
        if not _shallow(value, 8):
            raise self.error(key, "an object nested eight deep at most")
        return value

    def child(self, key: str) -> "JsonObject":
        """Return an object inside this one."""
        if key not in self.value:
            raise self.error(key, "an object")
        return JsonObject(self.value[key], self.where, f"{self.path}{key}.")

    def children(self, key: str) -> Iterator["JsonObject"]:
        """Yield the objects of a list."""
        value = self.value.get(key)
        if not isinstance(value, list):
            raise self.error(key, "a list of objects")
        for i, item in enumerate(value):
            yield JsonObject(item, self.where, f"{self.path}{key}[{i}].")


def read_object(path: Path) -> JsonObject:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    path
        A file in UTF-8.

    Raises
    ------
    UserError
        Where the file is missing, unreadable or not a JSON object.

    Examples
    --------
    >>> read_object(Path("nowhere") / "summary.json")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere/summary.json is missing; expected a file that a run recorded
    """
    return JsonObject(_parse(_read(path), str(path)), str(path))


def read_lines(path: Path) -> Iterator[JsonObject]:
    """Yield the JSON objects of a file with one a line; empty lines are passed over.

    Parameters
    ----------
    path
        A file in UTF-8.

    Raises
    ------
    UserError
        Where the file is missing, unreadable or a line is not a JSON object; the line is named.

    Examples
    --------
    >>> list(read_lines(Path("nowhere") / "metrics.jsonl"))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere/metrics.jsonl is missing; expected a file that a run recorded
    """
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield JsonObject(_parse(line, where), where)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a file that a run recorded") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; expected JSON text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} is not JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end
        raise UserError(f"{where} is not JSON that a run recorded") from None


def _shallow(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (
        depth > 0 and all(_shallow(item, depth - 1) for item in value)
    )
