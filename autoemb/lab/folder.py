"""The folder of a run: what is in it, and whether a run may begin or go on there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoemb.errors import UserError
from autoemb.lab.records import Summary, read_json
from autoemb.streaming import checkpoint


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path : Path
        Made on :meth:`open`.
    identity : mapping of str to mapping
        What makes the run this run and no other, such as its ``config`` and its ``data``; what is
        continued must have been made with the same.

    Attributes
    ----------
    summary, metrics, checkpoint : Path
        ``summary.json`` is there only if the run is complete, the checkpoint only if it is not.
    trained : Path
        State at an event that was asked for, to be exported; stays.
    """

    def __init__(self, path: Path, identity: Mapping[str, Mapping[str, Any]]) -> None:
        self.path, self.identity = path, identity
        self.summary = path / "summary.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.trained = path / "trained.safetensors"

    def open(self, resume: bool) -> dict[str, Any] | None:
        """Prepare the folder.

        Returns
        -------
        dict or None
            The state to continue from, if an interrupted run left one. A run that was killed
            before its first checkpoint starts again.

        Raises
        ------
        UserError
            If there is a run and ``resume`` is False, if it is not this run, or if the folder
            cannot be written.
        """
        started = any(map(_exists, (self.summary, self.metrics, self.checkpoint)))
        if started and not resume:
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume or choose another "
                "--out"
            )
        state = None
        if _exists(self.checkpoint):
            state = checkpoint.load(self.checkpoint)
            self._check(state, self.checkpoint)
        else:
            self._start()
        return state

    def complete(self) -> dict[str, Any] | None:
        """Return the summary if this run is complete.

        Raises
        ------
        UserError
            If the summary is broken or that of another run.
        """
        if not _exists(self.summary):
            return None
        summary = read_json(self.summary)
        self._check(summary, self.summary)
        Summary.parse(summary, str(self.summary))
        return summary

    def _start(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.trained.unlink(missing_ok=True)  # of a run that was killed before its checkpoint
            self.metrics.write_bytes(b"")
        except FileExistsError:
            raise UserError(f"{self.path} is a file; --out takes a folder") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from None

    def _check(self, saved: Mapping[str, Any], file: Path) -> None:
        for part, wanted in self.identity.items():
            found = saved.get(part)
            if not isinstance(found, dict):
                raise UserError(f"{file}: {part} is missing; expected the file of a run")
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise UserError(
                        f"{self.path} holds a run with {part} {name} = {found.get(name)}, not "
                        f"{value}; choose another --out"
                    )


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # of a name that no file can have; writing to it says so
        return False
