"""Figures of how a fit came about: passes, starts, numbers of experts, responsibilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts.plots._source import fitted
from mixexperts.plots._style import Look, dot, handle, legend_above, look, number, page, text
from mixexperts.plots.frames import posterior_frame
from mixexperts.plots.records import history_frame, restarts_frame, selection_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_APPROACHES = ("inset", "log", None)


def plot_history(model: Any, *, approach: str | None = "inset", ax: Axes | None = None) -> Axes:
    """Draw the log-likelihood of the best start after each accepted pass.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.
    approach : {"inset", "log", None}, default="inset"
        How the last passes are made visible: an inset shows the distance to the final value on
        a logarithmic axis, ``"log"`` shows that alone, None nothing but the log-likelihood.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If ``approach`` is not known, or the model neither an estimator nor results.
    """
    if approach not in _APPROACHES:
        raise ValueError(f"approach={approach!r} is not known; known: {_APPROACHES}")
    frame = history_frame(model)
    est = fitted(model)
    penalised = abs(est.objective_ - est.log_likelihood_) > 1e-9 * max(1.0, abs(est.objective_))
    name = "penalised log-likelihood" if penalised else "log-likelihood"
    with page(ax) as ax:
        _integer_axis(ax)
        ax.set_xlabel("accepted pass")
        if approach == "log":
            _distance(ax, frame)
            ax.set_ylabel(f"distance to final {name}")
            return ax
        _values_by_pass(ax, frame)
        ax.set_ylabel(name)
        if approach == "inset" and len(frame) > 2:
            inset = ax.inset_axes(_free_corner(frame))
            _integer_axis(inset)
            _distance(inset, frame)
            inset.set_title("distance to final", fontsize="small", pad=2.0)
            inset.tick_params(labelsize="small")
    return ax


def _values_by_pass(ax: Axes, frame: pd.DataFrame) -> None:
    passes, values = frame["pass"].to_numpy(), frame["objective"].to_numpy()
    final, span = values[-1], max(np.ptp(values), 1e-3)
    ax.axhline(final, color="0.6", linewidth=0.6, zorder=1.0)
    ax.plot(
        passes,
        values,
        color=look(0).color,
        linewidth=1.0,
        marker="o" if len(passes) <= 60 else "none",
        markersize=2.5,
    )
    ax.set_ylim(final - 1.06 * span, final + 0.14 * span)
    ax.annotate(
        f"final: {number(final)}",
        (1.0, final),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
    )


def _free_corner(frame: pd.DataFrame) -> tuple[float, float, float, float]:
    """Box of the inset: lower right, or upper left if the curve rises late."""
    value = frame["objective"].to_numpy()
    height = (value - value[0]) / max(value[-1] - value[0], 1e-300)
    early = np.linspace(0.0, 1.0, len(value)) < 0.6
    if height[~early].min() < 0.7 and height[early].max() < 0.35:
        return (0.13, 0.46, 0.42, 0.32)
    return (0.5, 0.2, 0.47, 0.42)


def _distance(ax: Axes, frame: pd.DataFrame) -> None:
    shown = frame[frame["distance"] > 0.0]
    if shown.empty:
        return
    ax.plot(
        shown["pass"],
        shown["distance"],
        color=look(0).color,
        linewidth=1.0,
        marker="o" if len(shown) <= 60 else "none",
        markersize=2.0,
    )
    ax.set_yscale("log")


def _integer_axis(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(
        MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )


def plot_restarts(model: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the log-likelihoods of all starts, highest first.

    Markers tell the kinds of starts; solutions that are degenerate or failed are hollow. The
    line is at the best sound solution.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    TypeError
        If the model is neither an estimator nor results.
    """
    frame = restarts_frame(model)
    best = float(fitted(model).log_likelihood_)
    screened = len(fitted(model).restarts_) - len(frame)
    kinds = list(dict.fromkeys(frame.sort_values("start")["init"]))
    with page(ax) as ax:
        ax.axhline(best, color="0.6", linewidth=0.6, zorder=1.0)
        handles = []
        for i, kind in enumerate(kinds):
            style = look(i)
            rows = frame[(frame["init"] == kind) & np.isfinite(frame["log_likelihood"])]
            ax.scatter(
                rows["rank"],
                rows["log_likelihood"],
                s=float(np.clip(18.0 * (20.0 / len(frame)) ** 0.5, 5.0, 18.0)),
                marker=style.marker,
                facecolors=["none" if bad else style.color for bad in rows["degenerate"]],
                edgecolors=style.color,
                linewidths=0.8,
                zorder=2.0,
                label=text(kind),
            )
            handles.append(dot(kind, style))
        if frame["degenerate"].any():
            handles.append(dot("degenerate", Look("0.3", (), "o"), hollow=True))
        _span(ax, frame["log_likelihood"].to_numpy(dtype=float), best)
        _integer_axis(ax)
        ax.set_xlim(0.3, len(frame) + 0.7)
        # Under values that fall from left to right, this corner is free.
        ax.text(
            0.02,
            0.03,
            f"best reached by {int(frame['reached_best'].sum())} of {len(frame)}"
            + (f"; {screened} more ran on a sample only" if screened else ""),
            transform=ax.transAxes,
        )
        ax.set_xlabel("start, highest first")
        ax.set_ylabel("log-likelihood")
        legend_above(ax, handles)
    return ax


