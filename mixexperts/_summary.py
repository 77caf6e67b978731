"""Summary tables, rendered by statsmodels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from mixexperts.results import MoEResults

_PER_TABLE = 5
_WIDTH = 78
_COLUMN = 12
_FEW_ROWS = 6
_TIGHT = 0.1


def summary(results: MoEResults, escape: Callable[[str], str] = str) -> Any:
    """Summary of a fitted mixture of experts; see :meth:`MoEResults.summary`.

    ``escape`` makes names that the user chose safe for the markup they go into.
    """
    from statsmodels.iolib.summary import Summary

    class Tables(Summary):  # type: ignore[misc]
        def as_latex(self, label: str = "") -> str:
            """The tables one after the other; statsmodels' own merge wants equal widths."""
            return "\n".join(table.as_latex_tabular() for table in self.tables)

    tables = [("Experts", _with_share(results))]
    est = results.estimator
    name = est.model_.gate.name
    if est.frame_.gate_is_joint:
        title = f"Gate ({name}): the features' distribution within each expert"
        tables.append((title, results.gate_table))
    elif results.n_experts > 1:
        table = results.gate_table
        title = f"Gate ({name}): {est.model_.gate.table_title(results.n_experts)}"
        # The last column is left out where it is that of the reference.
        tables.append((title, table.iloc[:, :-1] if (table.iloc[:, -1] == 0.0).all() else table))
    stub = max(len(str(term)) for _, table in tables for term in table.index)
    most = min(max(table.shape[1] for _, table in tables), _PER_TABLE)
    width = max(_WIDTH, stub + most * (_COLUMN + 1))

    text = Tables()
    text.tables.append(_header(results, width, escape))
    for title, table in tables:
        text.tables += grids(title, table.rename(index=escape), width)
    numbered = enumerate(results.notes(), start=1)
    text.add_extra_txt([f"[{i}] {escape(note)}" for i, note in numbered])
    return text


def notes(results: MoEResults) -> list[str]:
    """What a reader of the numbers must know; see :meth:`MoEResults.notes`."""
    est = results.estimator
    reached = int(results.restarts["reached_best"].sum())
    screened = int((results.restarts["status"] == "screened").sum())
    total = len(results.restarts) - screened
    several = est.model_.expert.multivariate
    notes = [
        f"Experts are numbered by the mean fitted {'first ' * several}response of their rows, "
        "lowest first."
    ]
    places = est.model_.expert.interchangeable(results.n_experts)
    if len(set(places)) > 1:
        notes = ["Experts keep the places of their families; like ones are in ascending order."]
    if getattr(est, "has_log_prior_", False):
        notes = ["Experts have the numbers that the evidence about rows gives them."]
    if results.ngroups is not None:
        notes.append(
            f"The rows of each of {results.ngroups:.6g} groups share one expert; shares and the n "
            "of BIC and ICL count groups."
        )
    joint = est.frame_.gate_is_joint
    if joint:
        notes.append(
            "The log-likelihood and the criteria are those of the gate's features and the response "
            "together; compare them with those of other Gaussian gates on the same features only."
        )
    if results.n_experts > 1:
        reference = est.model_.gate.reference(est.frame_.raw(est.model_, est.theta_))
        if reference is not None:
            notes.append(f"The gate's reference is expert {reference}.")
        alone = reached == 1 < total and not screened
        advice = " only; more (n_init) may find a better one" if alone else ""
        notes.append(
            f"The best sound log-likelihood was reached by {reached} of {total} starts{advice}."
        )
    if screened:
        notes.append(
            f"{screened} more starts ran on a sample of the rows only and led to no better optimum "
            "there, or to the same."
        )
    if results.n_dropped:
        notes.append(f"{results.n_dropped} rows with missing values were left out.")
    shares = est.frame_.observed if several else None
    named = [] if shares is None else zip(results.spec.y_names, shares, strict=True)
    lost = [f"{name} ({100.0 * (1.0 - share):.3g}%)" for name, share in named if share < 1.0]
    if lost:
        notes.append(
            f"Some rows lack {', '.join(lost)}: they count by the density of the responses that "
            "they have."
        )
    for part, design in (("experts", est.frame_.expert_map), ("gate", est.frame_.gate_map)):
        if design.dependent and not (part == "gate" and joint):
            notes.append(
                f"The design of the {part} lacks full rank ({', '.join(design.dependent)}): "
                "its coefficients are those of minimum norm."
            )
    if not results.converged:
        notes.append(f"The fit did not converge (status: {est.status_}).")
    notes += _small_and_tight(results)
    if not (est.model_.gate_penalty.is_null and est.model_.expert_penalty.is_null):
        notes.append(
            "The fit is penalised: AIC, BIC and ICL count every coefficient as a free parameter."
        )
    if est.flags_:
        notes.append("Degenerate: " + "; ".join(est.flags_) + ".")
    if est.separated_:
        reason = est.model_.gate.separation_reason
        notes.append(
            f"{reason[0].upper()}{reason[1:]}: the sizes of its coefficients mean nothing."
        )
    separated = np.flatnonzero(getattr(est, "separated_experts_", ()))
    if separated.size:
        listed = ", ".join(str(k + 1) for k in separated)
        notes.append(
            f"Separated: expert {listed} ({est.model_.expert.separation_reason()}); the sizes of "
            "some coefficients have no finite maximum."
        )
    return notes


