"""Tables of how a fit came about: passes, starts, numbers of experts; without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts.plots._source import fitted, listing

if TYPE_CHECKING:
    import pandas as pd

#: Statuses of a solution whose likelihood may be compared with others.
SOUND = ("converged", "max_iter")


def history_frame(model: Any) -> pd.DataFrame:
    """Log-likelihood of the best start after each accepted pass.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.

    Returns
    -------
    DataFrame
        One row per accepted pass: ``pass`` (from 1), ``objective`` (log-likelihood, less
        penalties if there are any) and ``distance``, how far it is below the final value.

    Raises
    ------
    TypeError
        If the model is neither an estimator nor results.
    """
    import pandas as pd

    values = np.asarray(fitted(model).history_, dtype=float)
    return pd.DataFrame(
        {
            "pass": np.arange(1, len(values) + 1),
            "objective": values,
            "distance": values[-1] - values,
        }
    )


def restarts_frame(model: Any) -> pd.DataFrame:
    """Solutions of all starts, highest log-likelihood first.

    Parameters
    ----------
    model : MoERegressor or MoEResults
        Fitted model.

    Returns
    -------
    DataFrame
        One row per start that ran on all rows: ``rank`` (from 1), ``start``, ``init``,
        ``log_likelihood``, ``status``, ``degenerate`` (whether the solution is degenerate or
        failed otherwise, and thus never preferred) and ``reached_best``.

    Raises
    ------
    TypeError
        If the model is neither an estimator nor results.
    """
    table = fitted(model).restarts_
    columns = ["init", "log_likelihood", "status", "reached_best"]
    frame: pd.DataFrame = table[columns].rename_axis("start").reset_index()
    frame = frame[frame["status"] != "screened"]  # no log-likelihood on all rows
    frame["degenerate"] = ~frame["status"].isin(SOUND)
    frame = frame.sort_values("log_likelihood", ascending=False, kind="stable", ignore_index=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame


def selection_frame(
    selection: Any, *, criteria: Sequence[str] = ("aic", "bic", "icl")
) -> pd.DataFrame:
    """Criteria against the number of experts, one row for each pair.

    Parameters
    ----------
    selection : Selection, MoEResults or DataFrame
        With several numbers of experts; a DataFrame is indexed by them.
    criteria : sequence of str, default=("aic", "bic", "icl")
        Columns of the table.

    Returns
    -------
    DataFrame
        ``criterion``, ``n_experts``, ``value``, ``degenerate``, ``best`` (lowest value among
        the fits that are not degenerate, or among all if all are).

    Raises
    ------
    ValueError, TypeError
        If there is no table, or a criterion is not in it.
    """
    import pandas as pd

    table = selection
    if hasattr(selection, "spec"):
        table = selection.selection
        if table is None:
            raise ValueError(
                "these results are of one number of experts; fit several to compare, for "
                "instance moe(..., n_experts=range(1, 6))"
            )
    table = getattr(table, "table", table)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            "selection must be a Selection, MoEResults or a DataFrame indexed by the number of "
            f"experts, got {type(selection).__name__}"
        )
    criteria = [criteria] if isinstance(criteria, str) else list(criteria)
    for name in criteria:
        if name not in table.columns:
            raise ValueError(
                f"criterion {name!r} is not in the table; its columns: {listing(table.columns)}"
            )
    if not criteria:
        raise ValueError("criteria is empty; name at least one column of the table")
    degenerate = np.zeros(len(table), dtype=bool)
    if "status" in table.columns:
        degenerate = ~table["status"].isin(SOUND).to_numpy()
    parts = []
    for name in criteria:
        value = table[name].to_numpy(dtype=float)
        allowed = np.where(degenerate & ~degenerate.all(), np.inf, value)
        part = {"criterion": name, "n_experts": table.index, "value": value}
        best = np.arange(len(table)) == np.nanargmin(allowed)
        parts.append(pd.DataFrame({**part, "degenerate": degenerate, "best": best}))
    return pd.concat(parts, ignore_index=True)
