"""What the columns of a stream are: features, tables, the label.

A feature is a named column. A *sparse* feature holds one id an event, a *bag* several, a *dense*
one a number. The ids of one or several features own a table: rows, optimiser state, history.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from autoemb.declared import Declared, read_toml

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Sparse(Declared):
    """A column of one id an event.

    Attributes
    ----------
    column : str
        Name of the column and of the feature.
    table : str
        Whose rows the ids own; by default a table of their own, named like the column.
    counts : bool, default True
        Whether an event that holds an id is an event of that id: counted in its history.
    missing : {"id", "refuse"}, default "id"
        What an event without an id has: an id that all of these share
        (:data:`autoemb.batch.MISSING`, or the empty text), or no place in the stream.

    Examples
    --------
    >>> Sparse(column="item_id").table
    'item_id'
    """

    column: Name
    table: str = ""
    counts: bool = True
    missing: Literal["id", "refuse"] = "id"

    @model_validator(mode="after")
    def _fill(self) -> Self:
        if not self.table:
            object.__setattr__(self, "table", self.column)
        return self


class Bag(Sparse):
    """A column of several ids an event, none included, whose embeddings are pooled.

    Attributes
    ----------
    column, table, counts
        As of :class:`Sparse`; a missing bag is an empty one.
    pooling : {"mean", "sum"}, default "mean"
        An empty bag gives zeros either way.
    separator : str, default "|"
        Between ids where the column is text; columns of lists need none.
    weights : str, optional
        Column of a weight from 0 for each id, shaped like the ids. With "mean" the weighted sum is
        divided by the sum of the weights.

    Examples
    --------
    >>> Bag(column="prev_items", table="item_id", counts=False).pooling
    'mean'
    """

    pooling: Literal["mean", "sum"] = "mean"
    separator: Annotated[str, Field(min_length=1, max_length=8)] = "|"
    weights: Name | None = None


class Dense(Declared):
    """A column of numbers; where one is missing, an indicator beside it says so.

    Attributes
    ----------
    column : str
    transform : {"standardise", "log1p", "none"}, default "standardise"
        "standardise" subtracts the mean of the past and divides by its standard deviation; "log1p"
        takes sign(x) log(1 + |x|) before that; "none" takes the number as it is.
    """

    column: Name
    transform: Literal["standardise", "log1p", "none"] = "standardise"


class Label(Declared):
    """What is to be predicted.

    Attributes
    ----------
    column : str
    kind : {"click", "rating", "classes", "value"}
        0 or 1; a grade on a scale; one of some classes; any number.
    scale : (float, float), optional
        Ends of a rating's scale. By default the data decide: from 0 to the least of 1, 5, 10 and
        100 that no rating exceeds.
    positive_above : float, optional
        A rating above it is positive; by default 0.7 of the way up the scale (3.5 of 5 stars).
    classes : tuple of str, optional
        The classes in order, as the column has them. Needed for ``kind="classes"``.

    Raises
    ------
    UserError
        For a scale that does not ascend, classes that repeat, and what another kind needs.

    Examples
    --------
    >>> Label(column="stars", kind="rating", scale=(1, 7), positive_above=5).scale
    (1.0, 7.0)
    """

    column: Name
    kind: Literal["click", "rating", "classes", "value"]
    scale: tuple[float, float] | None = None
    positive_above: float | None = None
    classes: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "rating" and (self.scale or self.positive_above is not None):
            raise ValueError(f"scale and positive_above are for ratings; the kind is {self.kind}")
        if self.scale and not -math.inf < self.scale[0] < self.scale[1] < math.inf:
            low, high = self.scale
            raise ValueError(f"scale is {low:g},{high:g}; expected two ascending numbers")
        low, high = self.scale or (-math.inf, math.inf)
        if self.positive_above is not None and not (
            math.isfinite(self.positive_above) and low <= self.positive_above < high
        ):
            where = f"from {low:g} to below {high:g}, the scale" if self.scale else "a number"
            raise ValueError(f"positive_above is {self.positive_above:g}; expected {where}")
        if (self.kind == "classes") != bool(self.classes):
            raise ValueError(
                f"classes lists the classes of kind 'classes'; the kind is {self.kind}"
            )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise ValueError("classes lists a class twice, or only one; expected different ones")
        return self


class Schema(Declared):
    """What the columns of a stream are.

    Attributes
    ----------
    label : Label
    sparse : tuple of Sparse
    bag : tuple of Bag
    dense : tuple of Dense
    timestamp : str or None, default "timestamp"
        Column of the time of an event; None (in TOML "", which knows no None): the order of the
        rows is the order of time.
    weight : str, optional
        Column of the weight of an event in the loss, from 0.
    event_id : str, optional
        Column of a name that no two events share.

    Raises
    ------
    UserError
        For a column that is named twice, a schema without ids, and what :class:`Declared` refuses.

    Examples
    --------
    >>> schema = Schema(
    ...     label=Label(column="click", kind="click"),
    ...     sparse=(Sparse(column="user_id"), Sparse(column="item_id")),
    ...     bag=(Bag(column="prev_items", table="item_id", counts=False),),
    ... )
    >>> schema.tables
    ('user_id', 'item_id')
    """

    label: Label
    sparse: tuple[Sparse, ...] = ()
    bag: tuple[Bag, ...] = ()
    dense: tuple[Dense, ...] = ()
    timestamp: Name | None = "timestamp"
    weight: Name | None = None
    event_id: Name | None = None

    @field_validator("timestamp", mode="before")
    @classmethod
    def _no_column(cls, name: object) -> object:
        return None if name == "" else name

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.features:
            raise ValueError("the schema names no ids; expected a sparse feature or a bag at least")
        twice = [name for name, times in Counter(self.columns).items() if times > 1]
        if twice:
            raise ValueError(f"column {twice[0]!r} is named twice; expected one use of a column")
        return self

    @property
    def features(self) -> tuple[Sparse, ...]:
        """The features that hold ids: sparse ones, then bags."""
        return (*self.sparse, *self.bag)

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables, in the order in which features name them."""
        return tuple(dict.fromkeys(feature.table for feature in self.features))

    @property
    def kinds(self) -> dict[str, tuple[Sparse, ...] | tuple[Dense, ...]]:
        """The features by their kind."""
        return {"sparse": self.sparse, "bag": self.bag, "dense": self.dense}

    @property
    def num_dense(self) -> int:
        """How many numbers a model gets of dense features: each, and whether it is missing."""
        return 2 * len(self.dense)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the schema names."""
        names: list[str | None] = [feature.column for feature in self.features]
        names += [bag.weights for bag in self.bag] + [number.column for number in self.dense]
        names += [self.label.column, self.timestamp, self.weight, self.event_id]
        return tuple(name for name in names if name is not None)

    @classmethod
    def from_toml(cls, path: Path | str) -> Self:
        """Read a schema from a TOML file.

        Raises
        ------
        UserError
            For a file that cannot be read or is no schema; names the file and the key.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "schema.toml"
        >>> _ = file.write_text('''
        ... [label]
        ... column = "click"
        ... kind = "click"
        ... [[sparse]]
        ... column = "user_id"
        ... ''')
        >>> Schema.from_toml(file).tables
        ('user_id',)
        """
        return cls.parse(read_toml(Path(path)), str(path))


#: A rating of up to five stars.
STARS = Label(column="rating", kind="rating", scale=(0, 5))

#: What the formats of rating sets bring: who rated what, how and when.
RATINGS = Schema(
    label=Label(column="rating", kind="rating"),
    sparse=(
        Sparse(column="user_id", missing="refuse"),
        Sparse(column="item_id", missing="refuse"),
    ),
)