def _small_and_tight(results: MoEResults) -> list[str]:
    """Experts that look like a spike of the unbounded likelihood rather than a part of the data.

    The ratio of scales is what Hathaway (1985) bounds; here it is only pointed out.
    """
    est = results.estimator
    scale = getattr(est, "scale_", None)
    if scale is None:
        return []
    unit = "rows" if results.ngroups is None else "groups"
    few = est.mass_ < _FEW_ROWS * est.model_.expert.n_params_each(est.theta_.expert)
    largest = np.nanmax(scale, initial=0.0)
    return [
        f"Expert {k + 1} has {scale[k] / largest:.2g} of the largest scale, on only "
        f"{est.mass_[k]:.3g} effective {unit}: it may be a spike on a few rows, and its "
        "log-likelihood should not be trusted to choose a model."
        for k in np.flatnonzero(few & (scale < _TIGHT * largest))
    ]


def _experts(est: Any, n_experts: int) -> str:
    """Number and family of the experts, or the families where each has its own."""
    families = getattr(est.model_.expert, "families", None)
    names = [est.model_.expert.name] if families is None else [f.name for f in families]
    return f"{n_experts} x {names[0]}" if len(set(names)) == 1 else ", ".join(names)


def _header(results: MoEResults, width: int, escape: Callable[[str], str]) -> Any:
    from statsmodels.iolib.table import SimpleTable

    est = results.estimator
    kind = "classification" if hasattr(est, "classes_") else "regression"
    nobs = results.nobs
    rows = [
        ["Dep. variable:", escape(results.spec.y_name), "Log-likelihood:", f"{results.llf:.4f}"],
        [
            "Experts:",
            _experts(est, results.n_experts),
            "AIC:",
            f"{results.aic:.4f}",
        ],
        ["Gate:", est.model_.gate.name, "BIC:", f"{results.bic:.4f}"],
        [
            "No. observations:",
            f"{nobs:.0f}" if nobs == round(nobs) else f"{nobs:.6g}",
            "ICL:",
            f"{results.icl:.4f}",
        ],
        ["Free parameters:", f"{results.df_model}", "Status:", est.status_],
        ["Date:", time.strftime("%a, %d %b %Y"), "Passes:", f"{est.n_iter_}"],
    ]
    widths = [17, width - 17 - 20 - 16 - 3, 20, 16]
    for row in rows:
        row[2] = "    " + row[2]
    return SimpleTable(
        rows,
        title=f"Mixture-of-experts {kind}: {escape(results.formula)}",
        txt_fmt=text_format(widths, "lrlr", header=False),
    )


def _with_share(results: MoEResults) -> pd.DataFrame:
    from mixexperts._result_tables import own_label

    table = results.expert_table
    mass = results.estimator.mass_
    table.loc[own_label("share", results.estimator.expert_terms_)] = mass / mass.sum()
    return table


def grids(title: str, table: pd.DataFrame, width: int) -> list[Any]:
    """Terms by experts, at most a few experts side by side."""
    from statsmodels.iolib.table import SimpleTable

    made = []
    for first in range(0, table.shape[1], _PER_TABLE):
        part = table.iloc[:, first : first + _PER_TABLE]
        count = part.shape[1]
        widths = [width - count * (_COLUMN + 1), *[_COLUMN] * count]
        made.append(
            SimpleTable(
                [[_number(value) for value in row] for row in part.to_numpy()],
                headers=[f"expert {number}" for number in part.columns],
                stubs=[str(term) for term in part.index],
                title=title if first == 0 else None,
                txt_fmt=text_format(widths, "r", header=True),
            )
        )
    return made


def text_format(widths: list[int], aligns: str, *, header: bool) -> dict[str, Any]:
    """Text format of a table with fixed column widths, so that all tables are equally wide."""
    return {
        "data_fmts": ["%s"],
        "empty_cell": "",
        "colwidths": widths,
        "colsep": " ",
        "row_pre": "",
        "row_post": "",
        "table_dec_above": "=",
        "table_dec_below": "=",
        "header_dec_below": "-" if header else None,
        "header_fmt": "%s",
        "stub_fmt": "%s",
        "title_align": "c",
        "header_align": "r",
        "data_aligns": aligns,
        "stubs_align": "l",
        "fmt": "txt",
    }


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"
