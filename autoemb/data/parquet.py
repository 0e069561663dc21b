"""Parquet files with one interaction a row."""

from __future__ import annotations

import polars as pl

from autoemb.data.head import PARQUET_MAGIC, Head
from autoemb.data.table import COLUMNS, Table, pick_columns


def parquet(head: Head, columns: dict[str, str]) -> Table | None:
    """Recognise a Parquet file, by its first bytes."""
    if not head.start.startswith(PARQUET_MAGIC):
        return None
    file = pl.scan_parquet(head.path.absolute(), glob=False, hive_partitioning=False)
    names = pick_columns(head.path, file.collect_schema().names(), columns)
    nothing = pl.lit(None, pl.String)
    rows = (
        file.select(**{ours: pl.col(names[ours]) for ours in COLUMNS})
        .with_row_index("row", offset=1)
        .with_columns(text=nothing, problem=nothing)
    )
    return Table("Parquet", head.path, lambda: rows, typed=True)
