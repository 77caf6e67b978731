"""Figures of penalised fits: coefficients along a path, the choice, and stability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.plots._style import COLORS, PAGE, Look, dot, handle, legend_above, look, page, text
from mixexperts.plots.lasso_frames import cv_frame, path_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PANEL = 2.35  # inches
_HEIGHT = 2.5
_PER_ROW = 3
#: Colours of labelled lines; yellow cannot be read as text, and the grey is that of the others.
_LINES = tuple(color for color in COLORS if color not in ("#F0E442", "#7F7F7F"))
_MUTED = "0.78"
# Lines that never reach this share of the largest in their panel have neither name nor colour.
_LARGE = 0.2


def plot_path(
    path: Any,
    *,
    n_experts: int | None = None,
    gate_ratio: float | None = None,
    point: int | None = None,
    n_labels: int = 6,
    axes: Any = None,
) -> Array:
    """Draw coefficients against ``alpha``, a panel for each expert and one for the gate.

    The penalty falls from left to right. The terms that are largest along the path have colours,
    the same in all panels, and names where they are large; the others are grey. Points without a
    sound fit are left out. Of two experts whose rows of the gate are minus each other the second
    is drawn.

    Parameters
    ----------
    path : LassoPath, LassoMoERegressorCV or LassoMoEClassifierCV
        A path, or a fitted estimator that chose its penalty.
    n_experts, gate_ratio : int and float, optional
        Which path, of several; by default the chosen one, else the first.
    point : int, optional
        Point of the path that a line marks; by default the chosen one.
    n_labels : int, default=6
        Most terms that have a colour, at most 6.
    axes : sequence of matplotlib Axes, optional
        As many as there are panels; by default those of a new figure.

    Returns
    -------
    ndarray of matplotlib Axes
        Those of the experts, then that of the gate (one expert has none).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    frame = path_frame(path, n_experts=n_experts, gate_ratio=gate_ratio)
    if not 0 <= n_labels <= len(_LINES):
        raise ValueError(f"n_labels must lie between 0 and {len(_LINES)}, got {n_labels!r}")
    experts = frame.attrs["n_experts"]
    rooms = [("expert", k + 1) for k in range(experts)] + [("gate", 0)] * (experts > 1)
    alphas = _alphas(path, frame)
    marked = frame.attrs["chosen"] if point is None else point
    if marked is not None and marked not in alphas.index:
        raise ValueError(
            f"point={marked!r} is not on this path; its points are {alphas.index[0]} to "
            f"{alphas.index[-1]}"
        )
    colors = _colors(frame, n_labels)
    with _pages(axes, len(rooms)) as panels:
        for ax, (room, expert) in zip(panels, rooms, strict=True):
            part = frame[(frame["room"] == room) & frame["sound"]]
            title = f"expert {expert}" if room == "expert" else "gate"
            if room == "expert":
                part = part[part["expert"] == expert]
            elif experts == 2 and _mirrored(part):
                part, title = part[part["expert"] == 2], "gate (expert 2)"
            _lines(ax, part, colors)
            if marked is not None:
                ax.axvline(alphas[marked], color="0.35", linewidth=0.7, linestyle=(0, (4.0, 2.0)))
            ax.set_title(title, loc="left")
            _alpha_axis(ax, alphas.to_numpy())
        for ax in panels:
            place = ax.get_subplotspec()
            if place is None or place.is_first_col():
                ax.set_ylabel("coefficient")
    return panels


def _alphas(path: Any, frame: pd.DataFrame) -> Any:
    table = getattr(path, "cv_results_", None)
    table = path.table if table is None else table
    own = (table["n_experts"] == frame.attrs["n_experts"]) & (
        table["gate_ratio"] == frame.attrs["gate_ratio"]
    )
    return table.loc[own, "alpha"]


