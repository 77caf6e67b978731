"""Labels and tables of results: of one response in `results`, of several here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._batch import Array

if TYPE_CHECKING:
    import pandas as pd


def own_label(name: str, terms: tuple[str, ...]) -> str:
    """Label of a parameter that is no coefficient; in brackets where a column has its name."""
    return f"({name})" if name in terms else name


def union_design(built: Any, index: pd.Index) -> pd.DataFrame:
    """Columns of experts and gate side by side, a column that both use only once."""
    import pandas as pd

    columns: dict[str, Array] = dict(zip(built.x_names, np.asarray(built.X, float).T, strict=True))
    columns |= dict(zip(built.z_names, np.asarray(built.Z, float).T, strict=True))
    # An estimator wants at least one column, be it one that neither room looks at.
    return pd.DataFrame(columns or {"(none)": np.ones(len(index))}, index=index)


def several_table(est: Any, responses: tuple[str, ...], experts: pd.Index) -> pd.DataFrame:
    """Expert parameters of several responses: ``y1: x``, ``var(y1)``, ``cov(y1, y2)``."""
    import pandas as pd

    rows: dict[str, Array] = {}
    terms = est.expert_terms_
    for j, response in enumerate(responses):
        if est.frame_.expert_map.intercept:
            rows[f"{response}: {own_label('Intercept', terms)}"] = est.intercept_[:, j]
        for t, term in enumerate(terms):
            rows[f"{response}: {term}"] = est.coef_[:, j, t]
    frame, family = est.frame_, est.model_.expert
    raw = family.raw(est.theta_.expert, frame.expert_map, frame.loc, frame.scale)
    for (name, *of), values in family.table_rows(raw, responses).items():
        rows[f"{name}({', '.join(of)})"] = values
    return pd.DataFrame.from_dict(rows, orient="index", columns=experts)


def several_means(values: Array, index: pd.Index, responses: tuple[str, ...]) -> pd.DataFrame:
    """Means (n, d) by response, or (n, K, d) by expert and response."""
    import pandas as pd

    if values.ndim == 2:
        columns = pd.Index(list(responses), name="response")
        return pd.DataFrame(values, index=index, columns=columns)
    experts = range(1, values.shape[1] + 1)
    pairs = pd.MultiIndex.from_product([experts, list(responses)], names=["expert", "response"])
    return pd.DataFrame(values.reshape(len(values), -1), index=index, columns=pairs)
