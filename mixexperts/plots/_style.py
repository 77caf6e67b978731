"""Looks: colours, dashes and markers of experts, the page, and legends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

#: Colours of Okabe and Ito (2008), told apart with any colour vision; black is the mixture's.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442",
)  # fmt: skip
#: Lengths drawn and left out, in points. Seven of them and eight colours pair up 56 times.
DASHES: tuple[tuple[float, ...], ...] = (
    (9.0, 2.0),
    (4.0, 2.0),
    (9.0, 2.0, 1.6, 2.0),
    (1.6, 1.6),
    (6.0, 1.6, 1.6, 1.6, 1.6, 1.6),
    (14.0, 3.0, 4.0, 3.0),
    (4.0, 1.5, 4.0, 1.5, 1.6, 1.5),
)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")

SINGLE_COLUMN = 3.4  # inches

#: Settings of figures made here; axes of the caller keep the caller's.
PAGE: Any = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.useoffset": False,
    "figure.dpi": 150.0,
    "savefig.dpi": 300.0,
}


@dataclass(frozen=True)
class Look:
    """How one expert, criterion or kind of start is drawn."""

    color: str
    dashes: tuple[float, ...]
    marker: str


def look(index: int) -> Look:
    """Look of number ``index`` (from 0); colours, dashes and markers cycle out of step."""
    return Look(
        COLORS[index % len(COLORS)],
        DASHES[index % len(DASHES)],
        MARKERS[index % len(MARKERS)],
    )


@contextmanager
def page(ax: Axes | None, height: float = 2.6) -> Iterator[Axes]:
    """The caller's axes, or those of a new figure, which is closed again if drawing fails."""
    if ax is not None:
        yield ax
        return
    import matplotlib.pyplot as plt

    with plt.rc_context(PAGE):
        figure, new = plt.subplots(figsize=(SINGLE_COLUMN, height), layout="constrained")
        try:
            yield new
        except BaseException:
            plt.close(figure)
            raise


def text(name: Any) -> str:
    """A name as matplotlib shows it literally."""
    return str(name).replace("$", r"\$")


def number(value: float) -> str:
    """A number with three decimals and a proper minus sign."""
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def blend(weights: Array) -> Array:
    """Colours of experts mixed by weights (n, K): (n, 3)."""
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(look(k).color) for k in range(weights.shape[1])])
    colors: Array = np.clip(weights @ palette, 0.0, 1.0)
    return colors


def legend_above(ax: Axes, handles: Sequence[Any], columns: int = 4) -> None:
    """Legend over the axes, where it covers no data, in as many columns as fit."""
    for count in range(min(columns, len(handles)), 0, -1):
        legend = ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=count,
            frameon=False,
            borderaxespad=0.2,
            fontsize="small",
            handlelength=2.6,
            columnspacing=1.2,
            handletextpad=0.6,
        )
        if legend.get_window_extent().width <= 1.12 * ax.bbox.width:
            return


def handle(name: str, look: Look, *, marker: bool = False, width: float = 1.6) -> Line2D:
    """Legend entry of a line in points-long dashes, with a marker if asked."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=look.color,
        linewidth=width,
        linestyle=(0, tuple(length / width for length in look.dashes)),
        dash_capstyle="butt",
        marker=look.marker if marker else "none",
        markersize=3.5,
        markeredgewidth=0.0,
        label=text(name),
    )


def dot(name: str, style: Look, *, hollow: bool = False) -> Line2D:
    """Legend entry of points."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        linestyle="none",
        marker=style.marker,
        markersize=4.0,
        markerfacecolor="none" if hollow else style.color,
        markeredgecolor=style.color,
        markeredgewidth=0.8,
        label=text(name),
    )


def weighted_line(
    ax: Axes, x: Array, y: Array, weight: Array, look: Look, *, label: str = ""
) -> LineCollection:
    """A dashed curve, wider and darker where its weight in [0, 1] is larger.

    Limits of the axes must be final: dashes are measured on the page.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    display = ax.transData.transform(np.column_stack([x, y]))
    steps = np.hypot(*np.diff(display, axis=0).T) * 72.0 / ax.figure.dpi
    along = np.concatenate([[0.0], np.cumsum(steps)])
    starts, ends = _pieces(float(along[-1]), look.dashes)
    segments = np.stack(
        [
            np.column_stack([np.interp(at, along, display[:, j]) for j in (0, 1)])
            for at in (starts, ends)
        ],
        axis=1,
    )
    inverse = ax.transData.inverted()
    middle = np.interp(0.5 * (starts + ends), along, weight)
    shade = (0.3 + 0.7 * middle)[:, None]
    lines = LineCollection(
        list(inverse.transform(segments.reshape(-1, 2)).reshape(-1, 2, 2)),
        colors=shade * np.array(to_rgb(look.color)) + (1.0 - shade),
        linewidths=0.4 + 2.0 * middle,
        capstyle="butt",
        zorder=3.0,
        label=label,
    )
    ax.add_collection(lines, autolim=False)
    return lines


def _pieces(length: float, dashes: Sequence[float]) -> tuple[Array, Array]:
    """Starts and ends, in points along a curve, of short pieces that make up its dashes."""
    period = float(sum(dashes))
    # A very long curve gets longer dashes, so that pieces stay countable.
    stretch = max(1.0, length / (200.0 * period))
    edges = np.concatenate([[0.0], np.cumsum(dashes)]) * stretch
    starts: list[Array] = []
    ends: list[Array] = []
    for base in np.arange(0.0, length, period * stretch):
        for i in range(0, len(dashes), 2):
            low, high = base + edges[i], min(base + edges[i + 1], length)
            if low < high:
                cuts = np.linspace(low, high, max(2, int(np.ceil((high - low) / 1.5)) + 1))
                starts.append(cuts[:-1])
                # Pieces overlap a little: no hairlines between them.
                ends.append(np.minimum(cuts[1:] + 0.2, high))
    return np.concatenate(starts), np.concatenate(ends)


def held_note(held: Mapping[str, Any], limit: int = 3) -> str:
    """Where the other variables are held, for the axis; empty if there are none."""
    shown = [
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in list(held.items())[:limit]
    ]
    more = [f"{len(held) - limit} more"] if len(held) > limit else []
    return "at " + ", ".join(shown + more) if held else ""


def x_label(frame_attrs: Mapping[Any, Any]) -> str:
    """Name of the feature, and on a second line where the others are held."""
    note = held_note(frame_attrs["held"])
    return text(frame_attrs["feature"]) + (f"\n{text(note)}" if note else "")
