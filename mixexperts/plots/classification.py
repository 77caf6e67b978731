"""Figures of classifiers: calibration of the probabilities, and decision regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.plots._source import Source, fitted, listing, source
from mixexperts.plots._style import Look, dot, handle, held_note, legend_above, look, page, text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def calibration_frame(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    n_bins: int = 10,
    confidence: float = 0.95,
    offset: Any = None,
    data: Any = None,
) -> pd.DataFrame:
    """Observed shares of the classes against their predicted probabilities, in bins.

    The rows are cut into bins of about equal numbers by the predicted probability of a class.
    With two classes there is one curve, of the second; with more one for each class.

    Parameters
    ----------
    model : MoEClassifier or MoEResults
        Fitted model.
    X, y : array-like of shape (n, n_features) and (n,), optional
        Rows and labels, better not those of the fit; needed with an estimator.
    n_bins : int, default=10
        Largest number of bins.
    confidence : float, default=0.95
        Level of the intervals of the observed shares.
    offset : array-like of shape (n,), optional
        Offset of the rows.
    data : DataFrame, optional
        With results, data in place of those of the fit.

    Returns
    -------
    DataFrame
        One row per class and bin: ``class``, ``predicted`` (mean probability), ``observed`` (share
        of the class), ``lower`` and ``upper`` (Wilson's interval of the share), ``n``.
        ``attrs["ece"]`` holds the expected calibration error of each class: the mean distance
        of the two over the rows.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used, or the model is no classifier; the message names it.

    References
    ----------
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference.
    Journal of the American Statistical Association 22, 209-212.
    Naeini, M. P., Cooper, G. F. and Hauskrecht, M. (2015). Obtaining well calibrated probabilities
    using Bayesian binning. AAAI.
    """
    import pandas as pd
    from scipy.special import ndtri

    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    if isinstance(n_bins, bool) or not isinstance(n_bins, int | np.integer) or n_bins < 1:
        raise ValueError(f"n_bins must be an integer >= 1, got {n_bins!r}")
    _classifying(model)
    src = source(model, X, y, data=data, offset=offset, response=True)
    est = src.estimator
    proba = est.predict_proba(src.X, offset=src.offset)
    truth = np.asarray(src.y)
    z = float(ndtri(0.5 + 0.5 * confidence))
    parts, ece = [], {}
    for c, label in enumerate(est.classes_):
        if c == 0 and len(est.classes_) == 2:
            continue
        predicted, hit = proba[:, c], truth == label
        cuts = np.unique(np.quantile(predicted, np.linspace(0.0, 1.0, n_bins + 1)[1:-1]))
        index = np.searchsorted(cuts, predicted, side="left")
        count = np.bincount(index, minlength=len(cuts) + 1).astype(float)
        full = np.flatnonzero(count)
        n = count[full]
        mean = np.bincount(index, weights=predicted)[full] / n
        share = np.bincount(index, weights=hit)[full] / n
        middle = (share + z**2 / (2.0 * n)) / (1.0 + z**2 / n)
        half = z / (1.0 + z**2 / n) * np.sqrt(share * (1.0 - share) / n + z**2 / (4.0 * n**2))
        ece[label] = float(n @ np.abs(share - mean) / n.sum())
        parts.append(
            pd.DataFrame(
                {
                    "class": [label] * len(n),
                    "predicted": mean,
                    "observed": share,
                    "lower": np.maximum(middle - half, 0.0),
                    "upper": np.minimum(middle + half, 1.0),
                    "n": n.astype(int),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs = {"ece": ece, "confidence": confidence}
    return frame


def plot_calibration(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    n_bins: int = 10,
    confidence: float = 0.95,
    offset: Any = None,
    data: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw observed shares of the classes against predicted probabilities.

    Points on the diagonal are calibrated. Whiskers are Wilson's intervals of the shares; the
    numbers below them, where there is one curve, those of the rows in the bins. The legend gives
    the expected calibration error of each class.

    Parameters
    ----------
    model, X, y, n_bins, confidence, offset, data
        As in :func:`calibration_frame`.
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
    frame = calibration_frame(
        model, X, y, n_bins=n_bins, confidence=confidence, offset=offset, data=data
    )
    groups = list(frame.groupby("class", sort=False))
    single = len(groups) == 1
    with page(ax, height=3.2) as ax:
        ax.plot([0.0, 1.0], [0.0, 1.0], color="0.6", linewidth=0.8, zorder=1.0)
        handles = []
        for c, (label, part) in enumerate(groups):
            style = look(c + int(single))
            x, observed = part["predicted"].to_numpy(), part["observed"].to_numpy()
            ax.vlines(
                x,
                part["lower"],
                part["upper"],
                color=style.color,
                linewidth=0.8,
                alpha=0.7,
                zorder=2.0,
            )
            ax.plot(
                x,
                observed,
                color=style.color,
                linewidth=1.0,
                linestyle=(0, style.dashes),
                marker=style.marker,
                markersize=4.0,
                markeredgecolor="white",
                markeredgewidth=0.4,
                zorder=3.0,
            )
            ece = f"{label} (ECE {frame.attrs['ece'][label]:.3f})"
            handles.append(handle(ece, style, marker=True, width=1.0))
        _counts(ax, frame, single)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.06 if single else -0.02, 1.02)
        ax.set_aspect("equal")
        ax.set_xlabel("predicted probability")
        ax.set_ylabel(f"observed share ({100 * confidence:.4g}% interval)")
        legend_above(ax, handles, columns=2)
    return ax


def _counts(ax: Axes, frame: pd.DataFrame, single: bool) -> None:
    """Numbers of rows of the bins below their points, where there is one curve."""
    if not single:
        return
    for x, lower, n in zip(frame["predicted"], frame["lower"], frame["n"], strict=True):
        ax.annotate(
            f"{n}",
            (x, lower),
            xytext=(0.0, -2.0),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=5.5,
            color="0.35",
        )


def decision_regions_frame(
    model: Any,
    X: Any = None,
    *,
    features: Sequence[Any] = (0, 1),
    at: Mapping[str, Any] | None = None,
    n_grid: int = 150,
    offset: Any = None,
    data: Any = None,
) -> pd.DataFrame:
    """Predicted classes and the most probable expert on a grid of two variables.

    Parameters
    ----------
    model : MoEClassifier or MoEResults
        Fitted model.
    X : array-like or DataFrame of shape (n, n_features), optional
        Rows that give the ranges; needed with an estimator.
    features : pair of str or int, default=(0, 1)
        The two variables, by name or (of arrays) position; both numeric. With results a position
        is that among the numeric variables of the model.
    at : mapping of str to value, optional
        Values of the other variables, by default typical ones, as in :func:`fit_frame`.
    n_grid : int, default=150
        Points along each variable.
    offset : array-like of shape (n,), optional
        Offset of the rows, held at its median.
    data : DataFrame, optional
        With results, rows in place of those of the fit.

    Returns
    -------
    DataFrame of shape (n_grid ** 2, 5)
        ``x``, ``y``, ``predicted`` (label), ``probability`` (of that class) and ``expert`` (number
        of the expert of the largest mixing weight). ``attrs`` holds ``features``, ``held`` and
        ``weights`` (n_grid ** 2, K).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used, or the model is no classifier; the message names it.
    """
    _classifying(model)
    src = source(model, X, data=data, offset=offset)
    return _regions(src, features, at, n_grid)


def _regions(
    src: Source, features: Sequence[Any], at: Mapping[str, Any] | None, n_grid: int
) -> pd.DataFrame:
    import pandas as pd

    names = _two(src, features)
    held = {name: value for name, value in src.held(names[0], at).items() if name != names[1]}
    axes = []
    for name in names:
        column = src.data[name].to_numpy(dtype=float)
        margin = 0.05 * (column.max() - column.min())
        axes.append(np.linspace(column.min() - margin, column.max() + margin, int(n_grid)))
    first, second = (grid.ravel() for grid in np.meshgrid(*axes))
    m = len(first)
    columns: dict[str, Any] = {}
    for name in src.data.columns:
        given = {names[0]: first, names[1]: second}.get(name)
        dtype = None if src.is_numeric(name) else src.data[name].dtype
        columns[name] = pd.Series(
            [held.get(name, 0.0)] * m if given is None else given, dtype=dtype
        )
    grid, est = pd.DataFrame(columns), src.estimator
    offset = None if src.offset is None else np.full(m, np.median(src.offset))
    if src.results is not None:
        rows = src.results.design(grid, offset=None if src.results.spec.offset else offset)
        rows_X, offset = rows.X, rows.offset
    else:
        rows_X = grid if hasattr(est, "feature_names_in_") else grid.to_numpy()
    proba, weight = est.predict_proba(rows_X, offset=offset), est.gate_proba(rows_X)
    frame = pd.DataFrame(
        {
            "x": first,
            "y": second,
            "predicted": est.classes_[proba.argmax(axis=1)],
            "probability": proba.max(axis=1),
            "expert": weight.argmax(axis=1) + 1,
        }
    )
    frame.attrs = {"features": names, "held": held, "weights": weight}
    return frame


def plot_decision_regions(
    model: Any,
    X: Any = None,
    y: Any = None,
    *,
    features: Sequence[Any] = (0, 1),
    at: Mapping[str, Any] | None = None,
    n_grid: int = 150,
    offset: Any = None,
    data: Any = None,
    max_points: int = 2000,
    ax: Axes | None = None,
) -> Axes:
    """Draw the predicted class over two variables, the data, and where the gate changes.

    A region has the colour of its class, fainter where the class is less probable. Points have
    the colour and the marker of their true class; a ring marks those predicted wrongly (each at
    its own values of all variables). Dashed lines are where two experts have the same mixing
    weight, larger than those of the others.

    Parameters
    ----------
    model : MoEClassifier or MoEResults
        Fitted model.
    X, y : array-like of shape (n, n_features) and (n,), optional
        Rows and labels to draw; needed with an estimator.
    features, at, n_grid, offset, data
        As in :func:`decision_regions_frame`.
    max_points : int, default=2000
        Of more rows a random part of this size is drawn.
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
    _classifying(model)
    src = source(model, X, y, data=data, offset=offset, response=True)
    frame = _regions(src, features, at, n_grid)
    names, est = frame.attrs["features"], src.estimator
    shape = (int(n_grid), int(n_grid))
    x, z = (frame[name].to_numpy().reshape(shape) for name in ("x", "y"))
    with page(ax, height=3.2) as ax:
        ax.pcolormesh(x, z, _shades(frame, est.classes_).reshape(*shape, 3), rasterized=True)
        boundary = _gate_lines(ax, x, z, frame.attrs["weights"])
        handles: list[Any] = _points(ax, src, names, max_points)
        if boundary:
            handles.append(handle("gate", Look("black", (4.0, 2.0), "none"), width=1.0))
        ax.set_xlim(x.min(), x.max())
        ax.set_ylim(z.min(), z.max())
        note = held_note(frame.attrs["held"])
        ax.set_xlabel(text(names[0]) + (f"\n{text(note)}" if note else ""))
        ax.set_ylabel(text(names[1]))
        legend_above(ax, handles)
    return ax


def _shades(frame: pd.DataFrame, classes: Array) -> Array:
    """Colours of the predicted classes, mixed with white by how improbable they are."""
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(look(c).color) for c in range(len(classes))])
    code = np.argmax(frame["predicted"].to_numpy()[:, None] == classes, axis=1)
    least = 1.0 / len(classes)
    certain = (frame["probability"].to_numpy() - least) / (1.0 - least)
    strength = (0.08 + 0.37 * np.clip(certain, 0.0, 1.0))[:, None]
    shades: Array = strength * palette[code] + (1.0 - strength)
    return shades