def _span(ax: Axes, values: Any, best: float) -> None:
    """Limits that do not blow differences up that are none."""
    values = np.append(values[np.isfinite(values)], best)
    low, high = values.min(), values.max()
    pad = max(0.12 * (high - low), 0.5 * max(0.0, 1.0 - (high - low)), 0.05)
    ax.set_ylim(low - 1.8 * pad, high + pad)


def plot_selection(
    selection: Any, *, criteria: Sequence[str] = ("aic", "bic", "icl"), ax: Axes | None = None
) -> Axes:
    """Draw criteria against the number of experts, the minimum of each in a ring.

    Degenerate fits are hollow and, unless all are, never a minimum.

    Parameters
    ----------
    selection : Selection, MoEResults or DataFrame
        With several numbers of experts; a DataFrame is indexed by them.
    criteria : sequence of str, default=("aic", "bic", "icl")
        Columns of the table; lower is better.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If there is no table, or a criterion is not in it.
    """
    frame = selection_frame(selection, criteria=criteria)
    with page(ax) as ax:
        handles = []
        for i, (name, part) in enumerate(frame.groupby("criterion", sort=False)):
            style = look(i)
            label = str(name).upper() if str(name) in ("aic", "bic", "icl") else str(name)
            best = part[part["best"]]
            handles.append(
                handle(
                    f"{label} (min. at {best['n_experts'].iloc[0]})", style, marker=True, width=1.0
                )
            )
            _criterion(ax, part, best, style)
        if frame["degenerate"].any():
            handles.append(dot("degenerate", Look("0.3", (), "o"), hollow=True))
        ax.set_xticks(sorted(frame["n_experts"].unique()))
        ax.margins(x=0.08)
        ax.set_xlabel("number of experts")
        ax.set_ylabel("criterion (lower is better)")
        legend_above(ax, handles)
    return ax


def _criterion(ax: Axes, part: pd.DataFrame, best: pd.DataFrame, style: Look) -> None:
    x, value = part["n_experts"].to_numpy(), part["value"].to_numpy()
    ax.plot(x, value, color=style.color, linewidth=1.0, linestyle=(0, style.dashes), zorder=1.5)
    ax.scatter(
        x,
        value,
        s=14.0,
        marker=style.marker,
        facecolors=["white" if bad else style.color for bad in part["degenerate"]],
        edgecolors=style.color,
        linewidths=0.8,
        zorder=2.0,
    )
    ax.scatter(
        best["n_experts"],
        best["value"],
        s=75.0,
        marker="o",
        facecolors="none",
        edgecolors="black",
        linewidths=0.8,
        zorder=2.5,
    )


def plot_posterior(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    n_bins: int = 20,
    smallest: float = 1e-4,
    offset: Any = None,
    groups: Any = None,
    data: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rootograms of the responsibilities, one strip per expert.

    Heights are square roots of the numbers of rows, so that few rows between 0 and 1 can be
    seen beside many at 1: bars at both ends mean well separated experts, bars in between rows
    that the model cannot assign. Rows below ``smallest`` are left out (Leisch, 2004).

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.
    X, y
        As in :func:`plot_fit`.
    n_bins : int, default=20
        Number of bins between 0 and 1.
    smallest : float, default=1e-4
        Smallest responsibility that counts.
    offset, groups, data
        As in :func:`plot_fit`.
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.

    References
    ----------
    Leisch, F. (2004). Exploring the structure of mixture model components. COMPSTAT 2004,
    1405-1412.
    """
    frame = posterior_frame(model, X, y, offset=offset, groups=groups, data=data)
    groups = list(frame.groupby("expert", sort=False)["responsibility"])
    edges = np.linspace(0.0, 1.0, int(n_bins) + 1)
    counts = [np.histogram(part[part >= smallest], bins=edges)[0] for _, part in groups]
    largest = max(1, max(int(count.max()) for count in counts))
    with page(ax, height=0.9 + 0.55 * len(groups)) as ax:
        for k, count in enumerate(counts):
            base = float(len(groups) - 1 - k)
            ax.axhline(base, color="0.6", linewidth=0.6, zorder=1.0)
            ax.bar(
                edges[:-1],
                0.85 * np.sqrt(count / largest),
                width=np.diff(edges),
                bottom=base,
                align="edge",
                color=look(k).color,
                edgecolor="white",
                linewidth=0.4,
            )
        places = [len(groups) - 1 - k for k in range(len(groups))]
        names = [f"{name}\n{part.sum():.1f} rows" for name, part in groups]
        ax.set_yticks(places, names, va="bottom")
        ax.tick_params(axis="y", length=0.0)
        ax.spines["left"].set_visible(False)
        ax.set_xlim(0.0, 1.0)
        ax.set_ylim(0.0, len(groups) - 0.1)
        ax.set_xlabel(f"responsibility\n(square-root scale; tallest bar: {largest} rows)")
    return ax
