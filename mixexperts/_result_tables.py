"""Labels and tables of results: of one response in `results`, of several here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixexperts._batch import Array

if TYPE_CHECKING:
    import pandas as pd


def own_label(name: str, terms: tuple[str, ...]) -> str:
    """Label of a parameter that is no coefficient; in brackets where a column has its name."""
    return f"({name})" if name in terms else name


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


def named(values: Array, index: pd.Index, responses: tuple[str, ...]) -> pd.DataFrame:
    """Values (n, K) by expert, or (n, K, d) by expert and response."""
    import pandas as pd

    experts: pd.Index = pd.RangeIndex(1, values.shape[1] + 1, name="expert")
    if values.ndim == 3:
        pairs = [(k, name) for k in experts for name in responses]
        experts = pd.MultiIndex.from_tuples(pairs, names=["expert", "response"])
    return pd.DataFrame(values.reshape(len(values), -1), index=index, columns=experts)


def named_means(mean: Array, index: pd.Index, responses: tuple[str, ...]) -> Any:
    """Means (n,) as a Series, of several responses (n, d) as a DataFrame."""
    import pandas as pd

    if mean.ndim == 2:
        return pd.DataFrame(mean, index, pd.Index(list(responses), name="response"))
    return pd.Series(mean, index=index, name=" + ".join(responses))
