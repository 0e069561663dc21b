"""What a folder recorded, whole: the only input of a report."""

from dataclasses import dataclass
from pathlib import Path

from autoemb.errors import UserError
from autoemb.lab.records import (
    Comparison,
    Result,
    Summary,
    Window,
    read_record,
    read_windows,
)


@dataclass(frozen=True)
class Run:
    """One run: its summary and its windows in stream order."""

    summary: Summary
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Recording:
    """All that a folder recorded; ``command`` is ``run`` or ``compare``."""

    command: str
    comparison: Comparison
    runs: tuple[Run, ...]


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
    file = directory / "compare.json"
    if not file.exists():
        _expect_a_run(directory)
        run = read_run(directory)
        return Recording("run", as_comparison(run.summary), (run,))
    comparison = read_record(file, Comparison)
    found = tuple(_run_of(directory, i, one) for i, one in enumerate(comparison.results))
    return Recording("compare", comparison, found)


def _expect_a_run(directory: Path) -> None:
    """Say what else a folder without ``compare.json`` is, where it is no run."""
    if any(directory.glob("*-seed*/")):
        raise _incomplete(directory / "compare.json", "comparison")
    if (directory / "runs").is_dir():
        raise UserError(
            f"{directory / 'study.json'} is missing: the study is not complete; the command "
            "that began it finishes it"
        )
    if not any((directory / name).exists() for name in _OF_A_RUN):
        raise UserError(f"{directory} holds no run, comparison or study")


def _run_of(directory: Path, number: int, result: Result) -> Run:
    """Read the run that a comparison has a result of."""
    if result.run is None:
        raise UserError(f"{directory / 'compare.json'}: results[{number}].run is missing")
    folder = directory / result.run
    run = read_run(folder)
    found, wanted = ((one.method, one.seed) for one in (run.summary, result))
    if found != wanted:
        raise UserError(
            f"{folder / 'summary.json'}: method {found[0]}, seed {found[1]}; expected "
            f"{wanted[0]}, seed {wanted[1]}, as compare.json says"
        )
    return run


def as_comparison(summary: Summary) -> Comparison:
    """Return a single run in the form of a comparison, for the same tables."""
    return Comparison(
        results=(summary,),
        differences=(),
        data=summary.data,
        task=summary.task,
        config=summary.config,
        versions=summary.versions,
    )


def read_run(folder: Path) -> Run:
    """Read the folder of one run: its ``summary.json`` and all that it recorded.

    Raises
    ------
    UserError
        Where a file is missing, incomplete or broken; the message names it.
    """
    summary, metrics = folder / "summary.json", folder / "metrics.jsonl"
    if not summary.exists():
        raise _incomplete(summary, "run")
    record = read_record(summary, Summary)
    windows = sorted(read_windows(metrics), key=lambda window: window.interactions)
    if not windows:
        raise UserError(f"{metrics} is empty; expected one line a window")
    return Run(record, tuple(windows))


def _incomplete(path: Path, what: str) -> UserError:
    return UserError(f"{path} is missing: the {what} is not complete; finish it with --resume")
