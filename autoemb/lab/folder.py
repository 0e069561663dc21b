"""The folder of a run: what is in it, and whether a run may begin or go on there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from autoemb.errors import UserError
from autoemb.files import exists, remove_unfinished, sole_writer, told
from autoemb.lab.records import Summary, read_json
from autoemb.lab.saved import SavedRun, read_saved


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path : Path
        Made by :meth:`lock`.
    identity : mapping
        What makes the run this run and no other: its ``config``, its ``data``, and the ``origin``
        that it began with; what is continued must have been made with the same.

    Attributes
    ----------
    summary, metrics, checkpoint : Path
        ``summary.json`` is there only if the run is complete, the checkpoint only if it is not.
    trained : Path
        The state that is kept, to be exported or gone on from.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.summary = path / "summary.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.trained = path / "trained.safetensors"

    def lock(self) -> AbstractContextManager[None]:
        """Make the folder and keep other processes out of it: see :func:`sole_writer`."""
        return sole_writer(self.path)

    def open(self, resume: bool) -> SavedRun | None:
        """Prepare the folder, which is locked.

        Returns
        -------
        SavedRun or None
            The state to continue from, if an interrupted run left one. A run that was killed
            before its first checkpoint starts again.

        Raises
        ------
        UserError
            If there is a run and ``resume`` is False, if it is not this run, or if the folder
            cannot be written.
        """
        started = any(map(exists, (self.summary, self.metrics, self.checkpoint)))
        if started and not resume:
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume or choose another "
                "--out"
            )
        if not exists(self.checkpoint):
            self._start()
            return None
        state = read_saved(self.checkpoint)
        self._check({part: getattr(state, part) for part in self.identity}, self.checkpoint)
        self._remove_unfinished()
        return state

    def complete(self) -> dict[str, Any] | None:
        """Return the summary if this run is complete.

        Raises
        ------
        UserError
            If the summary is broken or that of another run.
        """
        if not exists(self.summary):
            return None
        summary = read_json(self.summary)
        began = summary.get("from")
        origin = began.get("state") if isinstance(began, dict) else None
        self._check(summary | {"origin": origin}, self.summary)
        Summary.parse(summary, str(self.summary))
        return summary

    def _start(self) -> None:
        self._remove_unfinished()
        with told(self.path):
            self.trained.unlink(missing_ok=True)  # of a run that was killed before its checkpoint
            self.metrics.write_bytes(b"")

    def _remove_unfinished(self) -> None:
        with told(self.path, "cannot be read"):
            for file in (self.summary, self.checkpoint, self.trained):
                remove_unfinished(file)

    def _check(self, saved: Mapping[str, Any], file: Path) -> None:
        for part, wanted in self.identity.items():
            found = saved.get(part)
            if part == "origin":
                if found != wanted:
                    raise UserError(
                        f"{self.path} holds a run that began with another state; give the same "
                        "--from or choose another --out"
                    )
                continue
            if not isinstance(found, dict):
                raise UserError(f"{file}: {part} is missing; expected the file of a run")
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise UserError(
                        f"{self.path} holds a run with {part} {name} = {found.get(name)}, not "
                        f"{value}; choose another --out"
                    )
