"""Tables of penalised fits: starts, coefficients that are not zero, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse import SparseFit

if TYPE_CHECKING:
    import pandas as pd

# Starts whose objectives differ by less have reached the same optimum.
_SAME_OPTIMUM = 1e-3
_WIDTH = 78


def restart_table(fits: Sequence[SparseFit], log_jacobian: float, unit: float) -> pd.DataFrame:
    """One row per start, on the scale of the response as given."""
    import pandas as pd

    best = max(
        (fit.objective for fit in fits if fit.sound and fit.status != "screened"),
        default=-np.inf,
    )
    rows = []
    for fit in fits:
        scale = fit.params.shapes.get("scale")
        rows.append(
            {
                "init": fit.kind,
                "log_likelihood": fit.log_likelihood + log_jacobian,
                "objective": fit.objective + log_jacobian,
                "status": fit.status,
                "n_iter": fit.n_iter,
                "min_share": float(fit.mass.min(initial=np.inf) / fit.mass.sum()),
                "min_scale": float("nan") if scale is None else float(scale.min() * unit),
                "flag": "; ".join(fit.flags),
                "reached_best": fit.sound and fit.objective >= best - _SAME_OPTIMUM,
            }
        )
    table = pd.DataFrame(rows)
    table.index.name = "start"
    return table


def coefficient_table(est: Any) -> pd.DataFrame:
    """Coefficients that are not zero, one per row; see ``coefficients``."""
    import pandas as pd

    classes = list(est.classes_) if np.ndim(est.coef_) == 3 else [None]
    coef = est.coef_ if np.ndim(est.coef_) == 3 else est.coef_[:, None, :]
    rooms = (("expert", coef, classes, est.expert_terms_), ("gate", est.gate_coef_[:, None, :],
             [None], est.gate_terms_))  # fmt: skip
    parts = []
    for room, values, own, terms in rooms:
        k, c, j = np.nonzero(values)
        parts.append(
            pd.DataFrame(
                {
                    "room": room,
                    "expert": k + 1,
                    "class": np.array([own[i] for i in c], dtype=object),
                    "term": np.array([terms[i] for i in j], dtype=object),
                    "coef": values[k, c, j],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def summary(est: Any) -> Any:
    """Tables of a penalised fit, rendered by statsmodels; see ``summary``."""
    from statsmodels.iolib.summary import Summary

    from mixexperts._summary import grids

    text = Summary()
    text.tables.append(_header(est))
    for title, table in _rooms(est):
        text.tables += grids(title, table, _WIDTH)
    text.add_extra_txt([f"[{i}] {note}" for i, note in enumerate(_notes(est), start=1)])
    return text


def _rooms(est: Any) -> list[tuple[str, pd.DataFrame]]:
    import pandas as pd

    numbers = range(1, len(est.mass_) + 1)

    def frame(rows: dict[str, Array]) -> pd.DataFrame:
        return pd.DataFrame(rows, index=numbers).T

    def used(coef: Array, terms: tuple[str, ...]) -> dict[str, Array]:
        shown = np.where(coef == 0.0, np.nan, coef)
        return {terms[j]: shown[:, j] for j in np.flatnonzero(coef.any(axis=0))}

    experts: dict[str, Array] = {}
    if np.ndim(est.coef_) == 3:
        for c, name in enumerate(est.classes_):
            own = {"Intercept": est.intercept_[:, c], **used(est.coef_[:, c], est.expert_terms_)}
            experts |= {f"{name}: {term}": values for term, values in own.items()}
    else:
        experts = {"Intercept": est.intercept_, **used(est.coef_, est.expert_terms_)}
    raw = est.frame_.raw(est.model_, est.theta_)
    shapes = [n for n in raw if n not in ("intercept", "coef") and not n.startswith("gate_")]
    experts |= {f"({name})": np.asarray(raw[name]) for name in shapes}
    experts["(share)"] = est.mass_ / est.mass_.sum()
    tables = [("Experts", frame(experts))]
    if len(est.mass_) > 1:
        gate = {"Intercept": est.gate_intercept_, **used(est.gate_coef_, est.gate_terms_)}
        tables.append(("Gate: logits", frame(gate)))
    return tables


def _header(est: Any) -> Any:
    from statsmodels.iolib.table import SimpleTable

    from mixexperts._summary import text_format

    terms = len(est.expert_terms_), len(est.gate_terms_)
    rows = [
        ["Experts:", f"{len(est.mass_)} x {est.model_.expert.name}",
         "Log-likelihood:", f"{est.log_likelihood_:.4f}"],
        ["Penalty:", est.penalty, "Penalised:", f"{est.objective_:.4f}"],
        ["alpha, gate_alpha:", f"{est.alpha:.4g}, {est.gate_alpha:.4g}",
         "Degrees of freedom:", f"{est.df_}"],
        ["Columns:", f"{terms[0]} experts, {terms[1]} gate", "Slopes not zero:",
         f"{est.n_nonzero_}"],
        ["No. observations:", f"{est.weight_sum_:.6g}", "Status:", est.status_],
    ]  # fmt: skip
    widths = [18, _WIDTH - 18 - 23 - 14 - 3, 23, 14]
    for row in rows:
        row[2] = "    " + row[2]
    return SimpleTable(
        rows,
        title=f"Penalised mixture of experts: {type(est).__name__}",
        txt_fmt=text_format(widths, "lrlr", header=False),
    )


def _notes(est: Any) -> list[str]:
    notes = [
        "Coefficients that are not shown are zero. There are no standard errors: the penalty "
        "shrinks the coefficients, and the data chose which are there.",
    ]
    if est.relax:
        notes.append(
            "Coefficients are those of maximum likelihood over the ones that the penalised fit "
            "left; they do not know that the data chose them."
        )
    reached, total = int(est.restarts_["reached_best"].sum()), len(est.restarts_)
    notes.append(f"The best sound objective was reached by {reached} of {total} starts.")
    if not est.converged_:
        notes.append(f"The fit did not converge (status: {est.status_}).")
    if est.flags_:
        notes.append("Degenerate: " + "; ".join(est.flags_) + ".")
    return notes
