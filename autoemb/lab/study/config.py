"""The file of a study: data sets x tasks x orders x methods x seeds, and what is tuned."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from autoemb.declared import Declared, read_toml, shown
from autoemb.errors import UserError
from autoemb.lab.config import OPTIONS, RunConfig, TaskName
from autoemb.lab.records import NAME
from autoemb.lab.study.source import Source, SourceEntry
from autoemb.recipe import OPPONENTS, Recipe

#: Options that the study sets itself.
_OURS = {"task", "order", "seed", "limit"}
#: Options that all methods share, since runs are compared window by window.
_SHARED = {"batch_size", "window", "offline_fraction"}

#: Candidates of one method, each a run over the offline stage for every data set, task and order.
MOST_CANDIDATES = 1000

Options = Mapping[str, Any]
T = TypeVar("T")


def _different(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values or len(set(values)) != len(values):
        raise PydanticCustomError("wanted", "different values in a list")
    return values


_Different = AfterValidator(_different)


class StudyFile(Declared):
    """What the TOML file of a study may hold.

    Attributes
    ----------
    data : tuple of str or SourceEntry
        Files, told apart by their names, perhaps with a schema and a limit of their own.
    tasks, orders, seeds : tuple
    options : mapping
        Of every run.
    methods : mapping of str to mapping
        Options of each method, and perhaps ``tuning`` of its own.
    tuning : mapping of str to list
        Values to try, and how many ``candidates`` of their combinations.
    opponents : bool, default True
        Whether those of ``mean``, ``bias``, ``logistic`` and ``fm`` that are not among the methods
        run, too, untuned.
    """

    data: Annotated[tuple[str | SourceEntry, ...], Field(min_length=1)]
    tasks: Annotated[tuple[TaskName, ...], _Different] = ("regression",)
    orders: Annotated[tuple[Literal["chronological", "shuffled"], ...], _Different] = (
        "chronological",
    )
    seeds: Annotated[tuple[Annotated[int, Ge(0), Le(2**63 - 1)], ...], _Different] = (0,)
    options: dict[str, Any] = Field(default_factory=dict)
    methods: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    tuning: dict[str, Any] = Field(default_factory=dict)
    opponents: bool = True


class _Tuning(Declared):
    candidates: Annotated[int, Ge(1), Le(MOST_CANDIDATES)] | None = None
    values: dict[str, Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]]


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
    data : tuple of Source
    tasks, orders : tuple of str
    seeds : tuple of int
    methods : tuple of Method
        The last is compared with each other one.
    """

    data: tuple[Source, ...]
    tasks: tuple[str, ...]
    orders: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]

    def config(self, method: Method, chosen: Options, **own: Any) -> RunConfig:
        """Return the options of a run of ``method`` with the tuned ones that were chosen."""
        return RunConfig(**{**method.options, **chosen, **own})


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
        both. Every run's options are checked before the first begins.

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
    >>> study.seeds, [method.name for method in study.methods], study.data[0].name
    ((0,), ['mean', 'bias', 'logistic', 'fm', 'narrow'], 'ratings.csv')
    """
    found = StudyFile.parse(read_toml(file), str(file))
    try:
        return _study(found, file.parent if root is None else root, file.parent)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _study(file: StudyFile, root: Path, beside: Path) -> Study:
    entries = [SourceEntry(path=one) if isinstance(one, str) else one for one in file.data]
    data = tuple(entry.source(root, beside) for entry in entries)
    names = tuple(source.name for source in data)
    if len({*names}) != len(names):
        raise UserError(
            f"data is {shown(names)}; expected different names, which tables tell them by"
        )
    shared = _options("options", file.options)
    methods = _opponents(file, shared) if file.opponents else []
    for name, content in file.methods.items():
        if not NAME.fullmatch(name):
            raise UserError(
                f"methods has {shown(name)}; expected names of letters, digits, '.', '_' and '-'"
            )
        methods.append(_method(name, dict(content), shared, file.tuning))
    return Study(data, file.tasks, file.orders, file.seeds, tuple(methods))


def _opponents(file: StudyFile, shared: Options) -> list[Method]:
    """Return the opponents that no method is yet."""
    kinds = {content.get("method") for content in file.methods.values()}
    new = [name for name in OPPONENTS if name not in kinds and name not in file.methods]
    return [Method(name, {**shared, "method": name}, ({},)) for name in new]


def _method(name: str, content: dict[str, Any], shared: Options, tuning: Options) -> Method:
    where = f"methods.{name}"
    own = content.pop("tuning", {})
    if not isinstance(own, dict):
        raise UserError(f"{where}.tuning is {shown(own)}; expected names with values")
    options = {**shared, **_options(where, content, shared=False)}
    candidates = _candidates({**tuning, **own})
    for candidate in candidates:
        try:
            RunConfig(**{**options, **candidate})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return Method(name, options, candidates)


def _options(where: str, options: Options, *, shared: bool = True) -> Options:
    """Check options one by one, and whether they may stand here."""
    for name, value in options.items():
        if name not in OPTIONS or name in _OURS:
            known = ", ".join(option for option in OPTIONS if option not in _OURS)
            raise UserError(f"{where} has {shown(name)}, which is not an option of a run: {known}")
        if name in _SHARED and not shared:
            raise UserError(
                f"{where}.{name} is {shown(value)}; expected it in [options], the same for all"
            )
        try:
            (Recipe if name in Recipe.model_fields else RunConfig).check(name, value)
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
    return options


def _candidates(tuning: Options) -> tuple[Options, ...]:
    """Return the combinations of the values to try, or ``candidates`` of them at random."""
    values = {name: value for name, value in tuning.items() if name != "candidates"}
    try:
        checked = _Tuning(candidates=tuning.get("candidates"), values=values)
    except UserError as error:
        raise UserError(f"tuning.{str(error).removeprefix('values.')}") from None
    for name, tried in checked.values.items():
        for value in tried:
            _options("tuning", {name: value}, shared=False)
    names = sorted(checked.values)
    lists = [checked.values[name] for name in names]
    combinations = math.prod(map(len, lists))
    most = checked.candidates
    if most is None and combinations > MOST_CANDIDATES:
        raise UserError(
            f"tuning has {shown(combinations)} combinations; expected at most {MOST_CANDIDATES}, "
            "or how many of them to try as candidates"
        )
    return tuple(
        dict(zip(names, _combination(lists, number), strict=True))
        for number in _sample(combinations, combinations if most is None else most)
    )


def _sample(combinations: int, most: int) -> Sequence[int]:
    """Return the numbers of the combinations to try, always the same; none is listed but these."""
    if most >= combinations:
        return range(combinations)
    generator = random.Random(0)
    if combinations < 2**63:
        return generator.sample(range(combinations), most)
    chosen: dict[int, None] = {}  # past what ranges can count
    while len(chosen) < most:
        chosen[generator.randrange(combinations)] = None
    return tuple(chosen)


def _combination(lists: Sequence[Sequence[Any]], number: int) -> list[Any]:
    """Return a combination of one value of each list, as numbered by :func:`itertools.product`."""
    found = []
    for values in reversed(lists):
        number, place = divmod(number, len(values))
        found.append(values[place])
    return found[::-1]
