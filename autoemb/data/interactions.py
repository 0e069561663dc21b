"""What every data source becomes: a stream of rated interactions in the order they are learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from autoemb.errors import UserError

_ID_TYPES = (pl.Int64, pl.String)


@dataclass(frozen=True, eq=False)
class Interactions:
    """A stream of E interactions: who rated what, how, and when.

    Parameters
    ----------
    name : str
        Name of the data set: the folder or file it came from, ``"synthetic"`` for the embedded one.
    user, item : polars.Series of Int64 or String, length E
        Raw ids, in stream order.
    rating : polars.Series of Float32, length E
        Ratings as they stand in the file, from 0 to `max_rating`.
    timestamp : polars.Series of Int64, length E
        Seconds since 1970-01-01 UTC.
    max_rating : float
        Top of the rating scale; ``rating * 5 / max_rating`` is the rating in stars.
    format : str
        The recognised layout, for example ``"MovieLens 100K"``.
    skipped_rows : int, default 0
        Rows of the file that were unusable and left out.

    Raises
    ------
    UserError
        If the four columns differ in length or have other types than the above.

    Examples
    --------
    >>> import polars as pl
    >>> from autoemb.data import Interactions
    >>> stream = Interactions(
    ...     name="tiny",
    ...     user=pl.Series([7, 7, 9]),
    ...     item=pl.Series(["tea", "milk", "tea"]),
    ...     rating=pl.Series([4.0, 2.5, 5.0], dtype=pl.Float32),
    ...     timestamp=pl.Series([10, 20, 20]),
    ...     max_rating=5.0,
    ...     format="by hand",
    ... )
    >>> len(stream), stream.num_users, stream.num_items
    (3, 2, 2)
    >>> stream.head(1).item.to_list()
    ['tea']
    """

    name: str
    user: pl.Series
    item: pl.Series
    rating: pl.Series
    timestamp: pl.Series
    max_rating: float
    format: str
    skipped_rows: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "user": _ID_TYPES,
            "item": _ID_TYPES,
            "rating": (pl.Float32,),
            "timestamp": (pl.Int64,),
        }
        for column, types in allowed.items():
            values: pl.Series = getattr(self, column)
            if values.dtype not in types:
                expected = " or ".join(str(dtype) for dtype in types)
                raise UserError(f"{column} is of type {values.dtype}; expected {expected}")
            if len(values) != len(self.rating):
                raise UserError(
                    f"{column} has {len(values)} values and rating has {len(self.rating)}; "
                    "expected as many of each"
                )

    def __len__(self) -> int:
        """Return the number of interactions."""
        return len(self.rating)

    @cached_property
    def num_users(self) -> int:
        """Number of distinct users."""
        return self.user.n_unique()

    @cached_property
    def num_items(self) -> int:
        """Number of distinct items."""
        return self.item.n_unique()

    def head(self, n: int) -> Interactions:
        """Return the first `n` interactions of the stream, or all of them where it is shorter."""
        if n < 0:
            raise UserError(f"cannot take the first {n} interactions; expected 0 or more")
        return replace(
            self,
            user=self.user.head(n),
            item=self.item.head(n),
            rating=self.rating.head(n),
            timestamp=self.timestamp.head(n),
        )

    def shuffled(self, seed: int) -> Interactions:
        """Return the same interactions in a random order that `seed` alone decides."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(
            self,
            user=self.user.gather(order),
            item=self.item.gather(order),
            rating=self.rating.gather(order),
            timestamp=self.timestamp.gather(order),
        )