def _colors(frame: pd.DataFrame, n_labels: int) -> dict[str, str]:
    """Colours of the terms that are largest in their room, on the mean along the path."""
    sound = frame[frame["sound"]]
    along = sound["coef"].abs().groupby([sound["room"], sound["expert"], sound["term"]]).mean()
    largest = along.groupby(level="room").transform("max")
    share = (along / largest.where(largest > 0.0, 1.0)).groupby(level="term").max()
    terms = share.sort_values(ascending=False, kind="stable").index[:n_labels]
    return {str(term): _LINES[i] for i, term in enumerate(terms)}


def _mirrored(gate: pd.DataFrame) -> bool:
    """Whether the rows of two experts are minus each other at all points."""
    total = gate.groupby(["point", "term"])["coef"].sum().abs()
    return bool((total <= 1e-9 * gate["coef"].abs().max()).all()) if len(gate) else False


@contextmanager
def _pages(axes: Any, count: int) -> Iterator[Array]:
    """The caller's axes, or those of a new figure, which is closed again if drawing fails."""
    if axes is not None:
        given = np.asarray(axes, dtype=object).ravel()
        if len(given) != count:
            raise ValueError(f"axes must hold {count} axes, one per panel; got {len(given)}")
        yield given
        return
    import matplotlib.pyplot as plt

    columns = min(count, 2 if count == 4 else _PER_ROW)
    rows = -(-count // columns)
    with plt.rc_context(PAGE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(max(3.4, _PANEL * columns), _HEIGHT * rows),
            layout="constrained",
            squeeze=False,
        )
        panels = grid.ravel()
        for ax in panels[count:]:
            ax.remove()
        try:
            yield panels[:count]
        except BaseException:
            plt.close(figure)
            raise


def _lines(ax: Axes, part: pd.DataFrame, colors: dict[str, str]) -> None:
    """Lines of all coefficients, and names of the large coloured ones at their ends."""
    ends: list[tuple[float, str, str]] = []
    many = part["expert"].nunique() > 1, part["class"].nunique(dropna=False) > 1
    largest = float(part["coef"].abs().max()) if len(part) else 0.0
    for (expert, label, term), own in _by_line(part):
        values = own["coef"].to_numpy()
        if not values.any():
            continue
        color = colors.get(term) if np.abs(values).max() >= _LARGE * largest else None
        ax.plot(
            own["alpha"],
            values,
            color=_MUTED if color is None else color,
            linewidth=0.5 if color is None else 1.1,
            zorder=2.0 if color is None else 3.0,
        )
        if color is not None:
            name = str(term) + f" ({expert})" * many[0] + f": {label}" * many[1]
            ends.append((float(values[-1]), name, color))
    ax.axhline(0.0, color="0.6", linewidth=0.5, zorder=1.0)
    _name_ends(ax, ends)


def _by_line(part: pd.DataFrame) -> Any:
    keys = part[["expert", "class", "term"]].astype(object)
    groups: dict[Any, list[int]] = {}
    for at, key in enumerate(keys.itertuples(index=False, name=None)):
        groups.setdefault(key, []).append(at)
    return [
        (key, part.iloc[at].sort_values("alpha", ascending=False)) for key, at in groups.items()
    ]


def _name_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names to the right of the axes at the heights of the lines' ends, moved apart."""
    if not ends:
        return
    low, high = ax.get_ylim()
    ordered = sorted(ends)
    height = 0.055  # of a line of text, as a share of the axes
    wanted = np.array([(value - low) / (high - low) for value, _, _ in ordered])
    places = _apart(wanted, height)
    for place, (_, name, color) in zip(places, ordered, strict=True):
        ax.text(
            1.015,
            place,
            text(name),
            transform=ax.transAxes,
            color=color,
            fontsize="small",
            va="center",
            ha="left",
        )


def _apart(wanted: Array, least: float) -> Array:
    """Ascending places as near to the wanted ones as a least distance allows."""
    # Pools of neighbours that touch stand around their mean.
    pools: list[list[float]] = []
    for i, value in enumerate(wanted):
        pools.append([value - i * least, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            first, size = pools[-1]
            pools[-1] = [(first * size + mean * count) / (size + count), size + count]
    means = [mean for mean, count in pools for _ in range(int(count))]
    places: Array = np.array(means) + least * np.arange(len(wanted))
    return places


def _alpha_axis(ax: Axes, alphas: Array) -> None:
    """A log axis of ``alpha`` on which the penalty falls to the right."""
    ax.set_xscale("log")
    low, high = float(alphas.min()), float(alphas.max())
    if low == high:
        low, high = 0.5 * low, 2.0 * high
    ax.set_xlim(high * 1.04, low / 1.04)
    ax.set_xlabel("alpha (weaker penalty \N{RIGHTWARDS ARROW})")
    _plain_ticks(ax, low, high)


def _plain_ticks(ax: Axes, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1.0)
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), tuple(np.arange(1.0, 10.0))):
        ticks = np.array([step * 10.0**decade for decade in decades for step in steps])
        ticks = ticks[(ticks >= low * 0.999) & (ticks <= high * 1.001)]
        if len(ticks) >= 3:
            break
    ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def plot_cv(
    model: Any,
    *,
    criterion: str | None = None,
    n_experts: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw held-out log-likelihood, or a criterion, against ``alpha``.

    One line per ratio of the two strengths; that of the choice has a band of one standard error,
    and above it the number of slopes that are not zero. A ring marks the best point, a vertical
    line the chosen one; with folds a dotted line marks the sparsest within one standard error of
    the best on the same line. Points without a sound fit, or without a finite score, are left out.

    Parameters
    ----------
    model : LassoMoERegressorCV, LassoMoEClassifierCV or LassoPath
        Fitted estimator that chose its penalty, or a path.
    criterion : {"cv", "aic", "bic", "ebic", "mbic"}, optional
        By default what the estimator went by; of a path ``"bic"``.
    n_experts : int, optional
        Of several numbers of experts that one, by default the chosen one.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    frame = cv_frame(model, criterion=criterion, n_experts=n_experts)
    name = frame.attrs["criterion"]
    best = frame[frame["best"]].iloc[0]
    chosen = frame[frame["chosen"]]
    centre = chosen.iloc[0] if len(chosen) else best
    with page(ax, height=2.9) as ax:
        handles = []
        ratios = list(dict.fromkeys(frame["gate_ratio"]))
        for i, ratio in enumerate(ratios):
            style = look(i)
            part = frame[frame["gate_ratio"] == ratio]
            drawn = part[part["sound"]]
            value = drawn["value"].to_numpy()
            main = ratio == centre["gate_ratio"]
            if main and name == "cv":
                _band(ax, drawn, style)
            ax.plot(
                drawn["alpha"],
                value,
                color=style.color,
                linewidth=1.2 if main else 0.8,
                linestyle=(0, style.dashes) if len(ratios) > 1 else "solid",
                marker=style.marker if main else "none",
                markersize=2.4,
                markeredgewidth=0.0,
                zorder=3.0 if main else 2.0,
            )
            handles.append(handle(f"{ratio:g}", style, marker=main, width=1.0))
        ax.scatter(
            [best["alpha"]], [best["value"]],
            s=45.0, facecolors="none", edgecolors="black", linewidths=0.8, zorder=4.0,
        )  # fmt: skip
        if len(chosen):
            ax.axvline(centre["alpha"], color="0.35", linewidth=0.7, linestyle=(0, (4.0, 2.0)))
        own = frame[(frame["gate_ratio"] == best["gate_ratio"]) & frame["sound"]]
        if name == "cv":
            near = own[own["value"] >= best["value"] - best["std_error"]]
            sparse = near.sort_values(["n_nonzero", "alpha"], ascending=[True, False]).iloc[0]
            ax.axvline(sparse["alpha"], color="0.35", linewidth=0.7, linestyle=(0, (1.0, 1.5)))
        _alpha_axis(ax, frame["alpha"].to_numpy())
        ax.set_ylabel(
            "held-out log-likelihood per row"
            if name == "cv"
            else f"{name.upper()} (lower is better)"
        )
        _counts_above(ax, frame[frame["gate_ratio"] == centre["gate_ratio"]])
        if len(ratios) > 1:
            ax.legend(
                handles=handles,
                title="gate_ratio",
                frameon=False,
                fontsize="small",
                title_fontsize="small",
                handlelength=2.6,
            )
    return ax


def _band(ax: Axes, drawn: pd.DataFrame, style: Look) -> None:
    value, error = drawn["value"].to_numpy(), drawn["std_error"].to_numpy()
    ax.fill_between(
        drawn["alpha"], value - error, value + error,
        color=style.color, alpha=0.18, linewidth=0.0, zorder=1.5,
    )  # fmt: skip


def _counts_above(ax: Axes, part: pd.DataFrame) -> None:
    """Numbers of slopes that are not zero on an axis above."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    # Scale and limits are those of the axes below: they share the axis of alpha.
    above = ax.secondary_xaxis("top")
    step = max(1, -(-len(part) // 8))
    shown = part.iloc[::step]
    above.xaxis.set_major_locator(FixedLocator(shown["alpha"].tolist()))
    above.xaxis.set_major_formatter(FixedFormatter([str(n) for n in shown["n_nonzero"]]))
    above.xaxis.set_minor_locator(NullLocator())
    above.set_xlabel("slopes that are not zero", fontsize="small")
    above.tick_params(length=2.0, labelsize="small")
    above.spines["top"].set_visible(False)


def plot_stability(
    selection: Any,
    *,
    n_terms: int = 20,
    threshold: float | None = 0.75,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often the columns were selected, most often first.

    Black dots are for selection by any expert or the gate, the others for each expert and for the
    gate alone.

    Parameters
    ----------
    selection : StabilitySelection
    n_terms : int, default=20
        Most columns to draw.
    threshold : float in (0.5, 1] or None, default=0.75
        Where a line stands.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    if not hasattr(selection, "selection_probability_"):
        raise TypeError(
            "selection must be a StabilitySelection, as stability_selection returns it; got "
            f"{type(selection).__name__}"
        )
    if isinstance(n_terms, bool) or not isinstance(n_terms, int | np.integer) or n_terms < 1:
        raise ValueError(f"n_terms must be a positive integer, got {n_terms!r}")
    if threshold is not None and not 0.5 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0.5, 1] or be None, got {threshold!r}")
    frame = selection.frame
    any_ = frame[frame["room"] == "any"].sort_values("probability", ascending=False, kind="stable")
    terms = any_["term"].tolist()[:n_terms]
    if not terms:
        raise ValueError("no column was selected in any part, so that there is nothing to draw")
    place = {term: len(terms) - 1 - i for i, term in enumerate(terms)}
    experts = sorted(set(frame.loc[frame["room"] == "expert", "expert"]) - {0})
    series = [("any", 0, "any", Look("black", (), "o"))]
    series += [("expert", k, f"expert {k}", look(k - 1)) for k in experts]
    series += [("gate", 0, "gate", Look("0.45", (), "D"))]
    with page(ax, height=0.9 + 0.16 * len(terms)) as ax:
        for row in place.values():
            ax.axhline(row, color="0.92", linewidth=0.5, zorder=0.5)
        if threshold is not None:
            ax.axvline(threshold, color="0.35", linewidth=0.7, linestyle=(0, (4.0, 2.0)))
        handles = []
        for room, expert, name, style in series:
            rows = frame[(frame["room"] == room) & (frame["expert"] == expert)]
            rows = rows[rows["term"].isin(place)]
            ax.scatter(
                rows["probability"],
                [place[term] for term in rows["term"]],
                s=20.0 if room == "any" else 14.0,
                marker=style.marker,
                facecolors=style.color if room == "any" else "none",
                edgecolors=style.color,
                linewidths=0.8,
                zorder=2.0 if room == "any" else 3.0,
                clip_on=False,
            )
            handles.append(dot(name, style, hollow=room != "any"))
        ax.set_yticks(list(place.values()), [text(term) for term in place])
        ax.set_ylim(-0.7, len(terms) - 0.3)
        ax.set_xlim(0.0, 1.0)
        ax.set_xlabel("share of the parts of the rows that select it")
        legend_above(ax, handles)
    return ax
