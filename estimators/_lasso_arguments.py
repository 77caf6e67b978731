"""Arguments of the penalised estimators, checked, and the penalty that they state."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse import SparseParams
from mixexperts.estimators import _checks as checks
from mixexperts.penalties.sparse import SparsePenalty

#: Penalties by their names.
PenaltyName = Literal["lasso", "adaptive", "group", "mcp", "scad"]
_NAMES = get_args(PenaltyName)
_CODINGS = ("symmetric", "reference")
#: Default of ``concavity`` and the number that it must exceed.
_CONCAVITY = {"mcp": (3.0, 1.0), "scad": (3.7, 2.0), "adaptive": (1.0, 0.0)}


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of a penalised fit, as the user states them.

    Attributes
    ----------
    n_experts : int
    alpha, gate_alpha, l1_ratio : float
    name : str
        The penalty.
    concavity : float or None
    weights, gate_weights : ndarray of shape (n_features,) or None
    groups : ndarray of int of shape (n_features,) or None
    gate_coding : str
    by_scale : bool or "auto"
    """

    n_experts: int
    alpha: float
    gate_alpha: float
    l1_ratio: float
    name: str
    concavity: float | None
    weights: Any
    gate_weights: Any
    groups: Any
    gate_coding: str
    by_scale: Any = False

    def penalty(
        self,
        alpha: float,
        gate_alpha: float,
        taken: Array,
        n_features: int,
        by_scale: bool = False,
    ) -> SparsePenalty:
        """The penalty on the columns ``taken`` (p,) of X; of the adaptive lasso its pilot's.

        Raises
        ------
        ValueError, TypeError
            If weights or groups do not fit the columns.
        """
        weights = _weights(self.weights, "penalty_weights", n_features)
        gate_weights = _weights(self.gate_weights, "gate_penalty_weights", n_features)
        groups = _groups(self.groups, n_features)
        return SparsePenalty(
            alpha=alpha,
            gate_alpha=gate_alpha,
            l1_ratio=self.l1_ratio,
            kind="lasso" if self.name == "adaptive" else self.name,  # type: ignore[arg-type]
            concavity=None if self.name == "adaptive" else self.concavity,
            weights=None if weights is None else weights[taken],
            gate_weights=None if gate_weights is None else gate_weights[taken],
            groups=None if groups is None else np.unique(groups[taken], return_inverse=True)[1],
            gate_coding=self.gate_coding,  # type: ignore[arg-type]
            by_scale=by_scale,
        )

    def adapted(self, penalty: SparsePenalty, pilot: SparseParams, nominal: bool) -> SparsePenalty:
        """The penalty of the adaptive lasso: that of the pilot, over powers of its coefficients.

        Rows that matter by their differences only (the gate's, and those of classes) share the
        mean size of a column, so that the weights know no reference. What the pilot left out
        stays out.
        """
        power = self.concavity
        assert power is not None
        size = np.abs(pilot.coef)
        if penalty.by_scale:
            size = size / pilot.shapes["scale"][:, None, None]
        if nominal:
            size = np.broadcast_to(size.mean(axis=1, keepdims=True), size.shape)
        gate = np.abs(pilot.gate_coef).mean(axis=0)
        return replace(
            penalty,
            weights=_over(penalty.weights, size, power),
            gate_weights=_over(penalty.gate_weights, gate, power),
        )


def _over(weights: Array | None, size: Array, power: float) -> Array:
    """Weights over ``size ** power``: infinite where the size is zero, but free ones stay free."""
    own = np.ones(size.shape[-1]) if weights is None else weights
    with np.errstate(divide="ignore"):
        adapted: Array = np.where(own == 0.0, 0.0, own / np.where(own == 0.0, 1.0, size**power))
    return adapted


