"""Parquet files with one event a row."""

from __future__ import annotations

import io
from collections.abc import Mapping

import polars as pl

from autoemb.data.file import GZIP_MAGIC, File
from autoemb.data.head import PARQUET_MAGIC, Head
from autoemb.data.table import Table


def parquet(head: Head) -> Table | None:
    """Recognise a Parquet file, by its first bytes."""
    if not head.start.startswith(PARQUET_MAGIC):
        return None
    frame = _open(head.file)

    def scan(names: Mapping[str, str]) -> pl.LazyFrame:
        nothing = pl.lit(None, pl.String)
        return (
            frame.select(**{ours: pl.col(theirs) for ours, theirs in names.items()})
            .with_row_index("row", offset=1)
            .with_columns(text=nothing, problem=nothing)
        )

    columns = tuple(frame.collect_schema().names())
    return Table("Parquet", head.file.path, columns, scan, typed=True)


def _open(file: File) -> pl.LazyFrame:
    whole = file.source
    if isinstance(whole, bytes):
        return pl.scan_parquet(io.BytesIO(whole))
    with whole.open("rb") as start:
        compressed = start.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    source = io.BytesIO(file.read()) if compressed else whole
    return pl.scan_parquet(source, glob=False, hive_partitioning=False)
