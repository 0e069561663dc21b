"""What a run or a comparison recorded, as plain values: the only input of a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoemb.errors import UserError
from autoemb.lab.json_object import JsonObject, read_lines, read_object

STAGES = ("offline", "online")
METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class Data:
    """The interactions a run was made on."""

    name: str
    format: str
    interactions: int
    users: int
    items: int

    @property
    def synthetic(self) -> bool:
        """Whether the stream was made up, which a report says wherever it names the data."""
        return self.format == "synthetic"


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy over the ``interactions`` of one stage; NaN where not recorded."""

    loss: float
    accuracy: float
    interactions: int


@dataclass(frozen=True)
class Result:
    """The scores of one method with one seed."""

    method: str
    seed: int
    stages: Mapping[str, Score]
    seconds: float
    interactions_per_second: float


@dataclass(frozen=True)
class Difference:
    """Paired difference, method minus baseline, with its confidence interval [low, high]."""

    method: str
    baseline: str
    stage: str
    metric: str
    mean: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """What ``compare.json`` holds; a single run is a comparison of one."""

    results: tuple[Result, ...]
    differences: tuple[Difference, ...]
    data: Data
    task: str
    config: Mapping[str, Any]
    versions: Mapping[str, Any]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, each once, in the order they were run."""
        return tuple(dict.fromkeys(result.method for result in self.results))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, each once, ascending."""
        return tuple(sorted({result.seed for result in self.results}))


@dataclass(frozen=True)
class Window:
    """Loss and accuracy of the last ``events`` events after ``interactions`` events."""

    interactions: int
    events: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Bucket:
    """One octave of popularity, ``low`` to ``high`` earlier events of the id, in one stage."""

    stage: str
    field: str
    low: int
    high: int
    interactions: int
    loss: float
    accuracy: float
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Run:
    """One run: its result, its windows in stream order and its popularity buckets."""

    result: Result
    windows: tuple[Window, ...]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class Recording:
    """All that a folder recorded; ``command`` is ``run`` or ``compare``."""

    command: str
    comparison: Comparison
    runs: tuple[Run, ...]


def parse_comparison(record: JsonObject) -> Comparison:
    """Read the content of ``compare.json``.

    Parameters
    ----------
    record
        The parsed file.

    Raises
    ------
    UserError
        Where a field is missing or broken, or there is no result.

    Examples
    --------
    >>> parse_comparison(JsonObject({"results": []}, "compare.json"))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: compare.json: results is []; expected at least one result
    """
    results = tuple(_result(item) for item in record.children("results"))
    if not results:
        raise record.error("results", "at least one result")
    return Comparison(
        results=results,
        differences=tuple(parse_difference(item) for item in record.children("differences")),
        data=_data(record.child("data")),
        task=record.choice("task", "regression", "classification"),
        config=record.mapping("config"),
        versions=record.mapping("versions"),
    )


#: One of them is there as soon as a run has begun.
_OF_A_RUN = ("summary.json", "metrics.jsonl", "checkpoint.safetensors")


def read(directory: Path) -> Recording:
    """Read the folder of a run or of a comparison.

    Parameters
    ----------
    directory
        What ``--out`` named.

    Raises
    ------
    UserError
        Where a file is missing, incomplete or broken; the message names it.

    Examples
    --------
    >>> read(Path("nowhere"))
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: nowhere is not a folder; expected what --out of a run or compare named
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory} is not a folder; expected what --out of a run or compare named"
        )
    if not (directory / "compare.json").exists():
        if any(directory.glob("*-seed*/")):
            raise _incomplete(directory / "compare.json", "comparison")
        if (directory / "runs").is_dir():
            raise UserError(
                f"{directory / 'study.json'} is missing: the study is not complete; the command "
                "that began it finishes it"
            )
        if not any((directory / name).exists() for name in _OF_A_RUN):
            raise UserError(f"{directory} holds no run, comparison or study")
        record, run = read_run(directory)
        comparison = Comparison(
            results=(run.result,),
            differences=(),
            data=_data(record.child("data")),
            task=record.choice("task", "regression", "classification"),
            config=record.mapping("config"),
            versions=record.mapping("versions"),
        )
        return Recording("run", comparison, (run,))

    record = read_object(directory / "compare.json")
    comparison = parse_comparison(record)
    runs = []
    for item, result in zip(record.children("results"), comparison.results, strict=True):
        folder = directory / item.name("run")
        run = read_run(folder)[1]
        if (run.result.method, run.result.seed) != (result.method, result.seed):
            raise UserError(
                f"{folder / 'summary.json'}: method {run.result.method}, seed {run.result.seed}; "
                f"expected {result.method}, seed {result.seed}, as compare.json says"
            )
        runs.append(run)
    return Recording("compare", comparison, tuple(runs))


def read_run(folder: Path) -> tuple[JsonObject, Run]:
    """Read the folder of one run: its ``summary.json`` and all that it recorded.

    Raises
    ------
    UserError
        Where a file is missing, incomplete or broken; the message names it.
    """
    summary, metrics = folder / "summary.json", folder / "metrics.jsonl"
    if not summary.exists():
        raise _incomplete(summary, "run")
    record = read_object(summary)
    windows = sorted(map(_window, read_lines(metrics)), key=lambda window: window.interactions)
    if not windows:
        raise UserError(f"{metrics} is empty; expected one line a window")
    popularity = record.child("by_popularity")
    buckets = [_bucket(b, stage) for stage in STAGES for b in popularity.children(stage)]
    return record, Run(_result(record), tuple(windows), tuple(buckets))


def _incomplete(path: Path, what: str) -> UserError:
    return UserError(f"{path} is missing: the {what} is not complete; finish it with --resume")


def _data(record: JsonObject) -> Data:
    return Data(
        name=record.text("name"),
        format=record.text("format"),
        interactions=record.count("interactions"),
        users=record.count("users"),
        items=record.count("items"),
    )


def _score(record: JsonObject) -> Score:
    return Score(record.number("loss"), record.number("accuracy"), record.count("interactions"))


def _result(record: JsonObject) -> Result:
    stages = {stage: _score(record.child(stage)) for stage in STAGES}
    seconds = record.number("seconds")
    if "interactions_per_second" in record.value:
        rate = record.number("interactions_per_second")
    else:
        events = sum(score.interactions for score in stages.values())
        rate = events / seconds if seconds > 0 else float("nan")
    return Result(record.name("method"), record.count("seed"), stages, seconds, rate)


def parse_difference(record: JsonObject) -> Difference:
    """Read one paired difference."""
    return Difference(
        method=record.name("method"),
        baseline=record.name("baseline"),
        stage=record.choice("stage", *STAGES),
        metric=record.choice("metric", *METRICS),
        mean=record.number("mean"),
        low=record.number("low"),
        high=record.number("high"),
        confidence=record.number("confidence"),
    )


def _window(record: JsonObject) -> Window:
    record.choice("stage", *STAGES)
    return Window(
        interactions=record.count("interactions"),
        events=record.count("window"),
        loss=record.number("loss"),
        accuracy=record.number("accuracy"),
    )


def _bucket(record: JsonObject, stage: str) -> Bucket:
    return Bucket(
        stage=stage,
        field=record.name("field"),
        low=record.count("low"),
        high=record.count("high"),
        interactions=record.count("interactions"),
        loss=record.number("loss"),
        accuracy=record.number("accuracy"),
        weights=record.numbers("weights"),
    )