def _gate_lines(ax: Axes, x: Array, z: Array, weight: Array) -> bool:
    """Lines where the largest mixing weight passes from one expert to another."""
    drawn = False
    for k in range(weight.shape[1] - 1):
        rest = np.delete(weight, k, axis=1).max(axis=1)
        ahead = np.log(np.maximum(weight[:, k], 1e-300)) - np.log(np.maximum(rest, 1e-300))
        if ahead.min() < 0.0 < ahead.max():
            ax.contour(
                x,
                z,
                ahead.reshape(x.shape),
                levels=[0.0],
                colors="black",
                linewidths=1.0,
                linestyles=[(0, (4.0, 2.0))],
                zorder=2.0,
            )
            drawn = True
    return drawn


def _points(ax: Axes, src: Source, names: Sequence[str], most: int) -> list[Any]:
    """The rows by class; those predicted wrongly with a ring. Entries of the legend."""
    est, truth = src.estimator, np.asarray(src.y)
    wrong = est.predict(src.X, offset=src.offset) != truth
    rows = np.arange(len(truth))
    if len(rows) > most:
        rows = np.random.default_rng(0).choice(rows, size=int(most), replace=False)
    x, z = (src.data[name].to_numpy(dtype=float)[rows] for name in names)
    size = float(np.clip(12.0 * (150.0 / len(rows)) ** 0.4, 3.0, 12.0))
    handles = []
    for c, label in enumerate(est.classes_):
        style, own = look(c), truth[rows] == label
        for mask, edge, width in (
            (own & ~wrong[rows], "white", 0.3),
            (own & wrong[rows], "k", 0.7),
        ):
            ax.scatter(
                x[mask],
                z[mask],
                s=size,
                marker=style.marker,
                facecolors=style.color,
                edgecolors=edge,
                linewidths=width,
                rasterized=len(rows) > 5000,
                zorder=3.0,
            )
        handles.append(dot(str(label), style))
    return handles


def _two(src: Source, features: Sequence[Any]) -> tuple[str, str]:
    if isinstance(features, str) or len(features) != 2:
        raise ValueError(f"features must be a pair of variables, got {features!r}")
    if src.results is None:
        first, second = (src.feature(feature) for feature in features)
    else:
        numeric = src.numeric(src.variables)
        chosen = []
        for feature in features:
            place = isinstance(feature, int | np.integer) and not isinstance(feature, bool)
            if place and not 0 <= feature < len(numeric):
                raise ValueError(
                    f"features asks for numeric variable {feature}, but the model has "
                    f"{listing(numeric)}"
                )
            chosen.append(src.feature(numeric[feature] if place else feature))
        first, second = chosen
    for name in (first, second):
        if not src.is_numeric(name):
            raise ValueError(f"features names {name!r}, which is not numeric; choose another")
    if first == second:
        raise ValueError(f"features names {first!r} twice; give two different variables")
    return first, second


def _classifying(model: Any) -> None:
    """Refuse what is no classifier."""
    estimator = fitted(model)
    if not hasattr(estimator, "classes_"):
        raise TypeError(
            f"model must be a fitted MoEClassifier or its results, got one of "
            f"{type(estimator).__name__}; use plot_fit for numbers"
        )
