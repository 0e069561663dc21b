"""The data flags of the command line: declared once, turned into a data set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from autoemb.errors import UserError
from autoemb.schema import RATINGS, Bag, Dense, Label, Schema, Sparse

if TYPE_CHECKING:
    from autoemb.data import Dataset

#: The kind of a label that only a flag names, by the task.
_KINDS = {"click": "click", "value": "value", "regression": "rating", "classification": "rating"}
_COLUMNS = ("sparse", "bags", "dense", "label", "timestamp", "weight", "event_id")


def _flag(text: str, metavar: str | None = None, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True)
class DataFlags:
    """What the command line says of the data, as it stands there.

    Examples
    --------
    >>> flags = DataFlags(data="events.csv", sparse="user,item", label="click", task="click")
    >>> flags.schema_of_flags().label.kind
    'click'
    """

    data: str | None = _flag(
        "Folder, file or ZIP archive of events: MovieLens, Netflix Prize, MovieTweetings; CSV, "
        "JSON lines or Parquet with user_id, item_id, rating, timestamp, or with the columns that "
        "the flags below name. Default: an embedded synthetic stream.",
        "PATH",
    )
    schema: str | None = _flag("TOML file that says what the columns are.", "FILE")
    sparse: str | None = _flag("Columns of one id an event.", "NAME,NAME,...")
    bags: str | None = _flag("Columns of several ids an event.", "NAME,NAME,...")
    dense: str | None = _flag("Columns of numbers.", "NAME,NAME,...")
    label: str | None = _flag(
        "Column to predict: clicks, or by --task and --scale ratings or numbers.", "NAME"
    )
    timestamp: str | None = _flag(
        "Column of the time, by default timestamp; '' takes the order of the rows.", "NAME"
    )
    weight: str | None = _flag("Column of the weights of events in the loss.", "NAME")
    event_id: str | None = _flag("Column of names that no two events share.", "NAME")
    scale: str | None = _flag("Ends of the scale of ratings, by default of 0 to 1, 5, 10 or 100.",
                              "LOW,HIGH")  # fmt: skip
    positive_above: float | None = _flag(
        "A rating above it is positive; by default 0.7 of the way up the scale."
    )
    columns: str | None = _flag(
        "Names of all columns, in order, of a text file without a header.", "NAME,NAME,..."
    )
    skip_bad_rows: bool = _flag("Count and leave out broken rows of the data.", default=False)
    task: str | None = None  # not a flag of the data, but it tells the kind of a label

    def dataset(self, default: Schema | None = None) -> Dataset:
        """Return the data set that is meant; its ``notes`` are for the terminal.

        Parameters
        ----------
        default : Schema, optional
            What the columns are where no flag says so; by default what the format brings.

        Raises
        ------
        UserError
            For flags that contradict each other or do not say enough, and as
            :func:`autoemb.data.load`.
        """
        from autoemb.data import load, synthetic  # and polars, which --help does without

        if self.data is None:
            for one in fields(self):
                if one.name not in ("data", "task") and getattr(self, one.name) != one.default:
                    raise UserError(
                        f"{flag_of(one.name)} is about a file; name the file with --data"
                    )
            return synthetic()
        columns = None if self.columns is None else _names("--columns", self.columns)
        if columns and any("=" in name for name in columns):
            raise UserError(
                f"--columns is {self.columns!r}; expected the names of all columns of a file "
                "without a header; --sparse, --label, --timestamp or --schema say what they are"
            )
        return load(
            self.data,
            schema=self._schema(default),
            columns=columns,
            skip_bad_rows=self.skip_bad_rows,
        )

    def _schema(self, default: Schema | None) -> Schema | None:
        given = [name for name in _COLUMNS if getattr(self, name) is not None]
        if self.schema is not None:
            if given:
                raise UserError(
                    f"--schema and {flag_of(given[0])} both say what the columns are; expected one "
                    "of them"
                )
            return self._scaled(Schema.from_toml(self.schema))
        if given:
            return self.schema_of_flags()
        if self.scale is None and self.positive_above is None:
            return default
        return self._scaled(default or RATINGS)

    def schema_of_flags(self) -> Schema:
        """Return the schema that the flags for columns describe."""
        if self.label is None:
            raise UserError("the flags name no label; expected --label NAME, or a --schema FILE")
        if self.sparse is None and self.bags is None:
            raise UserError(
                "the flags name no ids; expected --sparse or --bags, or a --schema FILE"
            )
        rating = self.scale is not None or self.positive_above is not None
        kind: Any = "rating" if rating else _KINDS.get(self.task or "click", "click")
        bags = tuple(Bag(column=name) for name in _names("--bags", self.bags))
        dense = tuple(Dense(column=name) for name in _names("--dense", self.dense))
        schema = Schema(
            label=Label(column=self.label, kind=kind),
            sparse=tuple(Sparse(column=name) for name in _names("--sparse", self.sparse)),
            bag=bags,
            dense=dense,
            timestamp="timestamp" if self.timestamp is None else self.timestamp,
            weight=self.weight,
            event_id=self.event_id,
        )
        return self._scaled(schema)

    def _scaled(self, schema: Schema) -> Schema:
        """Return a schema with the scale and threshold of the flags."""
        given: dict[str, Any] = {}
        if self.scale is not None:
            given["scale"] = _ends(self.scale)
        if self.positive_above is not None:
            given["positive_above"] = self.positive_above
        if not given:
            return schema
        label = schema.label
        if label.kind != "rating":
            raise UserError(
                f"{flag_of(next(iter(given)))} is for ratings; the label {label.column} is of kind "
                f"{label.kind}"
            )
        flags = ", ".join(f"{flag_of(name)}" for name in given)
        whole = Label.parse(label.model_dump() | given, flags)
        return schema.model_copy(update={"label": whole})


def _ends(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        low, high = map(float, parts)
    except ValueError:
        raise UserError(f"--scale is {text!r}; expected LOW,HIGH: two numbers") from None
    return low, high


def _names(option: str, text: str | None) -> list[str]:
    if text is None:
        return []
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UserError(f"{option} is {text!r}; expected names of columns separated by commas")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{option} names {twice[0]!r} twice; expected different columns")
    return names


def flag_of(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


def with_data_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags in place of its parameter ``source``, which gets the data set.

    Notes of the data set go to standard error, a line each. The data are read when the command
    asks for them, by calling ``source()``: a mistake in another option is said first. It may name
    the schema and the task to go by where the flags do not.
    """
    signature = inspect.signature(command, eval_str=True)
    hints = get_type_hints(DataFlags)
    flags = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=Annotated[
                hints[one.name],
                typer.Option(
                    flag_of(one.name), help=one.metadata["help"], metavar=one.metadata["metavar"]
                ),
            ],
        )
        for one in fields(DataFlags)
        if one.metadata
    ]
    names = {flag.name for flag in flags}

    @functools.wraps(command)
    def with_source(**options: Any) -> None:
        given = {name: options.pop(name) for name in names & options.keys()}

        def source(schema: Schema | None = None, task: str | None = None) -> Dataset:
            found = DataFlags(**given, task=options.get("task", task)).dataset(schema)
            for note in found.notes:
                typer.echo(note, err=True)
            return found

        command(source=source, **options)

    own = [p for p in signature.parameters.values() if p.name != "source"]
    position = next((at for at, p in enumerate(own) if p.kind is p.VAR_KEYWORD), len(own))
    own = [p if p.kind is p.VAR_KEYWORD else p.replace(kind=p.KEYWORD_ONLY) for p in own]
    with_source.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own[:position], *flags, *own[position:]]
    )
    with_source.__annotations__ = {p.name: p.annotation for p in (*own, *flags)}
    return with_source
