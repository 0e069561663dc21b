"""The figures of a report, each one panel that reads as well on a phone as on a desk.

This module needs the extra ``report``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from autoemb.lab.records import Bucket, Difference
from autoemb.lab.report import panel
from autoemb.lab.report.curves import Curve, smooth, thin
from autoemb.lab.report.wording import display, pair, verdict

_METHODS = {
    "bias": panel.VERMILION,
    "logistic": panel.OLIVE,
    "fm": panel.SKY,
    "fse": panel.SLATE,
    "sam": panel.ORANGE,
    "darts": panel.GREEN,
    "autoemb": panel.BLUE,
}
_OTHERS = (panel.PINK, panel.VERMILION, panel.SKY, panel.OLIVE)
_VERDICTS = {"better": panel.BLUE, "worse": panel.VERMILION}


def colour(method: str, methods: Sequence[str]) -> str:
    """Return a method's colour: fixed for those of this package, by position for others.

    Examples
    --------
    >>> colour("autoemb", ["fse", "autoemb"]), colour("mine", ["mine"])
    ('#0072b2', '#cc79a7')
    """
    others = [name for name in methods if name not in _METHODS]
    return _METHODS.get(method) or _OTHERS[others.index(method) % len(_OTHERS)]


def _line(method: str, methods: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the line of a method is drawn, the paper's own before the others."""
    main = method == "autoemb"
    return {
        "color": colour(method, list(methods)),
        "label": panel.cut(display(method), 14),
        "linewidth": 2 if main else 1.4,
        "zorder": 3 if main else 2,
    }


def over_stream(name: str, curves: Mapping[str, Curve], label: str, boundary: int) -> str:
    """Draw a quantity over the stream: a smooth line a method over its faint raw windows.

    Parameters
    ----------
    name
        The figure's name, unique on its page.
    curves
        A curve for each method.
    label
        What the vertical axis shows.
    boundary
        Events in the offline stage; marked where it lies inside the stream.

    Returns
    -------
    str
        The SVG file's text.
    """

    def paint(axes: Axes) -> None:
        shown: list[float] = []
        for method, curve in curves.items():
            raw, line = thin(curve), smooth(thin(curve))
            style = _line(method, curves)
            axes.plot(raw.x, raw.y, **style | {"linewidth": 0.6, "alpha": 0.16, "label": None})
            axes.plot(line.x, line.y, **style)
            shown += sorted(line.y)[len(line.y) // 50 : len(line.y) - len(line.y) // 50]
        if shown:
            margin = 0.15 * (max(shown) - min(shown)) or 0.01
            axes.set_ylim(min(shown) - margin, max(shown) + margin)
        end = max((curve.x[-1] for curve in curves.values() if len(curve.x)), default=1.0)
        axes.set_xlim(0, end)
        if 0 < boundary < end:
            _mark_boundary(axes, boundary)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.compact(value)))
        axes.set_xlabel("events so far")
        panel.finish(axes, label)

    return panel.svg(name, panel.WIDE, paint)


