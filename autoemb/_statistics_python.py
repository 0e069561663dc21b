"""Target statistics in Python: the readable specification of `csrc/runtime/statistics.cpp`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoemb._arrays import check_matrix, check_rows, check_vector

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

#: A float32 counts no further than to 2^24: from here on an id's past is halved.
MOST_EVENTS = 2**23


class StatisticsPass:
    """What labels say of ids, event by event: the rule of :func:`advance_statistics`.

    A row of a table is an id's: the number n of its events, C sums S of what their labels left, a
    number w and C sums R of which each event leaves ``decay``, and K factors p, or none.

    Attributes
    ----------
    features : list of tuple
        Table [U, 2 + 2 C + K], rows, offsets or None, whether events count, whether it has factors,
        and events without a word that an id is taken to have had.
    totals : dict of str to array
        ``total`` [C], ``events`` [1], ``squares`` [C] and ``losses`` [F, strengths], float64.
    rules : dict
        ``strengths``, ``odds``, ``rarest``, ``decay``, ``rate``, ``penalty``, ``largest``.
    """

    def __init__(
        self,
        features: list[tuple[Any, ...]],
        totals: Mapping[str, Any],
        channels: int,
        rules: Mapping[str, Any],
    ) -> None:
        self.features, self.totals, self.rules, self.channels = features, totals, rules, channels
        self.unit = math.sqrt(totals["squares"][-1] / totals["events"][0])
        self.parts = [[0.0] * channels for _ in features]
        self.mean = self.sum = [0.0] * channels

    def _link(self, chance: float) -> float:
        rarest = self.rules["rarest"]
        bounded = min(max(chance, rarest), 1 - rarest)
        return math.log(bounded / (1 - bounded))

    def _unlinked(self, sum: float) -> float:
        if not self.rules["odds"]:
            return sum
        try:
            return 1 / (1 + math.exp(-sum))
        except OverflowError:  # a hundred features may agree that there is no chance
            return 0.0

    def _part(self, channel: int, sum: float, strength: float, count: float) -> float:
        """Return what an id with such a sum adds to what is expected."""
        if count + strength == 0:
            return 0.0
        offset = sum / (count + strength)
        if not self.rules["odds"]:
            return offset
        return self._link(self.mean[channel] + offset) - self._link(self.mean[channel])

    def _rows(self, feature: int, event: int) -> list[Any]:
        """Return the rows of an event's ids, which may be written."""
        table, rows, offsets, *_ = self.features[feature]
        own = rows[event : event + 1]
        if offsets is not None:
            own = rows[offsets[event] : offsets[event + 1]]
        return [table[row] for row in own.tolist()]

    def _read(self, feature: int, event: int) -> None:
        """Find what a feature adds to what is expected."""
        rows = [row.tolist() for row in self._rows(feature, event)]
        count = sum((row[0] for row in rows), 0.0)
        for c in range(self.channels):
            own, strength = sum((row[1 + c] for row in rows), 0.0), self.features[feature][5]
            self.parts[feature][c] = self._part(c, own, strength, count)

    def _add_up(self) -> None:
        """Find what is expected."""
        self.sum = [self._link(mean) if self.rules["odds"] else mean for mean in self.mean]
        for parts in self.parts:
            self.sum = [own + part for own, part in zip(self.sum, parts, strict=True)]

    def tell(self, event: int, told: Any, mean: Any) -> None:
        """Write n, S, w, R and the product with the others' factors [F, 3 + 2 C], and the mean."""
        width = 2 + 2 * self.channels
        mean[:] = self.totals["total"] / self.totals["events"]
        factors: list[Any] = []
        for feature, (*_, factored, _) in enumerate(self.features):
            rows = self._rows(feature, event)
            told[feature] = 0
            for row in rows:
                told[feature, :width] += row[:width]
            # The factors of an id without events are as they were drawn: they say nothing.
            silent = not factored or told[feature, 0] == 0
            factors.append(None if silent else rows[0][width:].astype(np.float64))
        whole: Any = sum(own for own in factors if own is not None)
        for feature, own in enumerate(factors):
            if own is not None:
                told[feature, width] = sum((own * (whole - own)).tolist(), 0.0)

    def take_in(self, event: int, label: list[float], weight: float, told: Any, mean: Any) -> None:
        """Take in the label [C] of an event that was told this.

        It is split between the features, one after the other: a feature gets what is left over the
        mean and the shrunken offsets of all others.
        """
        if weight == 0:
            return
        self._compare_strengths(label, weight, told.tolist(), mean.tolist())
        totals = self.totals
        self.mean = (totals["total"] / totals["events"]).tolist()
        for feature in range(len(self.features)):
            self._read(feature, event)
        self._add_up()
        left = 0.0
        for c in range(self.channels):
            left = label[c] - self._unlinked(self.sum[c])
            totals["squares"][c] += weight * left * left
        self._learn_factors(event, left / self.unit, weight)
        self._split(event, label, weight)
        for c in range(self.channels):
            totals["total"][c] += weight * label[c]
        totals["events"][0] += weight

    def _compare_strengths(
        self, label: list[float], weight: float, told: list[list[float]], mean: list[float]
    ) -> None:
        """Add what an event lost, were each feature's offsets shrunk by each strength."""
        self.mean = mean
        for feature, (count, *own) in enumerate(told):
            strength = self.features[feature][5]
            for c in range(self.channels):
                self.parts[feature][c] = self._part(c, own[c], strength, count)
        self._add_up()
        for feature, (count, *own) in enumerate(told):
            for number, strength in enumerate(self.rules["strengths"]):
                loss = 0.0
                for c in range(self.channels):
                    others = self.sum[c] - self.parts[feature][c]
                    tried = self._part(c, own[c], strength, count)
                    left = label[c] - self._unlinked(others + tried)
                    loss += left * left
                self.totals["losses"][feature, number] += weight * loss

    def _learn_factors(self, event: int, left: float, weight: float) -> None:
        """Step against ``(left - sum_{f<g} <p_f, p_g>)^2 / 2 + penalty / 2 * sum_f |p_f|^2``.

        Of size ``r / (1 + r * reach)`` with ``r = weight * rate / (F - 1)``, and reach the squared
        norm of the products' gradient: to first order no error changes its sign.
        """
        width, rules = 2 + 2 * self.channels, self.rules
        own = [
            self._rows(feature, event)[0][width:]
            for feature, (*_, factored, _) in enumerate(self.features)
            if factored
        ]
        before = [row.astype(np.float64) for row in own]
        total = sum(before, np.zeros(0 if not before else len(before[0])))
        so_far, pairs = np.zeros_like(total), 0.0
        for was in before:
            for product in (so_far * was).tolist():
                pairs += product
            so_far = so_far + was
        reach = 0.0
        for was in before:
            for square in ((total - was) ** 2).tolist():
                reach += square
        error = min(max(left, -rules["largest"]), rules["largest"]) - pairs
        full = weight * rules["rate"] / max(1, len(own) - 1)
        step = full / (1 + full * reach)
        for row, was in zip(own, before, strict=True):
            change = step * (error * (total - was) - rules["penalty"] * was)
            row[:] = row.astype(np.float64) + change

    def _split(self, event: int, label: list[float], weight: float) -> None:
        channels, decay = self.channels, self.rules["decay"]
        for feature, (_, _, _, counts, *_) in enumerate(self.features):
            if not counts:
                continue
            parts = self.parts[feature]
            self.sum = [own - part for own, part in zip(self.sum, parts, strict=True)]
            pairs = zip(label, self.sum, strict=True)
            new = np.array([weight, *(weight * (x - self._unlinked(own)) for x, own in pairs)])
            for row in self._rows(feature, event):
                ever, recent = row[: 1 + channels], row[1 + channels : 2 + 2 * channels]
                ever[:] = ever.astype(np.float64) + new
                recent[:] = decay * recent.astype(np.float64) + new
                if row[0] >= MOST_EVENTS:
                    ever /= 2
            self._read(feature, event)
            self.sum = [own + part for own, part in zip(self.sum, parts, strict=True)]


