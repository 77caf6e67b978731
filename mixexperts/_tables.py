"""Tables that results are read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from mixexperts.results import MoEResults


def free_parameters(results: MoEResults) -> pd.Series:
    """All free parameters by part, expert and term; see :attr:`MoEResults.params`."""
    import pandas as pd

    est = results.estimator
    parts = {"expert": results.expert_table, "gate": results.gate_table}
    raw = est.frame_.raw(est.model_, est.theta_)
    bound = est.model_.gate.bound_rows(raw, est.frame_.gate_map, tuple(parts["gate"].index))
    series = [
        (part, expert, term, table.at[term, expert])
        for part, table in parts.items()
        for expert in table.columns
        for term in table.index[table[expert].notna()]  # else the family has no such parameter
        if part == "expert" or (int(expert), str(term)) not in bound
    ]
    index = pd.MultiIndex.from_tuples([row[:3] for row in series], names=["part", "expert", "term"])
    return pd.Series([row[3] for row in series], index=index, name="params")


def odds_ratios(results: MoEResults) -> pd.DataFrame:
    """Odds ratios of the gate; see :meth:`MoEResults.odds_ratios`."""
    import pandas as pd

    est = results.estimator
    raw = est.frame_.raw(est.model_, est.theta_)
    with np.errstate(over="ignore"):
        ratios = np.exp(est.model_.gate.log_odds(raw))
    columns = pd.RangeIndex(1, results.n_experts, name="expert")
    return pd.DataFrame(ratios[:-1].T, index=list(est.gate_terms_), columns=columns)
