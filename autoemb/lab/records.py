"""What the files of runs, comparisons and studies hold, read without trusting them.

They may come from a stranger: nothing but numbers, short names and text gets through, and whatever
else stands there is one line that names file, line and field. Keys that are not declared are
welcome; among those of a stage or a window, numbers are metrics.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from autoemb.declared import Declared, shown
from autoemb.errors import UserError

#: Bytes of a file that is one JSON object, and of a line of a file that has one a line.
LARGEST_FILE, LARGEST_LINE = 2**26, 2**20

# Such a name is safe in a file name, a table of any kind and a figure, so nothing escapes it later.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,31}")
_FEATURE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,200}")
_RUN = re.compile(r"runs/[A-Za-z0-9_.-]*[A-Za-z0-9_-]")


def _wanted(what: str) -> PydanticCustomError:
    return PydanticCustomError("wanted", what)


def _number(value: object) -> float:
    """Return a number; null and what is not finite become NaN, shown as "n/a"."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wanted("a number or null")
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wanted("text")
    return value


def _like(pattern: re.Pattern[str], what: str) -> Any:
    def check(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _wanted(what)
        return value

    return PlainValidator(check)


def _shallow(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list | tuple) or (
        depth > 0 and all(_shallow(item, depth - 1) for item in value)
    )


def _not_deep(value: dict[str, Any]) -> dict[str, Any]:
    if not _shallow(value, 8):
        raise _wanted("values nested eight deep at most")
    return value


Number = Annotated[float, PlainValidator(_number)]
Count = Annotated[int, Ge(0), Le(2**63 - 1)]
#: Of any content; whoever shows it escapes it.
Text = Annotated[str, PlainValidator(_text)]
Name = Annotated[
    str, _like(NAME, "a name of at most 64 letters, digits, dots, dashes, underscores")
]
Metric = Annotated[str, _like(_METRIC, "the name of a metric")]
Feature = Annotated[str, _like(_FEATURE, "a name of at most 200 characters")]
#: A configuration or the like.
Free = Annotated[dict[str, Any], AfterValidator(_not_deep)]
Stage = Literal["offline", "online"]


class Record(Declared):
    """Named values of a recorded file; further ones are passed over."""

    model_config = ConfigDict(extra="ignore")


class Scored(Record):
    """Something with a loss and, perhaps, other metrics."""

    model_config = ConfigDict(extra="allow")

    loss: Number

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every number recorded beside the declared ones, the loss first."""
        found = {"loss": self.loss}
        for name, value in (self.model_extra or {}).items():
            number = value is None or (
                isinstance(value, int | float) and not isinstance(value, bool)
            )
            if number and _METRIC.fullmatch(name):
                found[name] = _number(value)
        return found


class Score(Scored):
    """Means over the ``interactions`` of one stage; NaN where not recorded."""

    interactions: Count


class Data(Record):
    """The events a run was made on; ``features``: how many different ids each feature has."""

    name: Text
    format: Text
    interactions: Count
    users: Count | None = None
    items: Count | None = None
    features: dict[Feature, Count] = Field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether the stream was made up, which a report says wherever it names the data."""
        return self.format == "synthetic"


class Result(Record):
    """The scores of one method with one seed."""

    method: Name
    seed: Count
    offline: Score
    online: Score
    seconds: Number
    interactions_per_second: Number | None = None
    run: Name | None = None
    ids: dict[Feature, Count] = Field(default_factory=dict)  # of each table
    owned: dict[Name, Count] = Field(default_factory=dict)  # bytes of all that they own, by part

    @property
    def bytes_of_id(self) -> float:
        """Bytes that an id owns on average; NaN where not recorded."""
        ids = sum(self.ids.values())
        return sum(self.owned.values()) / ids if ids and self.owned else math.nan

    @property
    def rate(self) -> float:
        """Events a second."""
        if self.interactions_per_second is not None:
            return self.interactions_per_second
        events = self.offline.interactions + self.online.interactions
        return events / self.seconds if self.seconds > 0 else math.nan

    def stage(self, name: str) -> Score:
        """Return the scores of a stage."""
        return self.offline if name == "offline" else self.online


class Bucket(Record):
    """One octave of popularity, ``low`` to ``high`` earlier events of the id, in one stage."""

    feature: Feature
    low: Count
    high: Count
    interactions: Count
    loss: Number
    weights: tuple[Number, ...] | None = None


class Popularity(Record):
    """The octaves of each stage."""

    offline: tuple[Bucket, ...]
    online: tuple[Bucket, ...]

    def stage(self, name: str) -> tuple[Bucket, ...]:
        """Return the octaves of a stage."""
        return self.offline if name == "offline" else self.online


class Embeddings(Record):
    """What the ids own at the end: bytes, and floats an id where these differ."""

    bytes: Count
    mean_width: dict[Feature, Number] = Field(default_factory=dict)


class Summary(Result):
    """``summary.json``: a complete run."""

    task: Name
    data: Data
    config: Free
    versions: Free
    by_popularity: Popularity
    embeddings: Embeddings | None = None

    @property
    def dims(self) -> list[int] | None:
        """The run's sizes, where the configuration says them."""
        dims = self.config.get("dims")
        right = isinstance(dims, list) and all(type(dim) is int for dim in dims)
        return dims if right else None


class Window(Scored):
    """A line of ``metrics.jsonl``: means over the last ``window`` events of ``interactions``."""

    interactions: Count
    window: Count
    stage: Stage
    weights: dict[Feature, Annotated[tuple[Number, ...] | None, Field(strict=False)]] | None = None


class Difference(Record):
    """Paired difference, method minus baseline, with its confidence interval [low, high]."""

    method: Name
    baseline: Name
    stage: Stage
    metric: Metric
    mean: Number
    low: Number
    high: Number
    confidence: Number


class Comparison(Record):
    """``compare.json``; a single run is a comparison of one."""

    results: Annotated[tuple[Result, ...], MinLen(1)]
    differences: tuple[Difference, ...]
    data: Data
    task: Name
    config: Free
    versions: Free

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, each once, in the order they were run."""
        return tuple(dict.fromkeys(result.method for result in self.results))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, each once, ascending."""
        return tuple(sorted({result.seed for result in self.results}))


class StudyResult(Result):
    """One run of a study, by the name that the study gives its method."""

    data: Text
    task: Name
    order: Name
    run: Annotated[str, _like(_RUN, "a folder below runs/")]
    chosen: Free
    first_tenth: Number
    embedding_bytes: Count


class StudyDifference(Difference):
    """A paired difference on one data set, task and order."""

    data: Text
    task: Name
    order: Name


class StudyMethod(Record):
    """How many candidates a method's options were chosen from."""

    candidates: tuple[Free, ...]


class StudyRecord(Record):
    """``study.json``."""

    results: Annotated[tuple[StudyResult, ...], MinLen(1)]
    differences: tuple[StudyDifference, ...]
    methods: dict[Name, StudyMethod]


R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R]) -> R:
    """Read a file that holds one JSON object.

    Raises
    ------
    UserError
        Where the file is missing, unreadable, too large or broken.

    Examples
    --------
    >>> read_record(Path("nowhere") / "summary.json", Summary)
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere/summary.json is missing; expected a file that a run recorded
    """
    return kind.parse(read_json(path), str(path))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, as it is.

    Raises
    ------
    UserError
        As :func:`read_record`.
    """
    text = next(_parts(path, LARGEST_FILE), b"")
    content = _parse(text, str(path), LARGEST_FILE)
    if not isinstance(content, dict):
        raise UserError(f"{path}: the content is {shown(content)}; expected names with values")
    return content


def read_windows(path: Path) -> Iterator[Window]:
    """Yield the lines of ``metrics.jsonl``; empty lines are passed over.

    Raises
    ------
    UserError
        Where the file is missing, unreadable or a line is broken; the line is named.

    Examples
    --------
    >>> list(read_windows(Path("nowhere") / "metrics.jsonl"))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere/metrics.jsonl is missing; expected a file that a run recorded
    """
    for number, line in enumerate(_parts(path, LARGEST_LINE, lines=True), start=1):
        if len(line) > LARGEST_LINE or line.strip():
            where = f"{path}, line {number}"
            yield Window.parse(_parse(line, where, LARGEST_LINE), where)


def _parts(path: Path, largest: int, *, lines: bool = False) -> Iterator[bytes]:
    """Yield a file's content, or its lines, each cut where it is longer than is read."""
    try:
        with path.open("rb") as file:
            read = file.readline if lines else file.read
            while part := read(largest + 1):
                yield part
                if len(part) > largest:
                    return
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a file that a run recorded") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _parse(text: bytes, where: str, largest: int) -> object:
    if len(text) > largest:
        raise UserError(f"{where} has more than {largest:,} bytes; expected what a run recorded")
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at byte {error.start}; expected JSON text") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} is not JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end
        raise UserError(f"{where} is not JSON that a run recorded") from None
