"""Figures of the fitted model: curves over the data, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.plots._source import source
from mixexperts.plots._style import (
    Look,
    blend,
    dot,
    handle,
    legend_above,
    look,
    number,
    page,
    text,
    weighted_line,
    x_label,
)
from mixexperts.plots.frames import (
    expert_names,
    fit_table,
    gate_frame,
    gate_table,
    points_table,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_fit(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    feature: Any = None,
    at: Mapping[str, Any] | None = None,
    interval: float | None = 0.9,
    n_grid: int = 200,
    offset: Any = None,
    groups: Any = None,
    data: Any = None,
    max_points: int = 20_000,
    response: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the data, the experts, the mixture's mean and its predictive band.

    Points have the experts' colours mixed by their responsibilities, and the marker of the most
    probable expert. An expert's line is wide and dark where the gate gives it weight. The
    response is drawn as the formula states it, say ``np.log(y)``.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.
    X, y : array-like of shape (n, n_features) and (n,), optional
        Data to draw; needed with an estimator.
    feature : str, optional
        Variable of the horizontal axis; by default the first numeric one that the model uses.
        The others are held as ``at`` says, which stands below the axis. Points whose labels or
        two-valued variables differ from that are drawn hollow.
    at : mapping of str to value, optional
        Values of the other variables. By default labels and variables of two values are at
        their most frequent value, other numbers at their mean (estimator) or median (results).
    interval : float or None, default=0.9
        Probability of the central predictive band; None for no band. Binomial experts have
        none: their points are shares of successes, their curves probabilities.
    n_grid : int, default=200
        Points per curve.
    offset : array-like of shape (n,), optional
        Offset of the rows; the curves are at its median. Results know theirs if it is a column.
    groups : array-like of shape (n,), optional
        Groups of the rows; needed with an estimator that was fitted with groups.
    data : DataFrame, optional
        With results, data in place of those of the fit.
    max_points : int, default=20000
        Of more rows a random part of this size is drawn.
    response : str or int, optional
        Of several responses the one to draw: its name or number. Names are those of the formula
        or of the columns of y, else ``y0``, ``y1``, ...
    ax : matplotlib Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> import mixexperts as mx
    >>> df = mx.datasets.load_tonedata()
    >>> est = mx.MoERegressor(2, gate="constant", random_state=0)
    >>> est = est.fit(df[["stretchratio"]], df["tuned"])
    >>> ax = mx.plots.plot_fit(est, df[["stretchratio"]], df["tuned"])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('stretchratio', 'tuned')
    """
    src = source(
        model,
        X,
        y,
        data=data,
        offset=offset,
        groups=groups,
        response=True,
        which=response,
        drawn=True,
    )
    curves = fit_table(src, feature, at, interval, n_grid)
    points = points_table(src, feature, at)
    if len(points) > max_points:
        points = points.sample(int(max_points), random_state=0)
    names = expert_names(src.n_experts)
    mixture = curves[curves["component"] == "mixture"]
    with page(ax) as ax:
        _limits(ax, points, mixture)
        handles: list[Any] = []
        if interval is not None and mixture["lower"].notna().any():
            band = ax.fill_between(
                mixture["x"],
                mixture["lower"],
                mixture["upper"],
                color="0.9",
                linewidth=0.0,
                zorder=0.5,
                label=f"{100 * interval:.4g}% interval",
            )
            handles.append(band)
        _scatter(ax, points, names)
        for k, name in enumerate(names):
            part = curves[curves["component"] == name]
            x, mean, weight = (part[column].to_numpy() for column in ("x", "mean", "weight"))
            weighted_line(ax, x, mean, weight, look(k), label=name)
        (line,) = ax.plot(
            mixture["x"], mixture["mean"], color="black", linewidth=1.0, zorder=4, label="mean"
        )
        experts = [handle(name, look(k), marker=True) for k, name in enumerate(names)]
        handles = [*experts, line, *handles]
        if not points["at_held"].all():
            handles.append(dot("other levels", Look("0.3", (), "o"), hollow=True))
        legend_above(ax, handles)
        ax.set_xlabel(x_label(curves.attrs))
        ax.set_ylabel(text(src.response))
    return ax


def _limits(ax: Axes, points: pd.DataFrame, mixture: pd.DataFrame) -> None:
    """Room for the data, the mean and the band; an expert's line may leave it."""
    for axis, columns in (("x", ("x",)), ("y", ("mean", "lower", "upper"))):
        shown = [points[axis], *(mixture[column] for column in columns)]
        values = np.concatenate([np.asarray(column, dtype=float) for column in shown])
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.04 * (high - low)
        getattr(ax, f"set_{axis}lim")(low - margin, high + margin)


