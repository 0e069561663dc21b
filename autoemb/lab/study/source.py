"""The data of a study: a file or folder, which of its columns are read, how many of its events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import Field

from autoemb.data import Dataset, load
from autoemb.declared import Declared
from autoemb.errors import UserError
from autoemb.schema import Schema


@dataclass(frozen=True)
class Source:
    """Events under a name of their own.

    Attributes
    ----------
    name : str
        What tables tell them by.
    path : Path
    schema : Path, optional
        TOML file of what the columns are.
    limit : int, optional
        Use only the first events in the order of time.
    """

    name: str
    path: Path
    schema: Path | None = None
    limit: int | None = None

    @property
    def key(self) -> str:
        """What tells a run of these events from one of others."""
        if self.schema is None and self.limit is None:
            return self.name
        columns = b"" if self.schema is None else self.schema.read_bytes()
        return f"{self.name} {self.limit} {hashlib.blake2b(columns, digest_size=6).hexdigest()}"

    def check(self) -> None:
        """Raise UserError if there is no such file, or its schema is none."""
        if not self.path.exists():
            raise UserError(
                f"{self.path} does not exist; --data names the folder of a study's data"
            )
        if self.schema is not None:
            Schema.from_toml(self.schema)

    def dataset(self) -> Dataset:
        """Return the events."""
        return _loaded(self)


class SourceEntry(Declared):
    """How a study's file names data with columns of their own.

    Attributes
    ----------
    path : str
    name : str
        By default that of the path.
    schema_file : str, optional
        ``schema`` in the file: a TOML file, relative to the study's.
    limit : int, optional
    """

    path: str
    name: str = ""
    schema_file: Annotated[str | None, Field(alias="schema")] = None
    limit: Annotated[int, Ge(2), Le(2**40)] | None = None

    def source(self, root: Path, beside: Path) -> Source:
        """Return the events below a folder, their schema beside a study's file."""
        schema = None if self.schema_file is None else beside / self.schema_file
        return Source(self.name or Path(self.path).name, root / self.path, schema, self.limit)


@lru_cache(maxsize=2)  # runs come data set by data set
def _loaded(source: Source) -> Dataset:
    schema: Any = None if source.schema is None else Schema.from_toml(source.schema)
    dataset = replace(load(source.path, schema=schema), name=source.name)
    return dataset if source.limit is None else dataset.head(source.limit)
