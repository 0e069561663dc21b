"""The file of a study: data sets x tasks x orders x methods x seeds, and what is tuned."""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from autoemb.errors import UserError
from autoemb.lab import RunConfig
from autoemb.lab.config import CHOICES

#: Options that the study sets itself.
_OURS = {"task", "order", "seed", "limit"}
#: Options that all methods share, since runs are compared window by window.
_SHARED = {"batch_size", "window", "offline_fraction"}
_OPTIONS = {field.name: field for field in fields(RunConfig) if field.name not in _OURS}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEYS = {"data", "tasks", "orders", "seeds", "options", "methods", "tuning"}

#: Whether TOML's value is of an option's type, and what that is called.
_KINDS: dict[str, Callable[[object], bool]] = {
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "str": lambda value: type(value) is str,
    "tuple[int, ...]": lambda value: isinstance(value, list) and all(type(v) is int for v in value),
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple[int, ...]": "a list of whole numbers",
}

Options = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Method:
    """A method under a name of its own: options of a run, and the candidates to choose from.

    Attributes
    ----------
    name : str
    options : mapping
    candidates : tuple of mapping
        What tuning tries, each on top of ``options``; one empty mapping: nothing is tuned.
    """

    name: str
    options: Options
    candidates: tuple[Options, ...]


@dataclass(frozen=True)
class Study:
    """What ``autoemb study FILE`` runs.

    Attributes
    ----------
    data : tuple of Path
    tasks, orders : tuple of str
    seeds : tuple of int
    methods : tuple of Method
        The last is compared with each other one.
    """

    data: tuple[Path, ...]
    tasks: tuple[str, ...]
    orders: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]

    def config(self, method: Method, chosen: Options, **own: Any) -> RunConfig:
        """Return the options of a run of ``method`` with the tuned ones that were chosen."""
        options = {**method.options, **chosen, **own}
        if "dims" in options:
            options["dims"] = tuple(options["dims"])
        return RunConfig(**options)


def read_study(file: Path, root: Path | None = None) -> Study:
    """Read and check the TOML file of a study.

    Parameters
    ----------
    file : Path
    root : Path, optional
        Folder that the file's ``data`` are in; by default the file's own.

    Raises
    ------
    UserError
        For a file that cannot be read, and for a key or value that a study does not have; names
        both.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.toml"
    >>> _ = file.write_text('''
    ... data = ["ratings.csv"]
    ... [methods.narrow]
    ... method = "fse"
    ... dims = [2]
    ... ''')
    >>> study = read_study(file)
    >>> study.seeds, study.methods[0].name, study.data[0].name
    ((0,), 'narrow', 'ratings.csv')
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not TOML: {error}") from None
    return _Reader(file, content).study(file.parent if root is None else root)


class _Reader:
    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self.file, self.content = file, content

    def error(self, key: str, value: object, expected: str) -> UserError:
        return UserError(f"{self.file}: {key} is {value!r}; expected {expected}")

    def study(self, root: Path) -> Study:
        for key in self.content.keys() - _KEYS:
            raise self.error(key, self.content[key], f"only {', '.join(sorted(_KEYS))}")
        shared = self.options("options", self.content.get("options", {}))
        tuning = self.content.get("tuning", {})
        methods = self.table("methods", self.content.get("methods"))
        if not methods:
            raise self.error("methods", methods, "a table for each method")
        data = self.strings("data", None)
        if len({Path(name).name for name in data}) != len(data):
            raise self.error("data", [*data], "different names of files, which tables tell them by")
        study = Study(
            data=tuple(root / name for name in data),
            tasks=self.strings("tasks", ["regression"]),
            orders=self.strings("orders", ["chronological"]),
            seeds=self.seeds(),
            methods=tuple(
                self.method(name, value, shared, tuning) for name, value in methods.items()
            ),
        )
        for method in study.methods:  # every run's options are checked before the first begins
            for task, order in itertools.product(study.tasks, study.orders):
                for chosen, seed in itertools.product(method.candidates, study.seeds):
                    try:
                        study.config(method, chosen, task=task, order=order, seed=seed)
                    except UserError as error:
                        where = f"{self.file}: methods.{method.name}"
                        raise UserError(f"{where}: {error}") from None
        return study

    def method(self, name: str, value: object, shared: Options, tuning: object) -> Method:
        where = f"methods.{name}"
        if not _NAME.fullmatch(name):
            raise self.error(where, name, "a name of letters, digits, '.', '_' and '-'")
        own = dict(self.table(where, value))
        candidates = self.candidates(
            {**self.table("tuning", tuning), **self.table(f"{where}.tuning", own.pop("tuning", {}))}
        )
        return Method(name, {**shared, **self.options(where, own, shared=False)}, candidates)

    def candidates(self, tuning: dict[str, Any]) -> tuple[Options, ...]:
        """Return the combinations of the values to try, or ``candidates`` of them at random."""
        most = tuning.pop("candidates", None)
        if most is not None and (type(most) is not int or most < 1):
            raise self.error("tuning.candidates", most, "a positive whole number")
        for name, values in tuning.items():
            if not isinstance(values, list) or not values:
                raise self.error(f"tuning.{name}", values, "a list of values to try")
            for value in values:
                self.options("tuning", {name: value}, shared=False)
        names = sorted(tuning)
        every = [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(tuning[name] for name in names))
        ]
        if most is None or most >= len(every):
            return tuple(every)
        return tuple(random.Random(0).sample(every, most))

    def options(self, where: str, value: object, *, shared: bool = True) -> Options:
        options = self.table(where, value)
        for name, given in options.items():
            if name not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                raise self.error(f"{where}.{name}", given, f"an option of a run: {known}")
            if name in _SHARED and not shared:
                raise self.error(f"{where}.{name}", given, "it in [options], the same for all")
            kind = str(_OPTIONS[name].type).removesuffix(" | None")
            if not _KINDS[kind](given):
                raise self.error(f"{where}.{name}", given, _WORDS[kind])
        return options

    def table(self, where: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(where, value, "a table")
        return dict(value)

    def strings(self, key: str, default: Sequence[str] | None) -> tuple[str, ...]:
        values = self.different(key, default, str, "names")
        choices = CHOICES.get(key.removesuffix("s"))
        if choices is not None and not set(values) <= set(choices):
            raise self.error(key, [*values], f"some of {', '.join(map(str, choices))}")
        return values

    def seeds(self) -> tuple[int, ...]:
        return self.different("seeds", [0], int, "whole numbers")

    def different(
        self, key: str, default: Sequence[_T] | None, kind: type[_T], what: str
    ) -> tuple[_T, ...]:
        values = self.content.get(key, default)
        right = isinstance(values, list) and values and all(type(v) is kind for v in values)
        if not isinstance(values, list) or not right or len(set(values)) != len(values):
            raise self.error(key, values, f"different {what} in a list")
        return tuple(values)