def advance_statistics(
    tables: Sequence[Float32Array],
    rows: Sequence[Int64Array],
    offsets: Sequence[Int64Array | None],
    counts: Sequence[bool],
    factored: Sequence[bool],
    shrinkage: Sequence[float],
    label: Float32Array,
    weight: Float32Array,
    until: Int64Array,
    last: int,
    totals: Mapping[str, Any],
    told: Float32Array,
    mean: Float32Array,
    **rules: Any,
) -> None:
    """Take in a queue of N labelled events, and tell the last B of them what is known of their ids.

    Parameters
    ----------
    tables, rows, offsets, counts, factored, shrinkage
        Of F features: see :class:`StatisticsPass`. Tables and ``totals`` are changed in place.
    label : array [N, C], float32
    weight : array [N], float32
    until : array [B], int64
        How many events of the queue each of the last B knows.
    last : int
        How many are taken in at the end.
    totals, **rules
        See :class:`StatisticsPass`.
    told : array [N, F (3 + 2 C)], float32
        What each event is told: n, S, w, R, and the product of an id's factors with those of the
        event's other ids. Of the last B events it is written, of those before them read.
    mean : array [N, C], float32
        The same, of the mean of all labels.
    """
    check_matrix("label", label, np.float32)
    check_vector("weight", weight, np.float32)
    check_vector("until", until, np.int64)
    events, channels = label.shape
    if channels == 0:
        raise ValueError("label must have a column")
    if len(weight) != events:
        raise ValueError("weight must be as long as label")
    if not len(rows) == len(offsets) == len(counts) == len(factored) == len(shrinkage):
        raise ValueError("features must be as many as tables")
    features = [*zip(tables, rows, offsets, counts, factored, shrinkage, strict=True)]
    _check_features(features, events, channels)
    if len(until) > events or not 0 <= last <= events:
        raise ValueError("until and last must be within label")
    first = events - len(until)
    before = np.concatenate([np.zeros(1, np.int64), until[:-1]])[: len(until)]
    if bool(((until < before) | (until > first + np.arange(len(until)))).any()):
        raise ValueError("an event may know those before it")
    if len(until) and last < until[-1]:
        raise ValueError("last must not be before until")
    for name, size in (("total", channels), ("events", 1), ("squares", channels)):
        if totals[name].size != size:
            raise ValueError(f"{name} must have {size} numbers")
    if totals["losses"].shape != (len(tables), len(rules["strengths"])):
        raise ValueError(f"losses must have {len(tables) * len(rules['strengths'])} numbers")
    check_matrix("told", told, np.float32, writable=True)
    check_matrix("mean", mean, np.float32, writable=True)
    if told.shape != (events, len(tables) * (3 + 2 * channels)):
        raise ValueError(f"told must have {len(tables) * (3 + 2 * channels)} columns")
    if mean.shape != label.shape:
        raise ValueError("mean must be as label")
    own = StatisticsPass(features, totals, channels, rules)
    told_of = told.reshape(events, len(tables), 3 + 2 * channels)
    taken = 0
    for number, stop in enumerate([*until.tolist(), last]):
        for event in range(taken, stop):
            values = label[event].tolist(), weight.item(event)
            own.take_in(event, *values, told_of[event], mean[event])
        taken = stop
        if number < len(until):
            own.tell(first + number, told_of[first + number], mean[first + number])


def _check_features(features: list[tuple[Any, ...]], events: int, channels: int) -> None:
    """Check tables, rows and offsets of a queue of so many events."""
    factors = None
    for table, rows, offsets, _, factored, _ in features:
        check_matrix("table", table, np.float32, writable=True)
        check_vector("rows", rows, np.int64)
        check_rows(rows, len(table))
        if offsets is None:
            if len(rows) != events:
                raise ValueError("rows must be as long as label")
        else:
            check_vector("offsets", offsets, np.int64)
            ends = len(offsets) == events + 1 and offsets[0] == 0 and offsets[-1] == len(rows)
            if not ends or bool((np.diff(offsets) < 0).any()):
                raise ValueError("offsets must ascend from 0 to the number of rows")
        width = table.shape[1] - 2 - 2 * channels
        other = factored and (offsets is not None or factors not in (None, width))
        if width < 0 or other:
            raise ValueError("a table is of another width")
        factors = width if factored else factors
