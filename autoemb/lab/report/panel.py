"""One panel of SVG: its style, its bytes and the parts that every figure shares.

Same values, same bytes: no date, no random identifier. Text stays text, so a reader can search it
and the page can set its font. This module needs the extra ``report``.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID, CARD = "#24292f", "#6a737d", "#e1e4e8", "#ffffff"
# Okabe and Ito's colours, told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SLATE, PINK, SKY, OLIVE = "#56606b", "#cc79a7", "#56b4e9", "#8c8c1a"

_STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": CARD,
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout on any machine
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}
WIDE, SMALL = (5.0, 3.2), (3.4, 2.6)  # inches; 72 points each


def svg(name: str, size: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    """Return the SVG text of one figure.

    Parameters
    ----------
    name
        The figure's name; keeps its identifiers apart from those of other figures on a page.
    size
        Width and height in inches, 72 points each.
    paint
        Draws into the figure's only axes.
    """
    text = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the caller's matplotlibrc says, the figure is the same
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    plain = re.sub(r' id="[a-z0-9.]+_[a-z0-9_]+"', "", text.getvalue())  # the same in every figure
    return plain.replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif")


def finish(axes: Axes, label: str) -> None:
    """Label and grid the vertical axis, and put the legend above."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    legend(axes, axes.get_legend_handles_labels()[0])


def legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Put a legend above the axes, where no curve runs."""
    if handles:
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=4,
            handlelength=1.3,
            handletextpad=0.5,
            columnspacing=1.2,
            borderaxespad=0.2,
        )


def octaves(axes: Axes, lows: Sequence[int], feature: str) -> None:
    """Make the horizontal axis octaves of popularity, named by their lower ends."""
    step = 1 + len(lows) // 11  # labels of 1,023 events and more touch their neighbours
    axes.set_xticks(range(0, len(lows), step), [compact(low) for low in lows[::step]], size=8)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, max(len(lows), 1) - 0.4)
    axes.set_xlabel(f"earlier events of the {cut(feature, 30)} (at least)")


def compact(value: float) -> str:
    """Return a count in few characters.

    Examples
    --------
    >>> compact(511), compact(40_000)
    ('511', '40k')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def cut(name: str, length: int) -> str:
    """Cut a name to a length, so that no name takes the room of the axes.

    Examples
    --------
    >>> cut("abcdef", 4)
    'abc…'
    """
    return name if len(name) <= length else f"{name[: length - 1]}…"
