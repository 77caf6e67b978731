"""Tables behind the figures of penalised fits; without matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts.plots._source import listing
from mixexperts.plots.records import SOUND

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ["room", "expert", "class", "term"]
_CRITERIA = ("aic", "bic", "ebic", "mbic")


def path_frame(
    path: Any, *, n_experts: int | None = None, gate_ratio: float | None = None
) -> pd.DataFrame:
    """Coefficients along a path, zeros too, of the columns that are used somewhere on it.

    Parameters
    ----------
    path : LassoPath, LassoMoERegressorCV or LassoMoEClassifierCV
        A path, or a fitted estimator that chose its penalty.
    n_experts : int, optional
        Of several numbers of experts that one; by default the chosen one, else the first.
    gate_ratio : float, optional
        Of several ratios that one; by default the chosen one, else the first.

    Returns
    -------
    DataFrame
        One row per point and coefficient: ``point``, ``alpha``, ``sound`` (whether the fit of the
        point is), ``room``, ``expert``, ``class``, ``term``, ``coef``. ``attrs["n_experts"]``,
        ``attrs["gate_ratio"]`` and ``attrs["chosen"]`` (point, None without a choice) tell which
        path it is.

    Raises
    ------
    ValueError, TypeError
        If it is no path, or has no such number of experts or ratio.
    """
    import pandas as pd

    frame, table, chosen = _parts(path)
    table = _branch(table, chosen, n_experts, gate_ratio)
    own = frame[frame["point"].isin(table.index)]
    # NaN, which some tools make of None, is no key: it differs from itself.
    labels = [None if pd.isna(label) else label for label in own["class"]]
    rows = list(zip(own["room"], own["expert"], labels, own["term"], strict=True))
    keys = list(dict.fromkeys(rows))
    number = {key: i for i, key in enumerate(keys)}
    values = np.zeros((len(keys), len(table)))
    line = [number[key] for key in rows]
    values[line, table.index.get_indexer(own["point"])] = own["coef"]
    columns: dict[str, Any] = {
        "point": np.tile(table.index, len(keys)),
        "alpha": np.tile(table["alpha"], len(keys)),
        "sound": np.tile(table["status"].isin(SOUND), len(keys)),
    }
    for i, name in enumerate(_KEYS):  # objects: classes may be None
        entries = [key[i] for key in keys for _ in range(len(table))]
        columns[name] = pd.Series(entries, dtype=object)
    result = pd.DataFrame({**columns, "coef": values.ravel()})
    result["expert"] = result["expert"].astype(int)
    result.attrs = {
        "n_experts": int(table["n_experts"].iloc[0]),
        "gate_ratio": float(table["gate_ratio"].iloc[0]),
        "chosen": chosen if chosen in table.index else None,
    }
    return result


def cv_frame(
    model: Any, *, criterion: str | None = None, n_experts: int | None = None
) -> pd.DataFrame:
    """What points of a grid were judged by, against ``alpha``.

    Parameters
    ----------
    model : LassoMoERegressorCV, LassoMoEClassifierCV or LassoPath
        Fitted estimator that chose its penalty, or a path.
    criterion : {"cv", "aic", "bic", "ebic", "mbic"}, optional
        By default what the estimator went by; of a path ``"bic"``.
    n_experts : int, optional
        Of several numbers of experts that one, by default the chosen one.

    Returns
    -------
    DataFrame
        One row per point: ``point``, ``alpha``, ``gate_ratio``, ``value`` (mean held-out
        log-likelihood per unit of weight, higher is better; or the criterion, lower is better),
        ``std_error`` (NaN for criteria), ``n_nonzero``, ``sound``, ``best`` and ``chosen``.
        ``attrs["criterion"]``, ``attrs["n_experts"]``.

    Raises
    ------
    ValueError, TypeError
        If there is no such criterion or number of experts.
    """
    import pandas as pd

    _, table, chosen = _parts(model)
    name = getattr(model, "criterion", "bic") if criterion is None else criterion
    if name not in ("cv", *_CRITERIA) or (name == "cv" and "mean_score" not in table.columns):
        known = ["cv"] * ("mean_score" in table.columns) + list(_CRITERIA)
        raise ValueError(f"criterion={name!r} was not computed; available: {listing(known)}")
    if n_experts is None and chosen is not None:
        n_experts = int(table["n_experts"].loc[chosen])
    table = _narrowed(table, "n_experts", n_experts)
    value = table["mean_score" if name == "cv" else name].to_numpy(dtype=float)
    sound = table["status"].isin(SOUND).to_numpy() & np.isfinite(value)
    loss = np.where(sound | ~sound.any(), -value if name == "cv" else value, np.inf)
    frame = pd.DataFrame(
        {
            "point": table.index,
            "alpha": table["alpha"].to_numpy(),
            "gate_ratio": table["gate_ratio"].to_numpy(),
            "value": np.where(np.isfinite(value), value, np.nan),
            "std_error": table["std_error"].to_numpy() if name == "cv" else np.nan,
            "n_nonzero": table["n_nonzero"].to_numpy(),
            "sound": sound,
            "best": np.arange(len(table)) == int(np.argmin(loss)),
            "chosen": table.index == (-1 if chosen is None else chosen),
        }
    )
    frame.attrs = {"criterion": name, "n_experts": int(table["n_experts"].iloc[0])}
    return frame


def _parts(path: Any) -> tuple[Any, Any, int | None]:
    """Coefficients, table of points, and the chosen point."""
    if hasattr(path, "cv_results_"):
        return path.path_, path.cv_results_, int(path.best_index_)
    if hasattr(path, "frame") and hasattr(path, "table") and hasattr(path, "estimator"):
        return path.frame, path.table, None
    if hasattr(path, "gate_ratio") and hasattr(path, "fit"):
        raise TypeError(f"this {type(path).__name__} is not fitted; fit it first")
    raise TypeError(
        "a path or a fitted LassoMoERegressorCV or LassoMoEClassifierCV is needed, got "
        f"{type(path).__name__}; est.path(X, y) gives a path"
    )


def _branch(table: Any, chosen: int | None, n_experts: Any, gate_ratio: Any) -> Any:
    """Points of one number of experts and one ratio."""
    if chosen is not None:
        n_experts = table["n_experts"].loc[chosen] if n_experts is None else n_experts
        same = table["n_experts"].loc[chosen] == n_experts
        gate_ratio = table["gate_ratio"].loc[chosen] if gate_ratio is None and same else gate_ratio
    return _narrowed(_narrowed(table, "n_experts", n_experts), "gate_ratio", gate_ratio)


def _narrowed(table: Any, name: str, value: Any) -> Any:
    known = list(dict.fromkeys(table[name].tolist()))
    value = known[0] if value is None else value
    if value not in known:
        raise ValueError(f"{name}={value!r} is not on the path; known: {listing(known)}")
    return table[table[name] == value]