def _mark_boundary(axes: Axes, boundary: int) -> None:
    """Mark where the offline stage ends."""
    axes.axvline(boundary, color=panel.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for text, side, shift in (("offline", "right", -4), ("online", "left", 4)):
        axes.annotate(
            text,
            (boundary, 1),
            (shift, -3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha=side,
            va="top",
            color=panel.MUTED,
            size=8.5,
        )


def loss_by_popularity(
    name: str, methods: Mapping[str, Sequence[Bucket]], feature: str, label: str
) -> str:
    """Draw Figure 6: loss over octaves of popularity, over faint bars for the share of events.

    Parameters
    ----------
    name
        The figure's name, unique on its page.
    methods
        The merged buckets of each method, of one stage and feature.
    feature
        What the popular ids are, as :func:`wording.feature` says it.
    label
        What the vertical axis shows.

    Returns
    -------
    str
        The SVG file's text.
    """

    def paint(axes: Axes) -> None:
        lows = sorted({bucket.low for buckets in methods.values() for bucket in buckets})
        events = dict.fromkeys(lows, 0)
        for method, buckets in methods.items():
            axes.plot(
                [lows.index(bucket.low) for bucket in buckets],
                [bucket.loss for bucket in buckets],
                marker="o",
                markersize=4 if method == "autoemb" else 3,
                **_line(method, methods),
            )
            for bucket in buckets:
                events[bucket.low] += bucket.interactions
        tallest = max(events.values(), default=1)
        axes.margins(y=0.12)
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.25 * (high - low), high)
        axes.bar(
            range(len(lows)),
            [0.18 * count / tallest for count in events.values()],
            width=0.8,
            color=panel.GRID,
            transform=axes.get_xaxis_transform(),
            zorder=1,
        )
        panel.octaves(axes, lows, feature)
        panel.finish(axes, label)

    return panel.svg(name, panel.WIDE, paint)


def weights_by_popularity(
    name: str, buckets: Sequence[Bucket], feature: str, sizes: Sequence[str]
) -> str:
    """Draw Figure 7: the mean weight of each embedding size over octaves of popularity.

    Parameters
    ----------
    name
        The figure's name, unique on its page.
    buckets
        The merged buckets of one method, stage and feature; those without weights are left out.
    feature
        What the popular ids are, as :func:`wording.feature` says it.
    sizes
        The name of each size, smallest first.

    Returns
    -------
    str
        The SVG file's text.
    """

    def paint(axes: Axes) -> None:
        known = [
            (bucket.low, bucket.weights)
            for bucket in buckets
            if bucket.weights and len(bucket.weights) == len(sizes)
        ]
        palette = mpl.colormaps["viridis"]
        base = [0.0] * len(known)
        for n, size in enumerate(sizes):
            share = [weights[n] for _, weights in known]
            shade = palette(0.9 - 0.62 * n / max(len(sizes) - 1, 1))
            axes.bar(range(len(known)), share, 0.86, base, color=shade, label=size)
            base = [below + height for below, height in zip(base, share, strict=True)]
        axes.set_ylim(0, max([1.0, *base]))
        panel.octaves(axes, [low for low, _ in known], feature)
        panel.finish(axes, "mean weight")

    return panel.svg(name, panel.SMALL, paint)


def differences(name: str, pairs: Sequence[Difference], label: str) -> str:
    """Draw paired differences as dots with their intervals and the line at zero.

    Parameters
    ----------
    name
        The figure's name, unique on its page.
    pairs
        Differences of one metric; a row for each pair of methods, its stages below each other.
    label
        What the horizontal axis shows.

    Returns
    -------
    str
        The SVG file's text.
    """
    names = list(dict.fromkeys(map(pair, pairs)))

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=panel.INK, linewidth=0.8, zorder=1)
        for d in pairs:
            online = d.stage == "online"
            shade = _VERDICTS.get(verdict(d), panel.MUTED)
            row = names.index(pair(d)) + (-0.14 if online else 0.14)
            axes.plot([d.low, d.high], [row, row], color=shade, linewidth=1.8 if online else 1)
            axes.plot(
                [d.mean],
                [row],
                color=shade,
                marker="o",
                markersize=6 if online else 5,
                markerfacecolor=shade if online else panel.CARD,
            )
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [panel.cut(name, 30) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        style: Any = {"color": panel.MUTED, "marker": "o", "markersize": 5}
        handles = [
            Line2D([], [], markerfacecolor=face, label=stage, **style)
            for stage, face in (("online", panel.MUTED), ("offline", panel.CARD))
            if any(d.stage == stage for d in pairs)
        ]
        panel.legend(axes, handles)

    return panel.svg(name, (panel.WIDE[0], 1.15 + 0.36 * len(names)), paint)


def loss_by_bytes(
    name: str, points: Mapping[str, Sequence[tuple[float, float, float]]], label: str
) -> str:
    """Draw the loss of each method against the bytes of its embeddings, several points joined.

    Parameters
    ----------
    name
        The figure's name, unique on its page.
    points
        Bytes, mean loss and its standard deviation over seeds (NaN for one): of each method a
        point, or one for each size that it comes in.
    label
        What the vertical axis shows.

    Returns
    -------
    str
        The SVG file's text.
    """

    def paint(axes: Axes) -> None:
        for method, found in points.items():
            sizes, losses, deviations = zip(*found, strict=True)
            axes.errorbar(
                [size / 2**20 for size in sizes],
                losses,
                yerr=[0.0 if deviation != deviation else deviation for deviation in deviations],
                marker="o",
                markersize=7 if method == "autoemb" else 5,
                **_line(method, points) | {"linewidth": 1.4},
            )
        axes.set_xscale("log")
        axes.margins(x=0.1, y=0.15)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.compact(value)))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlabel("MiB of embeddings")
        panel.finish(axes, label)

    return panel.svg(name, panel.WIDE, paint)
