"""``moe``: from a formula and a data frame to results."""

from __future__ import annotations

import numbers
from typing import Any, Literal

import numpy as np
import pandas as pd

from mixexperts._class_results import LabelColumn, MoEClassResults
from mixexperts._registry import all_components, resolve
from mixexperts._rows import union_design
from mixexperts.estimators import MoEClassifier, MoERegressor
from mixexperts.experts.base import Expert
from mixexperts.formula import FormulaSpec
from mixexperts.gates.base import Gate
from mixexperts.gates.softmax import Constant, Softmax
from mixexperts.inference.selection import CRITERIA, experts_range, select
from mixexperts.results import MoEResults


def moe(
    formula: str,
    data: Any,
    n_experts: Any = None,
    *,
    gate: str | None = None,
    gate_family: Any = None,
    family: Any = "gaussian",
    weights: Any = None,
    offset: Any = None,
    groups: Any = None,
    log_prior: Any = None,
    partial_labels: Any = None,
    missing: Literal["drop", "raise", "none"] = "drop",
    criterion: str = "bic",
    random_state: Any = 0,
    env: dict[str, Any] | None = None,
    **options: Any,
) -> MoEResults:
    """Fit a mixture of experts described by a formula.

    Parameters
    ----------
    formula : str
        ``"y ~ x + C(g) | z"``: terms of the experts, a bar, terms of the gate. Without a bar
        and without ``gate`` the mixing weights are constant. Transformations, interactions,
        ``C()``, ``poly``, ``bs``, ``cr``, ``.`` and ``- 1`` work as in formulaic. Binomial counts
        have two columns on the left, ``"successes + failures ~ x"``; of Gaussian experts the
        columns on the left are several responses, ``"y1 + y2 ~ x"``.
    data : DataFrame or dict of arrays
        One row per observation.
    n_experts : int or iterable of int, optional
        Number of experts, by default 2, or as many as a list of families has. With several
        numbers, all are fitted (each also started from the fit with fewer experts) and the best
        by ``criterion`` is returned with the table.
    gate : str, optional
        Terms of the gate, ``"~ z"``, instead of the bar.
    gate_family : str or Gate, optional
        Kind of gate: ``"softmax"`` (the default where the gate has terms), ``"gaussian"``, which
        models the distribution of the gate's terms, or ``"constant"`` (without terms).
    family : str or Expert, default="gaussian"
        Family of the experts: ``"gaussian"``, ``"poisson"``, ``"binomial"``, ``"multinomial"`` and
        ``"ordinal"`` (classes; a response of text, numbers or categories), or an instance from
        :mod:`mixexperts.experts`.
    weights, offset : str or array-like of shape (n,), optional
        Case weights >= 0, and the known part of every expert's linear predictor (in units of
        the response; for counts the log of the exposure): name of a column, or one number per
        row of ``data``.
    groups : str or array-like of shape (n,), optional
        Subjects that were measured repeatedly: the rows of a group share one expert. Name of a
        column, or labels. The gate's terms and the weights must be constant in a group.
    log_prior : array-like of shape (n, n_experts), optional
        Log evidence about the expert of each row, added to the log of the mixing weight.
    partial_labels : str or array-like of shape (n,), optional
        Known experts, 0 to K - 1, and -1 or a missing value where the expert is not known: name
        of a column, or values. With either, experts keep their numbers.
    missing : {"drop", "raise", "none"}, default="drop"
        What to do with rows that lack a value in any variable used, as in statsmodels. Of
        several responses ``"drop"`` leaves out rows that lack all; the others count by the
        responses that they have.
    criterion : {"bic", "aic", "icl"}, default="bic"
        What chooses the number of experts.
    random_state : int, RandomState instance or None, default=0
        Seed of the starts; the same call gives the same fit.
    env : dict, optional
        Functions and values that the formula may use, beside columns and ``np``.
    **options
        Further parameters of :class:`mixexperts.MoERegressor`, such as ``n_init``, ``n_jobs``,
        ``verbose``, ``max_iter``, ``init`` and ``checkpoint``.

    Returns
    -------
    MoEResults

    Raises
    ------
    ValueError, TypeError
        If an argument, the formula or the data cannot be used; the message names it.

    Examples
    --------
    >>> import mixexperts as mx
    >>> df = mx.datasets.load_tonedata()
    >>> res = mx.moe("tuned ~ stretchratio | stretchratio", data=df, n_experts=2)
    >>> round(res.llf, 3)
    142.848
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} is not known; known: {', '.join(CRITERIA)}")
    _check_options(options)
    if gate in all_components("gate") and gate not in data:
        raise ValueError(
            f"gate={gate!r}: here gate holds terms, such as '~ z'; the kind of gate is named by "
            f"gate_family={gate!r} (softmax if not given; without terms the weights are constant)"
        )
    frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame(data)
    by_classes = resolve("expert", family, "family").takes_classes == "many"
    response = LabelColumn.of(formula, frame) if by_classes else None
    several: Expert = resolve("expert", family, "family").for_response(2)
    spec, built = FormulaSpec.fit(
        formula,
        data if response is None else response.coded(frame),
        gate,
        missing=missing,
        weights=weights,
        offset=offset,
        groups=groups,
        env=env,
        partial=several.allows_missing,
        infinite_response=several.infinite_response,
    )
    expert = _expert(family, spec)
    n_columns = 1 if built.y is None or built.y.ndim == 1 else built.y.shape[1]
    if not expert.for_response(n_columns).takes_columns(n_columns):
        words = {1: "one column", 2: "two columns"}.get(n_columns, f"{n_columns} columns")
        raise ValueError(
            f"the response of {formula!r} has {words}, {spec.y_name}; {expert.name} experts "
            + (
                f"take one: give one, such as I({spec.y_name}) for their sum, or "
                "family='binomial' for successes and failures"
                if expert.response_columns == (1,) and not expert.multivariate
                else "take another number; join the names of their columns by +"
            )
        )
    y = built.y if response is None else response.labels(built.y)
    X = union_design(built, frame.index[built.rows])
    estimator = (MoEClassifier if by_classes else MoERegressor)(
        gate=_gate(gate_family, spec),
        expert=expert,
        gate_features=list(spec.z_names),
        expert_features=list(spec.x_names),
        random_state=random_state,
        **options,
    )
    fit_data: dict[str, Any] = {
        "sample_weight": built.extra.get("weights"),
        "offset": built.extra.get("offset"),
        "groups": built.extra.get("groups"),
    }
    evidence = _evidence(frame, built.rows, log_prior, partial_labels)
    table = None
    if n_experts is None:
        n_experts = len(getattr(expert, "families", (None, None)))
    if isinstance(n_experts, numbers.Integral):
        fit_data |= evidence
        estimator.set_params(n_experts=n_experts).fit(X, y, **fit_data)
    else:
        if evidence:
            raise ValueError(
                f"{' and '.join(evidence)} speaks of experts by number and needs one number of "
                f"experts; got n_experts={n_experts!r}"
            )
        values = experts_range(n_experts)
        selection = select(estimator, X, y, n_experts=values, criterion=criterion, **fit_data)
        estimator, table = selection.best_estimator, selection.table
    criteria = {name: getattr(estimator, name)(X, y, **fit_data) for name in CRITERIA}
    kept = frame.iloc[built.rows] if built.n_dropped else frame
    given_offset = None if spec.offset is not None else built.extra.get("offset")
    more: dict[str, Any] = {"n_dropped": built.n_dropped, "selection": table}
    more |= {"data": kept, "offset": given_offset, "evidence": evidence}
    more["groups"] = groups if isinstance(groups, str) else built.extra.get("groups")
    if by_classes:
        return MoEClassResults(estimator, spec, criteria, response=response, **more)
    return MoEResults(estimator, spec, criteria, **more)


def _evidence(frame: Any, rows: Any, log_prior: Any, partial_labels: Any) -> dict[str, Any]:
    """Evidence about the experts of the rows that are kept."""
    if isinstance(partial_labels, str):
        if partial_labels not in frame.columns:
            raise ValueError(f"partial_labels={partial_labels!r} is not a column of data")
        partial_labels = frame[partial_labels]
    found = {}
    for name, value in (("log_prior", log_prior), ("partial_labels", partial_labels)):
        if value is not None:
            values = np.asarray(value)
            if len(values) != len(frame):
                raise ValueError(f"{name} has {len(values)} rows, but data has {len(frame)}")
            found[name] = values[rows]
    return found


def _check_options(options: dict[str, Any]) -> None:
    taken = {"gate", "expert", "gate_features", "expert_features", "n_experts", "random_state"}
    known = set(MoERegressor().get_params(deep=False)) - taken
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"moe got unknown arguments {', '.join(map(repr, unknown))}; beside its own it takes "
            + ", ".join(sorted(known))
        )


def _gate(family: Any, spec: FormulaSpec) -> Gate:
    from dataclasses import replace

    has_terms = bool(spec.z_names) or not spec.z_intercept
    if family is None:
        return Softmax(fit_intercept=spec.z_intercept) if has_terms else Constant()
    gate: Gate = resolve("gate", family, "gate_family")
    if not gate.uses_features and has_terms:
        raise ValueError(
            f"gate_family={gate.name!r} has no terms, but the formula gives the gate "
            f"{spec.gate!r}; leave these out, or use gate_family='softmax'"
        )
    if gate.objective == "joint":
        if not spec.z_names:
            raise ValueError(
                f"gate_family={gate.name!r} models the distribution of the gate's terms, but there "
                "are none; name them after a bar, as in 'y ~ x | z'"
            )
        if not spec.z_intercept:
            raise ValueError(
                f"gate_family={gate.name!r} has no intercept to be left out of the gate's terms "
                f"{spec.gate!r}; remove the '- 1' or '0 +'"
            )
        return gate
    if gate.needs_features and not spec.z_names:
        raise ValueError(
            f"gate_family={gate.name!r} needs terms, but the gate has none; name them after a bar, "
            "as in 'y ~ x | z', or leave gate_family out"
        )
    if not gate.uses_features or not has_terms:
        return Constant()
    return replace(gate, fit_intercept=spec.z_intercept)  # type: ignore[type-var]


def _expert(family: Any, spec: FormulaSpec) -> Expert:
    expert: Expert = resolve("expert", family, "family")
    if expert.degree != 1:
        raise ValueError(
            "family has degree != 1; write polynomials in the formula instead, as poly(x, 2)"
        )
    return expert.with_intercept(spec.x_intercept)
