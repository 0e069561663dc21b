"""Raw ids to rows, in order of first sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from autoemb.errors import UserError
from autoemb.runtime import Int64IdTable, StringIdTable

Int64Array = npt.NDArray[np.int64]


class IdTable:
    """Rows 0, 1, 2, ... for the ids of one field, in the order in which they are first seen.

    The table grows as ids appear: no preset size, no two ids in one row, no look at ids to come.
    The ids are all integers or all strings; the first ones decide.

    Examples
    --------
    >>> table = IdTable()
    >>> table.rows(["ann", "bob", "ann"])
    array([0, 1, 0])
    >>> table.rows(["bob", "eve"], insert=False)
    array([ 1, -1])
    >>> IdTable.from_state(table.state()).ids()
    ['ann', 'bob']
    """

    def __init__(self) -> None:
        self._table: Int64IdTable | StringIdTable | None = None

    def __len__(self) -> int:
        return 0 if self._table is None else len(self._table)

    def rows(self, ids: npt.NDArray[Any] | Sequence[Any], insert: bool = True) -> Int64Array:
        """Return the row of each id.

        Parameters
        ----------
        ids : array or sequence [B]
            Integers of any width up to int64, or strings.
        insert : bool, default True
            Whether an unknown id gets the next row; otherwise its answer is -1.

        Returns
        -------
        array [B], int64

        Raises
        ------
        UserError
            If the ids are neither integers nor strings, if they are not of the kind of the ids
            before, or if an integer does not fit into int64. The table is then as it was.

        Examples
        --------
        >>> import numpy as np
        >>> IdTable().rows(np.array([1 << 40, -7, 1 << 40]))
        array([0, 1, 0])
        """
        ids = canonical(ids)
        if len(ids) == 0:
            return np.empty(0, dtype=np.int64)
        if self._table is None and not insert:  # and stays so: others may be reading
            return np.full(len(ids), -1, dtype=np.int64)
        try:
            if isinstance(ids, np.ndarray):
                return self._integers().rows(ids, insert)
            return self._strings().rows(ids, insert)
        except (TypeError, UnicodeEncodeError) as error:
            raise UserError(f"expected strings as ids: {error}") from None
        finally:
            if len(self) == 0:  # ids that were refused, or not to be inserted, decide no kind
                self._table = None

    @property
    def kind(self) -> str | None:
        """What the ids are: "integers", "strings", or None before the first."""
        match self._table:
            case Int64IdTable():
                return "integers"
            case StringIdTable():
                return "strings"
        return None

    def nbytes(self) -> int:
        """Return the bytes of memory that ids and what finds them take."""
        return 0 if self._table is None else self._table.nbytes()

    def truncate(self, rows: int) -> None:
        """Forget the ids that were inserted last, down to so many; as slow as a new table."""
        if rows < len(self):
            kept = self.ids()[:rows]
            self._table = None
            self.rows(kept)

    def ids(self) -> Int64Array | list[str]:
        """Return the ids in row order: an int64 array [V], or a list of V strings."""
        return np.empty(0, dtype=np.int64) if self._table is None else self._table.ids()

    def at(self, rows: Int64Array) -> Int64Array | list[str]:
        """Return the ids of rows [U] that are known.

        Raises
        ------
        IndexError
            For a row that no id has.
        """
        if self._table is None:
            raise IndexError("the table knows no id")
        return self._table.at(rows)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the ids as plain arrays, for a checkpoint.

        Returns
        -------
        dict
            ``{"ids": int64 [V]}`` for integers. For strings ``{"utf8": uint8 [bytes], "offsets":
            int64 [V + 1]}``, where id v is ``utf8[offsets[v] : offsets[v + 1]]``. ``{}`` before the
            first id.
        """
        match self._table:
            case Int64IdTable():
                return {"ids": self._table.ids()}
            case StringIdTable():
                encoded = [id.encode() for id in self._table.ids()]
                return {
                    "utf8": np.frombuffer(b"".join(encoded), dtype=np.uint8),
                    "offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
                }
        return {}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Return the table whose :meth:`state` is given.

        Raises
        ------
        UserError
            If the arrays cannot come from a table: an id twice, or offsets beyond the bytes.
        """
        table = cls()
        if not state:
            return table
        ids: Int64Array | list[str]
        if "ids" in state:
            ids = _int64_array(state["ids"])
        else:
            ids = _split(state["utf8"], state["offsets"])
        inner = table._integers() if "ids" in state else table._strings()
        inner.reserve(len(ids))
        table.rows(ids)
        if len(table) != len(ids):
            raise UserError("state of an id table: the same id twice")
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how ``pickle`` and ``copy`` make the table again: from its state."""
        return type(self).from_state, (self.state(),)

    def _integers(self) -> Int64IdTable:
        if self._table is None:
            self._table = Int64IdTable()
        if not isinstance(self._table, Int64IdTable):
            raise UserError("ids are integers here and were strings before; expected one kind")
        return self._table

    def _strings(self) -> StringIdTable:
        if self._table is None:
            self._table = StringIdTable()
        if not isinstance(self._table, StringIdTable):
            raise UserError("ids are strings here and were integers before; expected one kind")
        return self._table


def canonical(ids: npt.NDArray[Any] | Sequence[Any]) -> Int64Array | list[str]:
    """Return ids as an int64 array, or a list of str.

    Raises
    ------
    UserError
        If they are neither integers nor strings, or if an integer does not fit into int64.

    Examples
    --------
    >>> canonical([3, 7]), canonical(np.array(["ann"]))
    (array([3, 7]), ['ann'])
    """
    if len(ids) == 0:
        return [] if isinstance(ids, list) else np.empty(0, dtype=np.int64)
    if not _are_strings(ids):
        return _int64_array(ids)
    strings = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    for position, id in enumerate(strings):
        if not isinstance(id, str):
            raise UserError(f"id {position} is {id!r}; expected strings, as the first is one")
    return strings


def _are_strings(ids: npt.NDArray[Any] | Sequence[Any]) -> bool:
    if isinstance(ids, np.ndarray) and ids.dtype.kind != "O":
        return ids.dtype.kind in "UT"
    return isinstance(ids[0], str)


def _int64_array(ids: npt.NDArray[Any] | Sequence[Any]) -> Int64Array:
    array = np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"ids are {array.dtype} {list(array.shape)}; expected integers or strings [B]"
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"ids contain {array.max()}; expected integers that fit into int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def _split(utf8: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[str]:
    text = np.asarray(utf8, dtype=np.uint8).tobytes()
    cuts = np.asarray(offsets, dtype=np.int64).tolist()
    if cuts != sorted(cuts) or cuts[:1] != [0] or cuts[-1] != len(text):
        raise UserError("state of an id table: offsets do not divide utf8")
    try:
        return [text[begin:end].decode() for begin, end in pairwise(cuts)]
    except UnicodeDecodeError as error:
        raise UserError(f"state of an id table: {error}") from None
