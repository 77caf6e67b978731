"""Samples of mixtures of experts in which most columns have no part."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from mixexperts.datasets._draw import (
    RandomState,
    check_number,
    draw_labels,
    shape_of,
    split_random_state,
)
from mixexperts.datasets._truth import (
    FloatArray,
    IntArray,
    MoEClassificationTruth,
    MoECountTruth,
    MoETruth,
)

# Chamroukhi and Huynh (2019): intercept first, then the slopes of six columns; of the logits of
# the first class against the second, and of the first expert against the second.
_DESIGNS = {
    "gaussian": (
        (0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0),
        (0.0, 1.0, -1.5, 0.0, 0.0, 2.0, 0.0),
        (1.0, 2.0, 0.0, 0.0, -1.0, 0.0, 0.0),
    ),
    "multinomial": (
        (0.0, -1.0, 2.0, 0.0, 0.0, 1.5, 0.0),
        (0.0, 1.0, 0.0, 0.0, -2.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.5),
    ),
    "poisson": (
        (0.0, 1.0, 0.0, -2.0, 0.0, 1.5, 0.0),
        (0.0, 0.0, 2.0, 0.0, -1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 0.0, -1.5, 0.0),
    ),
}


def make_sparse_moe(
    n_samples: int = 300,
    n_features: int = 6,
    *,
    expert: Literal["gaussian", "multinomial", "poisson"] = "gaussian",
    noise: float = 1.0,
    correlation: float = 0.5,
    random_state: RandomState = None,
) -> tuple[FloatArray, FloatArray | IntArray, MoETruth | MoEClassificationTruth | MoECountTruth]:
    """Draw a sample of the design by which lasso mixtures of experts are compared.

    Two experts and a softmax gate on six columns, two or three of which matter to each of the
    three; columns beyond the sixth matter to none. Column l is normal and correlated with
    column j by ``correlation ** |j - l|``.

    Parameters
    ----------
    n_samples : int, default 300
        Number of rows n.
    n_features : int, default 6
        Number of columns p, at least 6.
    expert : {"gaussian", "multinomial", "poisson"}, default "gaussian"
        Family of the experts; "multinomial" has two classes.
    noise : float, default 1.0
        Standard deviation of the Gaussian experts.
    correlation : float, default 0.5
        Of neighbouring columns, between -1 and 1.
    random_state : int, numpy Generator or RandomState, optional
        Seed. The same seed and arguments give the same sample.

    Returns
    -------
    X : ndarray of shape (n, p)
        Covariates.
    y : ndarray of shape (n,)
        Responses: numbers, classes 0 and 1, or counts.
    truth : MoETruth, MoEClassificationTruth or MoECountTruth
        Parameters, expert labels and the true mean and log-likelihood.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    F. Chamroukhi and B.-T. Huynh (2019). Regularized maximum likelihood estimation and feature
    selection in mixtures-of-experts models. Journal de la SFdS 160(1), 57-85.

    Examples
    --------
    >>> from mixexperts.datasets import make_sparse_moe
    >>> X, y, truth = make_sparse_moe(n_features=50, random_state=0)
    >>> X.shape, (truth.coef != 0).sum(axis=1), (truth.gate_coef != 0).sum(axis=1)
    ((300, 50), array([2, 3]), array([2, 0]))
    """
    if expert not in _DESIGNS:
        raise ValueError(
            f"expert: found {expert!r}, expected one of {sorted(_DESIGNS)}. Pass one of them."
        )
    check_number("noise", noise, positive=True)
    n, p = _sizes(n_samples, n_features)
    first, second, gate = (np.array(row) for row in _DESIGNS[expert])
    if p < len(gate) - 1:
        raise ValueError(
            f"n_features: found {p}, expected at least {len(gate) - 1}. "
            "Ask for more: the design has six columns."
        )
    slopes, gate_slopes = np.zeros((2, p)), np.zeros((2, p))
    slopes[:, :6], gate_slopes[0, :6] = [first[1:], second[1:]], gate[1:]
    offsets, gate_offsets = np.array([first[0], second[0]]), np.array([gate[0], 0.0])
    rng_x, _, rng_labels, rng_y = split_random_state(random_state)

    rows = _neighbours_correlated(rng_x, n, p, correlation)
    labels = draw_labels(rng_labels, rows @ gate_slopes.T + gate_offsets)
    eta = np.sum(rows * slopes[labels], axis=1) + offsets[labels]
    shared = {"gate_coef": gate_slopes, "gate_intercept": gate_offsets, "labels": labels}
    if expert == "gaussian":
        scale = np.full(2, float(noise))
        y = eta + noise * rng_y.standard_normal(n)
        return rows, y, MoETruth(coef=slopes, intercept=offsets, scale=scale, **shared)
    if expert == "poisson":
        counts = rng_y.poisson(np.exp(eta)).astype(np.float64)
        return rows, counts, MoECountTruth(coef=slopes, intercept=offsets, **shared)
    logits = np.stack([slopes, np.zeros_like(slopes)], axis=1)
    classes = draw_labels(rng_y, np.column_stack([eta, np.zeros(n)]))
    intercept = np.stack([offsets, np.zeros(2)], axis=1)
    return rows, classes, MoEClassificationTruth(coef=logits, intercept=intercept, **shared)


def make_wide_moe(
    n_samples: int = 200,
    n_features: int = 2000,
    *,
    n_experts: int = 2,
    n_active: int = 5,
    n_gate_active: int = 2,
    signal: float = 2.0,
    gate_signal: float = 3.0,
    level: float = 5.0,
    noise: float = 1.0,
    correlation: float = 0.0,
    random_state: RandomState = None,
) -> tuple[FloatArray, FloatArray, MoETruth]:
    """Draw a sample with far more columns than rows, few of which matter.

    Each Gaussian expert has `n_active` slopes of size `signal` and random sign, at columns of
    its own; each free row of the softmax gate has `n_gate_active` of size `gate_signal`, at
    columns that no expert uses. All these columns are drawn at random among the p, which are
    normal, with correlation ``correlation ** |j - l|`` of columns j and l.

    Parameters
    ----------
    n_samples : int, default 200
        Number of rows n.
    n_features : int, default 2000
        Number of columns p.
    n_experts : int, default 2
        Number of experts K.
    n_active : int, default 5
        Number of columns of each expert.
    n_gate_active : int, default 2
        Number of columns of each row of the gate but the last, which is zero.
    signal : float, default 2.0
        Size of the experts' slopes.
    gate_signal : float, default 3.0
        Size of the gate's slopes.
    level : float, default 5.0
        Intercepts are spread evenly from ``-level`` to ``level``; with zero, experts can be told
        apart by their slopes alone.
    noise : float, default 1.0
        Standard deviation of every expert.
    correlation : float, default 0.0
        Of neighbouring columns, between -1 and 1.
    random_state : int, numpy Generator or RandomState, optional
        Seed. The same seed and arguments give the same sample.

    Returns
    -------
    X : ndarray of shape (n, p)
        Covariates.
    y : ndarray of shape (n,)
        Responses.
    truth : MoETruth
        Parameters, expert labels and the true mean and log-likelihood.

    Raises
    ------
    ValueError
        If an argument is out of range, or the active columns are more than p.

    Examples
    --------
    >>> from mixexperts.datasets import make_wide_moe
    >>> X, y, truth = make_wide_moe(random_state=0)
    >>> X.shape, (truth.coef != 0).sum(axis=1), (truth.gate_coef != 0).sum(axis=1)
    ((200, 2000), array([5, 5]), array([2, 0]))
    """
    check_number("noise", noise, positive=True)
    check_number("signal", signal)
    check_number("gate_signal", gate_signal)
    check_number("level", level)
    n, p = _sizes(n_samples, n_features)
    counts = shape_of(
        {}, {name: (name, value, 1) for name, value in
             (("n_experts", n_experts), ("n_active", n_active), ("n_gate_active", n_gate_active))}
    )  # fmt: skip
    k, active, gate_active = counts
    total = k * active + (k - 1) * gate_active
    if total > p:
        raise ValueError(
            f"n_features: found {p}, expected at least {total}, the number of active columns. "
            "Ask for more columns or fewer active ones."
        )
    rng_x, rng_parameters, rng_labels, rng_y = split_random_state(random_state)

    columns = rng_parameters.permutation(p)[:total]
    signs = rng_parameters.choice([-1.0, 1.0], size=total)
    slopes, gate_slopes = np.zeros((k, p)), np.zeros((k, p))
    own, gates = columns[: k * active], columns[k * active :]
    slopes[np.repeat(np.arange(k), active), own] = signal * signs[: k * active]
    gate_slopes[np.repeat(np.arange(k - 1), gate_active), gates] = gate_signal * signs[k * active :]
    rows = _neighbours_correlated(rng_x, n, p, correlation)
    labels = draw_labels(rng_labels, rows @ gate_slopes.T)
    levels = level * np.linspace(-1.0, 1.0, k) if k > 1 else np.zeros(1)
    chosen = np.sum(rows * slopes[labels], axis=1) + levels[labels]
    truth = MoETruth(
        coef=slopes,
        intercept=levels,
        scale=np.full(k, float(noise)),
        gate_coef=gate_slopes,
        gate_intercept=np.zeros(k),
        labels=labels,
    )
    return rows, chosen + noise * rng_y.standard_normal(n), truth


def _sizes(n_samples: int, n_features: int) -> list[int]:
    """Return the checked numbers of rows and columns."""
    return shape_of({}, {"n": ("n_samples", n_samples, 1), "p": ("n_features", n_features, 1)})


def _neighbours_correlated(
    rng: np.random.Generator, n: int, p: int, correlation: float
) -> FloatArray:
    """Draw standard normal columns with correlation ``correlation ** |j - l|``, shape (n, p)."""
    if not -1.0 < correlation < 1.0:
        raise ValueError(
            f"correlation: found {correlation!r}, expected a number between -1 and 1. "
            "Pass such a number."
        )
    # A first-order autoregression along the columns: no p x p matrix.
    rows = rng.standard_normal((n, p))
    fresh = math.sqrt(1.0 - correlation**2)
    for j in range(1, p):
        rows[:, j] = correlation * rows[:, j - 1] + fresh * rows[:, j]
    return rows
