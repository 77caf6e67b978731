"""Samples of mixture-of-experts models with known parameters."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mixexperts.datasets._draw import (
    RandomState,
    check_number,
    draw_labels,
    draw_rows,
    parameter,
    random_experts,
    random_gate,
    reference_zero,
    shape_of,
    split_random_state,
)
from mixexperts.datasets._truth import FloatArray, IntArray, MoEClassificationTruth, MoETruth


def make_moe_regression(
    n_samples: int | None = None,
    *,
    n_features: int | None = None,
    n_experts: int | None = None,
    gate: Literal["softmax", "constant"] = "softmax",
    noise: float = 0.3,
    gate_strength: float = 2.0,
    separation: float = 2.0,
    X: ArrayLike | None = None,
    coef: ArrayLike | None = None,
    intercept: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    gate_coef: ArrayLike | None = None,
    gate_intercept: ArrayLike | None = None,
    random_state: RandomState = None,
) -> tuple[FloatArray, FloatArray, MoETruth]:
    """Draw a sample of a softmax-gated mixture of Gaussian linear experts.

    Given x, expert k is chosen with probability proportional to
    ``exp(gate_coef[k] @ x + gate_intercept[k])``, then y is normal with mean
    ``coef[k] @ x + intercept[k]`` and standard deviation ``scale[k]``. Parameters that
    are not given are drawn at random.

    Parameters
    ----------
    n_samples : int, optional
        Number of rows n; the rows of `X` if given, else 500.
    n_features : int, optional
        Number of features p; taken from the arrays given, else 1.
    n_experts : int, optional
        Number of experts K; taken from the arrays given, else 2.
    gate : {"softmax", "constant"}, default "softmax"
        Whether the mixing weights vary with x. A drawn constant gate has equal weights.
    noise : float, default 0.3
        Standard deviation of every expert, in the unit of y; unused if `scale` is given.
    gate_strength : float, default 2.0
        Slope of the log-odds between neighbouring experts along a random direction;
        zero makes the gate constant. Unused if `gate_coef` is given.
    separation : float, default 2.0
        Drawn slopes along a random direction are spread evenly from ``-separation`` to
        ``separation``; drawn intercepts are uniform in the same range.
    X : array_like of shape (n, p), optional
        Covariates; drawn as independent standard normals otherwise.
    coef : array_like of shape (K, p), optional
        Slopes of the experts.
    intercept : array_like of shape (K,), optional
        Intercepts of the experts.
    scale : float or array_like of shape (K,), optional
        Standard deviations of the experts.
    gate_coef : array_like of shape (K, p), optional
        Slopes of the gate, last row zero.
    gate_intercept : array_like of shape (K,), optional
        Intercepts of the gate, last entry zero; zero if only `gate_coef` is given.
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
        If an argument has the wrong shape or range, or two contradict each other.

    Examples
    --------
    >>> from mixexperts.datasets import make_moe_regression
    >>> X, y, truth = make_moe_regression(200, n_experts=3, random_state=0)
    >>> X.shape, y.shape, truth.coef.shape
    ((200, 1), (200,), (3, 1))
    """
    check_number("noise", noise, positive=True)
    check_number("gate_strength", gate_strength)
    check_number("separation", separation)
    gates = {"gate_coef": (gate_coef, "Kp"), "gate_intercept": (gate_intercept, "K")}
    experts = {"coef": (coef, "Kp"), "intercept": (intercept, "K")}
    sized = {} if scale is None or np.ndim(scale) == 0 else {"scale": (scale, "K")}
    n, p, k = shape_of(
        {"X": (X, "np"), **experts, **sized, **gates},
        {"n": ("n_samples", n_samples, 500), "p": ("n_features", n_features, 1),
         "K": ("n_experts", n_experts, 2)},
    )  # fmt: skip
    rng_x, rng_parameters, rng_labels, rng_y = split_random_state(random_state)

    rows = draw_rows(X, n, p, rng_x)
    drawn_gate = random_gate(rng_parameters, gate, gate_strength, k, rows, drawn=X is None)
    drawn_coef, drawn_intercept = random_experts(rng_parameters, separation, k, p)
    scales = np.full(k, noise) if scale is None else np.broadcast_to(parameter("scale", scale), k)
    if not np.all(scales > 0):
        raise ValueError(
            f"scale: found {scales.min():g} as the smallest value, expected all above zero. "
            "Pass standard deviations."
        )
    gate_slopes, gate_offsets = _gate(gate, gate_coef, gate_intercept, drawn_gate)
    labels = draw_labels(rng_labels, rows @ gate_slopes.T + gate_offsets)
    truth = MoETruth(
        coef=drawn_coef if coef is None else parameter("coef", coef),
        intercept=drawn_intercept if intercept is None else parameter("intercept", intercept),
        scale=scales.copy(),
        gate_coef=gate_slopes,
        gate_intercept=gate_offsets,
        labels=labels,
    )
    chosen = truth.expert_means(rows)[np.arange(n), labels]
    return rows, chosen + truth.scale[labels] * rng_y.standard_normal(n), truth


def make_moe_classification(
    n_samples: int | None = None,
    *,
    n_features: int | None = None,
    n_experts: int | None = None,
    n_classes: int | None = None,
    gate: Literal["softmax", "constant"] = "softmax",
    gate_strength: float = 2.0,
    separation: float = 2.0,
    X: ArrayLike | None = None,
    coef: ArrayLike | None = None,
    intercept: ArrayLike | None = None,
    gate_coef: ArrayLike | None = None,
    gate_intercept: ArrayLike | None = None,
    random_state: RandomState = None,
) -> tuple[FloatArray, IntArray, MoEClassificationTruth]:
    """Draw a sample of a softmax-gated mixture of multinomial-logit experts.

    Given x, expert k is chosen with probability proportional to
    ``exp(gate_coef[k] @ x + gate_intercept[k])``, then class c with probability
    proportional to ``exp(coef[k, c] @ x + intercept[k, c])``. Parameters that are not
    given are drawn at random.

    Parameters
    ----------
    n_samples : int, optional
        Number of rows n; the rows of `X` if given, else 500.
    n_features : int, optional
        Number of features p; taken from the arrays given, else 1.
    n_experts : int, optional
        Number of experts K; taken from the arrays given, else 2.
    n_classes : int, optional
        Number of classes C, at least 2; taken from the arrays given, else 2.
    gate : {"softmax", "constant"}, default "softmax"
        Whether the mixing weights vary with x. A drawn constant gate has equal weights.
    gate_strength : float, default 2.0
        Slope of the log-odds between neighbouring experts along a random direction;
        zero makes the gate constant. Unused if `gate_coef` is given.
    separation : float, default 2.0
        Standard deviation of the drawn slopes and intercepts of the logits.
    X : array_like of shape (n, p), optional
        Covariates; drawn as independent standard normals otherwise.
    coef : array_like of shape (K, C, p), optional
        Slopes of the experts' logits, last class zero.
    intercept : array_like of shape (K, C), optional
        Intercepts of the experts' logits, last class zero.
    gate_coef : array_like of shape (K, p), optional
        Slopes of the gate, last row zero.
    gate_intercept : array_like of shape (K,), optional
        Intercepts of the gate, last entry zero; zero if only `gate_coef` is given.
    random_state : int, numpy Generator or RandomState, optional
        Seed. The same seed and arguments give the same sample.

    Returns
    -------
    X : ndarray of shape (n, p)
        Covariates.
    y : ndarray of int of shape (n,)
        Classes, 0 to C - 1.
    truth : MoEClassificationTruth
        Parameters, expert labels and the true class probabilities and log-likelihood.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or range, or two contradict each other.

    Examples
    --------
    >>> from mixexperts.datasets import make_moe_classification
    >>> X, y, truth = make_moe_classification(200, n_classes=3, random_state=0)
    >>> X.shape, y.shape, truth.coef.shape
    ((200, 1), (200,), (2, 3, 1))
    """
    check_number("gate_strength", gate_strength)
    check_number("separation", separation)
    gates = {"gate_coef": (gate_coef, "Kp"), "gate_intercept": (gate_intercept, "K")}
    n, p, k, c = shape_of(
        {"X": (X, "np"), "coef": (coef, "KCp"), "intercept": (intercept, "KC"), **gates},
        {"n": ("n_samples", n_samples, 500), "p": ("n_features", n_features, 1),
         "K": ("n_experts", n_experts, 2), "C": ("n_classes", n_classes, 2)},
    )  # fmt: skip
    if c < 2:
        raise ValueError(f"n_classes: found {c}, expected at least 2. Ask for more classes.")
    rng_x, rng_parameters, rng_labels, rng_y = split_random_state(random_state)

    rows = draw_rows(X, n, p, rng_x)
    drawn_gate = random_gate(rng_parameters, gate, gate_strength, k, rows, drawn=X is None)
    slopes = separation * rng_parameters.standard_normal((k, c, p))
    offsets = separation * rng_parameters.standard_normal((k, c))
    slopes[:, -1] = offsets[:, -1] = 0.0
    if coef is not None:
        slopes = reference_zero("coef", parameter("coef", coef), "class", axis=1)
    if intercept is not None:
        offsets = reference_zero("intercept", parameter("intercept", intercept), "class", axis=1)
    gate_slopes, gate_offsets = _gate(gate, gate_coef, gate_intercept, drawn_gate)
    labels = draw_labels(rng_labels, rows @ gate_slopes.T + gate_offsets)
    truth = MoEClassificationTruth(
        coef=slopes,
        intercept=offsets,
        gate_coef=gate_slopes,
        gate_intercept=gate_offsets,
        labels=labels,
    )
    logits = np.einsum("np,ncp->nc", rows, slopes[labels]) + offsets[labels]
    return rows, draw_labels(rng_y, logits), truth


def _gate(
    gate: str,
    gate_coef: ArrayLike | None,
    gate_intercept: ArrayLike | None,
    drawn: tuple[FloatArray, FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """Return the gate's slopes (K, p) and intercepts (K,), given ones first."""
    slopes, offsets = drawn
    if gate_coef is not None:
        slopes = reference_zero("gate_coef", parameter("gate_coef", gate_coef), "expert")
        if gate == "constant" and np.any(slopes):
            raise ValueError(
                "gate_coef: found slopes with gate='constant', expected none. "
                "Leave gate_coef out or pass gate='softmax'."
            )
        # The drawn intercepts belong to the drawn slopes: without them they mean nothing.
        offsets = np.zeros_like(offsets)
    if gate_intercept is not None:
        given = parameter("gate_intercept", gate_intercept)
        offsets = reference_zero("gate_intercept", given, "expert")
    return slopes, offsets