def checked_arguments(est: Any) -> Arguments:
    """The arguments of an estimator.

    Raises
    ------
    ValueError, TypeError
        If one of them cannot be used; the message names it.
    """
    n_experts = checks.positive_integer(est.n_experts, "n_experts")
    checks.positive_integer(est.n_init, "n_init")
    checks.positive_integer(est.max_iter, "max_iter")
    positive_number(est.tol, "tol", "a gradient is never exactly zero")
    if est.n_jobs is not None and (
        isinstance(est.n_jobs, bool) or not isinstance(est.n_jobs, int | np.integer)
    ):
        raise TypeError(f"n_jobs must be an integer or None, got {est.n_jobs!r}")
    if not (isinstance(est.by_scale, bool | np.bool_) or est.by_scale == "auto"):
        raise TypeError(f"by_scale must be True, False or 'auto', got {est.by_scale!r}")
    for argument in ("standardize", "relax", "warm_start"):
        value = getattr(est, argument)
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{argument} must be True or False, got {value!r}")
    _one_of(est.penalty, "penalty", _NAMES)
    _one_of(est.gate_coding, "gate_coding", _CODINGS)
    if est.groups is not None and est.penalty != "group":
        raise ValueError(
            f"groups has no use with penalty={est.penalty!r}; use penalty='group' or leave it out"
        )
    return Arguments(
        n_experts,
        positive_number(est.alpha, "alpha", "for a fit without penalty use MoERegressor"),
        positive_number(
            est.gate_alpha, "gate_alpha", "a tiny one leaves the gate almost unpenalised"
        ),
        _share(est.l1_ratio, "l1_ratio"),
        est.penalty,
        _concavity(est.concavity, est.penalty),
        est.penalty_weights,
        est.gate_penalty_weights,
        est.groups,
        est.gate_coding,
        est.by_scale if isinstance(est.by_scale, str) else bool(est.by_scale),
    )


def _one_of(value: Any, argument: str, known: tuple[str, ...]) -> None:
    listed = ", ".join(map(repr, known))
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be one of {listed}, got {value!r}")
    if value not in known:
        raise ValueError(f"{argument}={value!r} is not known; known: {listed}")


def _number(value: Any, argument: str, what: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} must be {what}, got {value!r}")
    return float(value)


def positive_number(value: Any, argument: str, advice: str) -> float:
    """A finite number > 0; booleans are none."""
    number = _number(value, argument, "a number > 0")
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"{argument} must be a finite number > 0, got {value!r}; {advice}")
    return number


def _share(value: Any, argument: str) -> float:
    number = _number(value, argument, "a number in [0, 1]")
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{argument} must lie in [0, 1], got {value!r}")
    return number


def _concavity(value: Any, penalty: str) -> float | None:
    if penalty not in _CONCAVITY:
        if value is not None:
            raise ValueError(
                f"concavity has no use with penalty={penalty!r}; leave it out, or use 'mcp', "
                "'scad' or 'adaptive'"
            )
        return None
    default, least = _CONCAVITY[penalty]
    if value is None:
        return default
    number = _number(value, "concavity", f"a number > {least:g}")
    if not (math.isfinite(number) and number > least):
        raise ValueError(
            f"concavity must be a finite number > {least:g} with penalty={penalty!r}, got {value!r}"
        )
    return number


def _weights(values: Any, argument: str, n_features: int) -> Array | None:
    """Factors (n_features,) of the penalty of each column."""
    if values is None:
        return None
    try:
        weights = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument} must hold a number >= 0 for each column of X: {error}"
        ) from error
    if weights.shape != (n_features,):
        raise ValueError(
            f"{argument} must have shape ({n_features},), one factor for each column of X, got "
            f"{weights.shape}"
        )
    bad = ~(np.isfinite(weights) & (weights >= 0.0))
    if bad.any():
        column = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{argument} is {weights[column]:g} for column {column}; give finite numbers >= 0 (to "
            "leave a column out, name the others in expert_features or gate_features)"
        )
    return weights


def _groups(values: Any, n_features: int) -> Array | None:
    """Numbers (n_features,) of the groups of columns."""
    if values is None:
        return None
    import pandas as pd

    labels = np.asarray(values)
    if labels.shape != (n_features,):
        raise ValueError(
            f"groups must have shape ({n_features},), one label for each column of X, got "
            f"{labels.shape}"
        )
    codes, _ = pd.factorize(labels)
    if (codes < 0).any():
        column = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"groups is missing for column {column}; a column by itself is a group of its own"
        )
    return np.asarray(codes, dtype=np.int64)
