"""The state that a run keeps, read for an export or to go on from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import is_folder, told
from autoemb.lab.allowance import Allowance
from autoemb.lab.config import OPTIONS, RunConfig
from autoemb.lab.folder import RunFolder
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.saved import SavedRun, read_saved
from autoemb.learners import build_learner
from autoemb.schema import Schema
from autoemb.serving import ServedModel
from autoemb.streaming import StreamLearner
from autoemb.tasks import Task, task_for

#: What a state may be refused by that was tampered with, or is of another version.
NO_SUCH_STATE = (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)

#: Options that say which events come, in which order, and how they are reported and where computed:
#: a run that goes on from another's state takes them anew. The others belong to the learner.
OF_THE_STREAM = ("order", "limit", "window", "offline_fraction", "device")


@dataclass(frozen=True)
class Trained:
    """A run as it was at some event.

    Attributes
    ----------
    config : RunConfig
    schema : Schema
    learner : StreamLearner
    about : dict
        ``config`` and ``data`` as recorded, and ``position``: events seen.
    """

    config: RunConfig
    schema: Schema
    learner: StreamLearner
    about: dict[str, Any]

    @property
    def task(self) -> Task:
        """What it predicts."""
        return task_for(self.config.task, self.schema.label)


def learner_of(config: RunConfig, schema: Schema) -> StreamLearner:
    """Return the untrained learner of a run."""
    return build_learner(
        schema,
        task_for(config.task, schema.label),
        config.recipe,
        seed=config.seed,
        device=config.torch_device,
        batch_size=config.batch_size,
    )


def load_trained(path: Path) -> Trained:
    """Read the state that a run kept, or that an interrupted run left.

    Parameters
    ----------
    path : Path
        A run's folder, or the file itself.

    Raises
    ------
    UserError
        If there is no such file or it does not hold a run.
    """
    file = kept_file(path)
    saved = read_saved(file)
    config = config_of(saved, file)
    schema = schema_of(saved, file)
    learner = learner_for(config, schema, file)
    restore_learner(learner, saved, file)
    about = {"config": saved.config, "data": saved.data, "position": saved.stream.position}
    return Trained(config, schema, learner, about)


def learner_for(config: RunConfig, schema: Schema, file: Path) -> StreamLearner:
    """Return an untrained learner that is to have the state of a file.

    Raises
    ------
    UserError
        If the file is too small for it, or its options are none.
    """
    try:
        with Allowance(file):
            return learner_of(config, schema)
    except UserError:
        raise
    except NO_SUCH_STATE as error:
        raise no_such_state(file, error) from None


def kept_file(path: Path) -> Path:
    """Return the file of a run's state: of a folder, what it kept, or else what it left.

    Raises
    ------
    UserError
        For a folder without either.
    """
    if not is_folder(path):
        return path
    folder = RunFolder(path, {})
    for file in (folder.trained, folder.checkpoint):
        if file.exists():
            return file
    raise UserError(
        f"{path} holds no trained state; autoemb run keeps its own, unless told --no-keep, and "
        "autoemb compare --keep those of its runs"
    )


def restore_learner(learner: StreamLearner, saved: SavedRun, file: Path) -> None:
    """Give a learner the state of a run that was made with the same options.

    Raises
    ------
    UserError
        If the state does not fit.
    """
    try:
        learner.load_state_dict(saved.learner)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except NO_SUCH_STATE as error:
        raise no_such_state(file, error) from None


def no_such_state(file: Path, error: Exception) -> UserError:
    """Return the error of a file whose parts do not fit those of a run, in one line."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return UserError(f"{file} does not hold the state of such a run: {said}")


def digest_of(file: Path) -> str:
    """Return a fingerprint of a file, by which a state is known that another run began with.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    with told(file, "cannot be read"), file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def going_on(path: Path, given: Mapping[str, Any]) -> RunConfig:
    """Return the options of a run that goes on from another's state.

    Parameters
    ----------
    path : Path
        The other run's folder, or the file of its state.
    given : mapping of str to option
        Those that somebody gave; the learner's others are as they were, the stream's the defaults.

    Raises
    ------
    UserError
        If there is no such state, or for an option that would change the learner.
    """
    file = kept_file(path)
    before = config_of(read_saved(file), file)
    method = given.get("method", before.recipe.method)
    if method != before.recipe.method:  # with which the other options may not go together
        raise _changed("method", method, before.recipe.method, file)
    defaults = {name: OPTIONS[name].default for name in OF_THE_STREAM}
    wanted = before.but(**{**defaults, **given})
    check_goes_on(wanted, before, file)
    return wanted


def check_goes_on(config: RunConfig, before: RunConfig, file: Path) -> None:
    """Check that options leave a learner as it is.

    Raises
    ------
    UserError
        Names the first option that does not.
    """
    found = config.as_dict()
    for name, value in before.as_dict().items():
        if name not in OF_THE_STREAM and found[name] != value:
            raise _changed(name, found[name], value, file)


def _changed(name: str, value: object, own: object, file: Path) -> UserError:
    return UserError(
        f"--{name.replace('_', '-')} is {_shown(value)}; the learner of {file} has {_shown(own)}, "
        "and --from goes on with it as it is"
    )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def config_of(saved: SavedRun, file: Path) -> RunConfig:
    """Return the options that a state was made with.

    Raises
    ------
    UserError
        If they are none of a run.
    """
    options: dict[str, Any] = {n: v for n, v in saved.config.items() if n in OPTIONS}
    return RunConfig.parse(options | {"device": "cpu"}, str(file))


def schema_of(saved: SavedRun, file: Path) -> Schema:
    """Return what the columns were that a state was made with.

    Raises
    ------
    UserError
        If it does not say.
    """
    return Schema.parse(saved.config.get("schema"), f"{file}: config.schema")


def export_lines(trained: Trained, model: ServedModel, kept: Mapping[str, Tensor]) -> list[str]:
    """Say what an export kept: ids by width, mean width by popularity, bytes.

    Parameters
    ----------
    trained : Trained
    model : ServedModel
    kept : mapping of str to Tensor[V]
        Width of each id, by table.
    """
    lines = []
    before = 4 * sum(map(len, kept.values())) * sum(trained.config.recipe.dims)
    for name, widths in kept.items():
        if len(widths) == 0:
            lines.append(f"{name}: no ids")
            continue
        values, numbers = torch.unique(widths, return_counts=True)
        parts = [
            f"{int(number):,} of {'none' if value == 0 else f'width {int(value)}'}"
            for value, number in zip(values, numbers, strict=True)
        ]
        line = f"{name}: {', '.join(parts)}; mean {widths.double().mean():.1f}"
        count = trained.learner.history.tables[name].count[: len(widths)]
        if len(values) > 1 and bool((count != count[0]).any()):
            correlation = rank_correlation(count, widths)
            line += f", rank correlation with popularity {correlation:.2f}"
        lines.append(line)
    parts_of = model.bytes()
    rows = parts_of.pop("rows")
    lines.append(f"rows: {rows:,} bytes instead of {before:,}")
    lines.append("; ".join(f"{name}: {size:,}" for name, size in parts_of.items()) + " bytes")
    return lines