def _scatter(ax: Axes, points: pd.DataFrame, names: list[str]) -> None:
    resp = points[names].to_numpy()
    color = blend(resp)
    likely = resp.argmax(axis=1)
    here = points["at_held"].to_numpy(dtype=bool)
    size = float(np.clip(14.0 * (150.0 / len(points)) ** 0.4, 2.0, 14.0))
    for k in range(len(names)):
        for rows, filled in (((likely == k) & ~here, False), ((likely == k) & here, True)):
            if rows.any():
                ax.scatter(
                    points["x"].to_numpy()[rows],
                    points["y"].to_numpy()[rows],
                    s=size,
                    marker=look(k).marker,
                    facecolors=color[rows] if filled else "none",
                    edgecolors="white" if filled else color[rows],
                    linewidths=0.07 * size**0.5 if filled else 0.5,
                    alpha=0.9 if filled else 0.6,
                    rasterized=len(points) > 5000,
                    zorder=2.0 if filled else 1.5,
                )


def plot_gate(
    model: Any,
    X: Any = None,
    *,
    feature: Any = None,
    at: Mapping[str, Any] | None = None,
    n_grid: int = 200,
    data: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mixing weights along one variable, with the data as a rug.

    Weights are lines rather than stacked areas: each can be read off the axis, and lines need
    no colour to be told apart. The legend gives the values of weights that are constant. Along
    labels (a feature that is not numeric) weights are markers.

    Parameters
    ----------
    model, X, feature, at, n_grid, data
        As in :func:`plot_fit`. The feature is by default the first numeric variable of the
        gate; a constant gate needs no X.
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
    rows = None
    if X is None and not hasattr(model, "spec"):
        frame = gate_frame(model, feature=feature, at=at, n_grid=n_grid, data=data)
    else:
        src = source(model, X, data=data)
        frame = gate_table(src, feature, at, n_grid)
        name = frame.attrs["feature"]
        rows = src.data[name].to_numpy() if name is not None and src.is_numeric(name) else None
    groups = list(frame.groupby("expert", sort=False))
    labels = frame["x"].dtype.kind not in "if"
    with page(ax, height=2.2) as ax:
        for k, (_, part) in enumerate(groups):
            _weight_line(ax, part, k, labels)
        ax.set_ylim(-0.07 if rows is not None else -0.02, 1.02)
        ax.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
        ax.set_ylabel("mixing weight")
        _gate_axis(ax, frame, rows, labels)
        names = [str(name) for name, _ in groups]
        if not labels and max(np.ptp(part["weight"]) for _, part in groups) < 1e-9:
            names = [f"{name}: {number(part['weight'].iloc[0])}" for name, part in groups]
        legend_above(ax, [handle(name, look(k), marker=labels) for k, name in enumerate(names)])
    return ax


def _weight_line(ax: Axes, part: pd.DataFrame, k: int, labels: bool) -> None:
    style = look(k)
    x = np.arange(len(part)) if labels else part["x"].to_numpy()
    width = 0.6 if labels else 1.6
    ax.plot(
        x,
        part["weight"].to_numpy(),
        color=style.color,
        linewidth=width,
        linestyle=(0, tuple(length / width for length in style.dashes)),
        dash_capstyle="butt",
        marker=style.marker if labels else "none",
        markersize=5.0,
        label=str(part["expert"].iloc[0]),
    )


def _gate_axis(ax: Axes, frame: pd.DataFrame, rows: Array | None, labels: bool) -> None:
    name = frame.attrs["feature"]
    if name is None:
        ax.set_xticks([])
        ax.set_xlabel("the same for all rows")
        return
    ax.set_xlabel(x_label(frame.attrs))
    if labels:
        levels = list(dict.fromkeys(frame["x"]))
        ax.set_xticks(range(len(levels)), [text(level) for level in levels])
        ax.set_xlim(-0.5, len(levels) - 0.5)
        return
    if rows is not None:
        ax.plot(
            np.unique(rows),
            np.full(len(np.unique(rows)), 0.022),
            "|",
            transform=ax.get_xaxis_transform(),
            color="0.3",
            markersize=4.0,
            markeredgewidth=0.4,
            zorder=1.0,
            label="_rug",
        )
