"""Summary tables, rendered by statsmodels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from mixexperts.results import MoEResults

_PER_TABLE = 6


def summary(results: MoEResults) -> Any:
    """Summary of a fitted mixture of experts; see :meth:`MoEResults.summary`."""
    from statsmodels.iolib.summary import Summary

    text = Summary()
    text.tables.append(_header(results))
    text.tables += _grids("Experts", _with_share(results))
    if results.n_experts > 1:
        est = results.estimator
        name = est.model_.gate.name
        title = f"Gate ({name}): log odds against expert {results.n_experts}"
        text.tables += _grids(title, results.gate_table.iloc[:, :-1])
    text.add_extra_txt([f"[{i}] {note}" for i, note in enumerate(results.notes(), start=1)])
    return text


def _header(results: MoEResults) -> Any:
    from statsmodels.iolib.table import SimpleTable
    from statsmodels.iolib.tableformatting import fmt_2cols

    est = results.estimator
    nobs = results.nobs
    left = [
        ("Dep. variable:", results.spec.y_name),
        ("Experts:", f"{results.n_experts} x {est.model_.expert.name}"),
        ("Gate:", est.model_.gate.name),
        ("No. observations:", f"{nobs:.0f}" if nobs == round(nobs) else f"{nobs:.6g}"),
        ("Free parameters:", f"{results.df_model}"),
        ("Date:", time.strftime("%a, %d %b %Y")),
    ]
    right = [
        ("Log-likelihood:", f"{results.llf:.4f}"),
        ("AIC:", f"{results.aic:.4f}"),
        ("BIC:", f"{results.bic:.4f}"),
        ("ICL:", f"{results.icl:.4f}"),
        ("Status:", est.status_),
        ("Passes:", f"{est.n_iter_}"),
    ]
    rows = [
        [a, b, f"  {c}", d] for (a, b), (c, d) in zip(left, right, strict=True)
    ]
    data = [row[1:] for row in rows]
    title = f"Mixture-of-experts regression: {results.formula}"
    return SimpleTable(
        data, headers=None, stubs=[row[0] for row in rows], title=title, txt_fmt=fmt_2cols
    )


def _with_share(results: MoEResults) -> pd.DataFrame:
    table = results.expert_table
    mass = results.estimator.mass_
    table.loc["share"] = mass / mass.sum()
    return table


def _grids(title: str, table: pd.DataFrame) -> list[Any]:
    """Terms by experts, at most a few experts side by side."""
    from statsmodels.iolib.table import SimpleTable
    from statsmodels.iolib.tableformatting import fmt_params

    grids = []
    for first in range(0, table.shape[1], _PER_TABLE):
        part = table.iloc[:, first : first + _PER_TABLE]
        grids.append(
            SimpleTable(
                [[_number(value) for value in row] for row in part.to_numpy()],
                headers=[f"expert {number}" for number in part.columns],
                stubs=[str(term) for term in part.index],
                title=title if first == 0 else None,
                txt_fmt=fmt_params,
            )
        )
    return grids


def _number(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"
