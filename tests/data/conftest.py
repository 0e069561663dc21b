import datetime
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

Row = tuple[int, int, float, int]  # user, item, rating, seconds
Writer = Callable[[Path, Sequence[Row]], Path]

COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def _text(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def _rows(rows: Sequence[Row], separator: str, end: str = "\n") -> str:
    return "".join(
        f"{user}{separator}{item}{separator}{rating:g}{separator}{time}{end}"
        for user, item, rating, time in rows
    )


def _movielens_100k(folder: Path, rows: Sequence[Row]) -> Path:
    return _text(folder, "u.data", _rows(rows, "\t"))


def _movielens_1m(folder: Path, rows: Sequence[Row]) -> Path:
    return _text(folder, "ratings.dat", _rows(rows, "::"))


def _movielens_20m(folder: Path, rows: Sequence[Row]) -> Path:
    lines = "".join(f"{u},{i},{rating:.1f},{time}\n" for u, i, rating, time in rows)
    return _text(folder, "ratings.csv", f"userId,movieId,rating,timestamp\n{lines}")


def _movielens_latest(folder: Path, rows: Sequence[Row]) -> Path:
    path = _movielens_20m(folder, rows)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def _netflix_parts(rows: Sequence[Row]) -> dict[int, str]:
    """Text of every movie, in the order of first sight, as Netflix's files hold it."""
    movies: dict[int, str] = {}
    for user, item, rating, time in rows:
        day = datetime.datetime.fromtimestamp(time, datetime.UTC).date()
        movies.setdefault(item, f"{item}:\n")
        movies[item] += f"{user},{rating:g},{day}\n"
    return movies


def _netflix_combined(folder: Path, rows: Sequence[Row]) -> Path:
    movies = list(_netflix_parts(rows).values())
    half = (len(movies) + 1) // 2
    _text(folder, "combined_data_1.txt", "".join(movies[:half]))
    if movies[half:]:
        _text(folder, "combined_data_2.txt", "".join(movies[half:]))
    _text(folder, "movie_titles.csv", "1,2003,Dinosaur Planet\n")
    _text(folder, "probe.txt", "1:\n30878\n2647871\n")
    _text(folder, "qualifying.txt", "1:\n1046323,2005-12-19\n")
    return folder


def _netflix_training_set(folder: Path, rows: Sequence[Row]) -> Path:
    for movie, text in _netflix_parts(rows).items():
        _text(folder, f"training_set/mv_{movie:07d}.txt", text)
    _text(folder, "movie_titles.txt", "1,2003,Dinosaur Planet\n")
    _text(folder, "README", "The Netflix Prize\n")
    return folder


def _csv(folder: Path, rows: Sequence[Row]) -> Path:
    return _text(folder, "events.csv", f"{','.join(COLUMNS)}\n{_rows(rows, ',')}")


def _csv_quoted(folder: Path, rows: Sequence[Row]) -> Path:
    lines = "".join(f'"{u}","{i}","{r:g}","{t}","a, ""b""\nc"\n' for u, i, r, t in rows)
    header = ",".join(f'"{name}"' for name in (*COLUMNS, "review"))
    return _text(folder, "events.csv", f"{header}\n{lines}")


def _csv_gzip(folder: Path, rows: Sequence[Row]) -> Path:
    path = _csv(folder, rows)
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def _tsv(folder: Path, rows: Sequence[Row]) -> Path:
    return _text(folder, "events.tsv", "\t".join(COLUMNS) + "\n" + _rows(rows, "\t"))


def _parquet(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "events.parquet"
    pl.DataFrame(list(rows), schema=COLUMNS, orient="row").write_parquet(path)
    return path


# Layout -> how it is written, format it is recognised as, whether it keeps the time of day.
LAYOUTS: dict[str, tuple[Writer, str, bool]] = {
    "movielens-100k": (_movielens_100k, "MovieLens 100K", True),
    "movielens-1m": (_movielens_1m, "MovieLens 1M", True),
    "movielens-20m": (_movielens_20m, "MovieLens ratings.csv", True),
    "movielens-latest": (_movielens_latest, "MovieLens ratings.csv", True),
    "netflix-combined": (_netflix_combined, "Netflix Prize", False),
    "netflix-training-set": (_netflix_training_set, "Netflix Prize", False),
    "csv": (_csv, "CSV", True),
    "csv-quoted": (_csv_quoted, "CSV", True),
    "csv-gzip": (_csv_gzip, "CSV", True),
    "tsv": (_tsv, "TSV", True),
    "parquet": (_parquet, "Parquet", True),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> tuple[Writer, str, bool]:
    return LAYOUTS[request.param]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes bytes or text to a file in a fresh folder."""

    def write(content: bytes | str, name: str = "data.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
