"""Inference after selection: columns chosen on some rows, estimated on the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.init import keyed_rng
from mixexperts.em.sparse import SparseFit, SparseParams, fit_sparse
from mixexperts.em.sparse.newton import ActiveNewton
from mixexperts.em.sparse.problem import Problem
from mixexperts.em.sparse.pull import Predictor
from mixexperts.errors import InferenceRefusedError
from mixexperts.inference.stability import lassos, seed_of
from mixexperts.penalties.sparse import SparsePenalty

# Below this ratio of eigenvalues, on the scale of unit diagonals, the information is singular.
_SINGULAR = 1e-10
# Gates nearer than this to zero and one in all rows separate the experts.
_CERTAIN = 1e-6
# Standard error of a log odds, or log mean, per standard deviation of its column: beyond it the
# coefficient runs away, and has no maximum that it stops at.
_RUNAWAY = 30.0


@dataclass(frozen=True)
class SampleSplit:
    """Coefficients of columns that other rows selected, with intervals.

    Attributes
    ----------
    table : DataFrame
        One row per coefficient: ``room`` (``"expert"`` or ``"gate"``), ``expert`` (1 to K),
        ``class`` (label, None where there is one row of coefficients per expert), ``term``
        (``"Intercept"`` too, of experts with one row), ``coef`` (on the scale of X and y),
        ``std_err``, ``z``, ``p_value``, ``lower`` and ``upper``.
    covariance : ndarray of shape (m, m)
        Of the coefficients in the order of ``table``.
    level : float
        Of the intervals.
    cov_type : str
    estimator : estimator
        The penalised fit that selected, on the first part of the rows.
    rows_selection, rows_inference : ndarray of int of shape (m,)
        Numbers of the rows of the two parts.
    log_likelihood : float
        Of the refit, on the second part.
    """

    table: Any
    covariance: Array
    level: float
    cov_type: str
    estimator: Any
    rows_selection: Array
    rows_inference: Array
    log_likelihood: float

    def conf_int(self, level: float | None = None) -> Any:
        """Intervals at another level.

        Parameters
        ----------
        level : float in (0, 1), optional
            By default that of ``table``.

        Returns
        -------
        DataFrame
            ``lower`` and ``upper``, rows as in ``table``.

        Raises
        ------
        ValueError
            If the level is not in (0, 1).
        """
        import pandas as pd
        from scipy.stats import norm

        level = self.level if level is None else _inside(level, "level")
        half = norm.ppf(0.5 + 0.5 * level) * self.table["std_err"]
        return pd.DataFrame(
            {"lower": self.table["coef"] - half, "upper": self.table["coef"] + half}
        )

    def __repr__(self) -> str:
        return (
            f"SampleSplit: {len(self.rows_selection)} rows selected, {len(self.rows_inference)} "
            f"estimate {len(self.table)} coefficients\n{self.table.to_string(index=False)}"
        )


def sample_splitting(
    est: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    offset: Any = None,
    fraction: float = 0.5,
    level: float = 0.95,
    cov_type: str = "nonrobust",
    random_state: Any = None,
) -> SampleSplit:
    """Select columns on one part of the rows, and estimate them on the other without penalty.

    The second part has no share in the choice of columns, so that the usual intervals of maximum
    likelihood hold for it, given the model that was chosen.

    Parameters
    ----------
    est : LassoMoERegressor, LassoMoEClassifier, or one of the ...CV
        Not changed; a clone is fitted to the first part, and chooses its penalty there if it is a
        CV.
    X, y : array-like of shape (n, n_features) and (n,)
    sample_weight, offset : array-like of shape (n,), optional
        As in ``fit``.
    fraction : float in (0, 1), default=0.5
        Share of the rows that select.
    level : float in (0, 1), default=0.95
        Of the intervals, each by itself.
    cov_type : {"nonrobust", "robust"}, default="nonrobust"
        Inverse of the observed information; or the sandwich of White (1982), which stays valid
        where the chosen model leaves out some of the truth.
    random_state : int, Generator, RandomState or None, default=None
        Seed of the split; the fit has that of ``est``.

    Returns
    -------
    SampleSplit

    Raises
    ------
    InferenceRefusedError
        If the second part cannot carry what was selected: an expert has too few rows, a column
        does not vary, the refit does not converge, its information is singular, or a selected
        column separates experts or classes. Also if the first part has no sound fit.
    ValueError, TypeError
        If an argument or the data cannot be used; the message names it.

    Notes
    -----
    A column that does not vary in the rows that select is not selected. Each expert, class and the
    gate keep their own columns. The refit starts from the penalised fit,
    so that experts keep their numbers. Of a column that the rows of all experts use in the gate
    only differences can be estimated: the last expert's coefficient is then zero and not listed,
    and the others are differences from it (with two experts, log odds); likewise of the classes of
    multinomial experts.

    Intervals hold for one split. Another split may select other columns: repeat it with several
    ``random_state`` to see how much hangs on it.

    References
    ----------
    Cox, D. R. (1975). A note on data-splitting for the evaluation of significance levels.
    Biometrika 62, 441-444.
    Wasserman, L. and Roeder, K. (2009). High-dimensional variable selection. Annals of Statistics
    37, 2178-2201.
    White, H. (1982). Maximum likelihood estimation of misspecified models. Econometrica 50, 1-25.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((400, 20))
    >>> first = X[:, 0] + 0.5 * rng.standard_normal(400) > 0.0
    >>> y = np.where(first, 3.0 + 2.0 * X[:, 1], -3.0 * X[:, 2]) + rng.standard_normal(400)
    >>> est = mx.LassoMoERegressor(2, alpha=0.12, gate_alpha=0.06, n_init=4, random_state=0)
    >>> found = mx.sample_splitting(est, X, y, random_state=0)
    >>> slope = found.table.query("room == 'expert' and expert == 2 and term == 'x1'")
    >>> bool(slope["lower"].item() < 2.0 < slope["upper"].item())
    True
    """
    from sklearn.base import clone

    lassos(est)
    share, level = _inside(fraction, "fraction"), _inside(level, "level")
    if cov_type not in ("nonrobust", "robust"):
        raise ValueError(f"cov_type must be 'nonrobust' or 'robust', got {cov_type!r}")
    if not isinstance(est.init, str):
        raise TypeError(
            f"est.init must be the name of a kind of starts, got {type(est.init).__name__}: only "
            "a part of the rows takes part in the selection"
        )
    checker = clone(est)._checker()
    whole = checker._problem(X, y, sample_weight, offset)
    n = whole.data.n_given
    order = keyed_rng(seed_of(random_state), "split", 0).permutation(n)
    size = round(share * n)
    first, second = np.sort(order[:size]), np.sort(order[size:])
    numbers = checker._row_numbers(whole)
    seen, numbers = (own[own >= 0] for own in (numbers[first], numbers[second]))
    for own, what in ((seen, "select"), (numbers, "estimate")):
        if not len(own):
            raise ValueError(f"fraction={fraction} leaves no row of positive weight to {what} with")
    settings = {**checker._form(whole), **checker._without_constant(whole, seen)}
    fitted = _selected(clone(est).set_params(**settings), X, y, sample_weight, offset, first)
    single = getattr(fitted, "best_estimator_", fitted)
    whole = replace(whole, n_experts=len(single.mass_))
    part, params = single._carried(whole, numbers, single)
    table, covariance, fit = _estimated(part, single, params, level, cov_type)
    llf = float(fit.log_likelihood + part.log_jacobian)
    return SampleSplit(table, covariance, level, cov_type, fitted, first, second, llf)


def _inside(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number in (0, 1), got {value!r}")
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
    return float(value)


def _selected(est: Any, X: Any, y: Any, sample_weight: Any, offset: Any, rows: Array) -> Any:
    """The penalised fit of some rows."""
    from sklearn.utils import _safe_indexing

    parts = [
        None if values is None else _safe_indexing(values, rows)
        for values in (X, y, sample_weight, offset)
    ]
    fitted = est.fit(parts[0], parts[1], sample_weight=parts[2], offset=parts[3])
    if fitted.status_ not in ("converged", "max_iter"):
        raise InferenceRefusedError(
            f"the rows that select have no sound fit (status {fitted.status_!r}: "
            f"{'; '.join(fitted.flags_)}), so that there is nothing to estimate; use larger alphas "
            "or fewer experts"
        )
    return fitted


def _estimated(
    part: Any, est: Any, params: SparseParams, level: float, cov_type: str
) -> tuple[Any, Array, SparseFit]:
    """The refit of the second part, its table and covariance."""
    params, penalty = _identified(params)
    fit = fit_sparse(
        part.family,
        part.rows,
        part.n_experts,
        penalty,
        starts=(params,),
        tol=min(float(est.tol), 1e-7),
        max_iter=est.max_iter,
        seed=part.seed,
    ).best
    _refuse_thin(part, params, fit)
    _refuse_separated_gate(part, fit.params)
    problem = Problem.of(part.family, part.rows, part.n_experts, penalty)
    point = problem.at(fit.params)
    newton = ActiveNewton(problem)
    predictors = newton.predictors(point)
    information, _ = newton.system(point, predictors)
    inverse = _inverse(information)
    _refuse_runaway(part, predictors, inverse)
    if cov_type == "robust":
        scores = newton.scores(point, predictors)
        inverse = inverse @ ((scores / problem.rows.weight) @ scores.T) @ inverse
    rows, jacobian = _listed(part, fit.params, predictors, len(information))
    covariance = jacobian @ inverse @ jacobian.T
    return _table(rows, covariance, level), covariance, fit


def _identified(params: SparseParams) -> tuple[SparseParams, SparsePenalty]:
    """The parameters in a form that the likelihood can tell, and which of them are free.

    A column that all rows of a softmax use is known up to a shift: its last row is then zero.
    """
    gate, coef = params.gate_coef.copy(), params.coef.copy()
    if len(gate) > 1:
        full = (gate != 0.0).all(axis=0)
        gate[:, full] -= gate[-1, full]
    if coef.shape[1] > 1:
        full = (coef != 0.0).all(axis=1)
        coef = np.where(full[:, None], coef - coef[:, -1:], coef)
    gate_free, free = gate != 0.0, coef != 0.0
    penalty = SparsePenalty(
        1.0,
        1.0,
        weights=np.where(free, 0.0, np.inf),
        gate_weights=np.where(gate_free, 0.0, np.inf),
    )
    return replace(params, coef=coef, gate_coef=gate), penalty


def _refuse_thin(part: Any, params: SparseParams, fit: SparseFit) -> None:
    """Refuse where an expert has too few rows for what it is asked, or there is no maximum."""
    shapes = len(params.shapes)
    for k, mass in enumerate(fit.mass):
        needed = np.count_nonzero(params.coef[k]) + len(params.intercept[k]) + shapes + 1
        if not mass >= needed:
            raise InferenceRefusedError(
                f"expert {k + 1} has {mass:.3g} effective rows in the part that estimates, fewer "
                f"than the {needed} that its selected columns ask for; use larger alphas, a "
                "smaller fraction, or fewer experts"
            )
    if fit.status != "converged":
        raise InferenceRefusedError(
            f"the refit without penalty has no maximum that it reached (status {fit.status!r}"
            f"{': ' * bool(fit.flags)}{'; '.join(fit.flags)}): the part that estimates cannot "
            "carry the selected columns; use larger alphas or a smaller fraction"
        )


def _refuse_separated_gate(part: Any, params: SparseParams) -> None:
    """Refuse where the gate knows the expert of every row: its slopes then grow without end."""
    if not params.gate_coef.any():
        return
    used = np.flatnonzero(params.gate_coef.any(axis=0))
    logits = params.gate_intercept + part.rows.X[:, used] @ params.gate_coef[:, used].T
    gate = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    if ((gate < _CERTAIN) | (gate > 1.0 - _CERTAIN)).all():
        raise InferenceRefusedError(
            "the refit's gate separates the experts: in every row that estimates its "
            "probabilities are zero and one, so that its coefficients have no finite maximum; "
            "keep the penalised fit, or leave out the columns that separate by gate_features"
        )


def _refuse_runaway(part: Any, predictors: list[Predictor], inverse: Array) -> None:
    """Refuse where some rows separate, so that a log odds has no finite maximum."""
    error = np.sqrt(np.diagonal(inverse))
    at = 0
    for p in predictors:
        if p.room == "shape":
            break  # they come last
        own = error[at : at + p.intercept + len(p.active)]
        at += len(own)
        if p.room == "expert" and part.family.affine_response:
            continue
        if (own > _RUNAWAY).any():
            whose = f"expert {p.expert + 1}" if p.room == "expert" else "the gate"
            raise InferenceRefusedError(
                f"a coefficient of {whose} has no finite maximum in the refit: rows that estimate "
                f"are separated by the selected columns (its standard error is {own.max():.3g} per "
                "standard deviation of a column); use larger alphas, or a smaller fraction"
            )


def _inverse(information: Array) -> Array:
    """Inverse of the observed information.

    Raises
    ------
    InferenceRefusedError
        If it is singular, or the point is no maximum.
    """
    diagonal = np.diagonal(information)
    if np.isfinite(information).all() and (diagonal > 0.0).all():
        size = np.sqrt(diagonal)
        values, vectors = np.linalg.eigh(information / np.outer(size, size))
        if values[0] > _SINGULAR * values[-1]:
            inverse: Array = (vectors / values) @ vectors.T / np.outer(size, size)
            return inverse
    raise InferenceRefusedError(
        "the observed information of the refit is singular: the rows that estimate cannot tell the "
        "selected coefficients apart (columns that are copies of each other, classes or experts "
        "that separate); use larger alphas or a smaller fraction"
    )


def _listed(
    part: Any, params: SparseParams, predictors: list[Predictor], size: int
) -> tuple[list[dict[str, Any]], Array]:
    """Rows of the table without errors, and their derivatives in what is free."""
    frame, (experts, gate) = part.frame, part.room_columns
    terms = {"expert": frame.expert_map.column_names()}
    terms["gate"] = part.model.gate.terms(frame.gate_map)
    places = {"expert": experts, "gate": gate}
    units = {"expert": part.unit, "gate": 1.0}
    maps = {"expert": frame.expert_map, "gate": frame.gate_map}
    many = params.coef.shape[1] > 1
    rows: list[dict[str, Any]] = []
    derivatives: list[Array] = []
    at = 0
    for p in predictors:
        if p.room == "shape":
            break  # they come last
        start = at + p.intercept
        at = start + len(p.active)
        local = np.array([int(np.flatnonzero(places[p.room] == j)[0]) for j in p.active], dtype=int)
        design, unit = maps[p.room], units[p.room]
        own = params.gate_coef[p.expert] if p.room == "gate" else params.coef[p.expert, p.part]
        label = None
        if many and p.room == "expert":
            label = part.classes[p.part]
        common = {"room": p.room, "expert": p.expert + 1, "class": label}
        if p.room == "expert" and p.intercept and not many:
            slope = np.zeros(size)
            slope[start - 1] = unit
            slope[start:at] = -unit * design.center[local] / design.scale[local]
            value = params.intercept[p.expert, 0] - own[p.active] @ (
                design.center[local] / design.scale[local]
            )
            rows.append({**common, "term": "Intercept", "coef": unit * float(value) + frame.loc})
            derivatives.append(slope)
        for i, (j, where) in enumerate(zip(p.active, local, strict=True)):
            slope = np.zeros(size)
            slope[start + i] = unit / design.scale[where]
            rows.append(
                {**common, "term": terms[p.room][where], "coef": float(own[j] * slope[start + i])}
            )
            derivatives.append(slope)
    order = np.argsort([row["room"] == "gate" for row in rows], kind="stable")  # gate last
    jacobian = np.array(derivatives).reshape(-1, size)
    return [rows[i] for i in order], jacobian[order]


def _table(rows: list[dict[str, Any]], covariance: Array, level: float) -> Any:
    import pandas as pd
    from scipy.stats import norm

    columns = ("room", "expert", "class", "term", "coef")
    table = pd.DataFrame({name: [row[name] for row in rows] for name in columns[:2]})
    for name in columns[2:4]:  # None beside labels of any kind
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    table["coef"] = [row["coef"] for row in rows]
    error = np.sqrt(np.diagonal(covariance))
    table["std_err"] = error
    table["z"] = table["coef"] / error
    table["p_value"] = 2.0 * norm.sf(np.abs(table["z"]))
    half = float(norm.ppf(0.5 + 0.5 * level)) * error
    table["lower"], table["upper"] = table["coef"] - half, table["coef"] + half
    return table
