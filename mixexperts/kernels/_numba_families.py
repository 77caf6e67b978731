"""Elementwise parts of the fused pass: a pair of functions per family of experts, and the gates.

A family's ``_density`` turns the linear predictors of a block into means and log densities; its
``_moments`` turn responsibilities into Gram weights (curvature) and weighted slopes, and add up
masses, squares and fitted means. Inputs of m rows are read and written in place. Codes are
known when a pass is compiled: only the branches of its family and gate are.
"""

from __future__ import annotations

import math

from numba import njit

from mixexperts.kernels._numba_math import EXACT, FAST, exp, log1p_unit, log_factorial
from mixexperts.kernels._numba_sums import add_scaled, fill

#: Codes of the families.
GAUSSIAN, POISSON, BINOMIAL = 0, 1, 2
#: Codes of the gates.
CONSTANT, SOFTMAX, GAUSSIAN_GATE = 0, 1, 2

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Largest eta of a Poisson mean, as in the reference: the square of the mean stays a number.
_TOP = 300.0


# --- elementwise parts of the families ---------------------------------------------------------


@njit(fastmath=FAST, error_model="numpy")
def _gaussian_density(y, mean, scale, log_f, m):
    inverse = 1.0 / scale
    constant = -math.log(scale) - _HALF_LOG_TWO_PI
    for i in range(m):
        scaled = (y[i] - mean[i]) * inverse
        log_f[i] = constant - 0.5 * scaled * scaled


@njit(fastmath=EXACT, error_model="numpy")
def _poisson_density(y, mean, log_f, m):
    for i in range(m):
        eta = min(mean[i], _TOP)
        rate = exp(eta)
        mean[i] = rate
        log_f[i] = y[i] * eta - rate


@njit(fastmath=EXACT, error_model="numpy")
def _binomial_density(y, trials, mean, log_f, m):
    for i in range(m):
        eta = mean[i]
        size = abs(eta)
        small = exp(-size)
        probability = 1.0 / (1.0 + small)
        mean[i] = probability if eta >= 0.0 else small * probability
        softplus = max(eta, 0.0) + log1p_unit(small)
        log_f[i] = y[i] * eta - trials[i] * softplus


@njit(inline="always")
def density(code, y, trials, mean, aux, log_f, m):
    """Log density of a block under one expert; replaces the linear predictor by the mean.

    What does not depend on the expert is left to :func:`constant`.
    """
    if code == GAUSSIAN:
        _gaussian_density(y, mean, aux, log_f, m)
    elif code == POISSON:
        _poisson_density(y, mean, log_f, m)
    else:
        _binomial_density(y, trials, mean, log_f, m)


@njit(error_model="numpy")
def _poisson_constant(y, out, m):
    for i in range(m):
        out[i] = -log_factorial(y[i])


@njit(error_model="numpy")
def _binomial_constant(y, trials, out, m):
    for i in range(m):
        failures = log_factorial(trials[i] - y[i])
        out[i] = log_factorial(trials[i]) - log_factorial(y[i]) - failures


@njit(inline="always")
def constant(code, y, trials, out, m):
    """The part of the log density that is common to all experts."""
    if code == GAUSSIAN:
        fill(out, 0.0, m)
    elif code == POISSON:
        _poisson_constant(y, out, m)
    else:
        _binomial_constant(y, trials, out, m)


@njit(fastmath=FAST, error_model="numpy")
def _gaussian_moments(y, mean, w, v, sums, k, m):
    mass = squares = fitted = 0.0
    for i in range(m):
        residual = y[i] - mean[i]
        weighted = w[i] * residual
        mass += w[i]
        squares += weighted * residual
        fitted += w[i] * mean[i]
        v[i] = weighted
    sums[0, k] += mass
    sums[1, k] += squares
    sums[2, k] += fitted


@njit(fastmath=FAST, error_model="numpy")
def _poisson_moments(y, mean, w, v, sums, k, m):
    mass = fitted = 0.0
    for i in range(m):
        weighted = w[i] * mean[i]
        mass += w[i]
        fitted += weighted
        v[i] = w[i] * (y[i] - mean[i])
        w[i] = weighted
    sums[0, k] += mass
    sums[2, k] += fitted


@njit(fastmath=FAST, error_model="numpy")
def _binomial_moments(y, trials, mean, w, v, sums, k, m):
    mass = fitted = 0.0
    for i in range(m):
        weighted = w[i] * trials[i]
        mass += w[i]
        fitted += w[i] * mean[i]
        v[i] = w[i] * y[i] - weighted * mean[i]
        w[i] = weighted * mean[i] * (1.0 - mean[i])
    sums[0, k] += mass
    sums[2, k] += fitted


@njit(inline="always")
def moments(code, y, trials, mean, w, v, sums, k, m):
    """Turn weights ``w`` into Gram weights, make weighted slopes ``v``, add to the sums."""
    if code == GAUSSIAN:
        _gaussian_moments(y, mean, w, v, sums, k, m)
    elif code == POISSON:
        _poisson_moments(y, mean, w, v, sums, k, m)
    else:
        _binomial_moments(y, trials, mean, w, v, sums, k, m)


@njit(fastmath=FAST, error_model="numpy")
def _gaussian_slopes(y, mean, scale, s, t, c, d, e, m):
    precision = 1.0 / (scale * scale)
    for i in range(m):
        residual = y[i] - mean[i]
        s[i] = residual * precision
        square = residual * s[i]
        t[i] = square - 1.0
        c[i] = precision
        d[i] = 2.0 * s[i]
        e[i] = 2.0 * square


@njit(fastmath=FAST, error_model="numpy")
def _poisson_slopes(y, mean, s, c, m):
    for i in range(m):
        s[i] = y[i] - mean[i]
        c[i] = mean[i]


@njit(fastmath=FAST, error_model="numpy")
def _binomial_slopes(y, trials, mean, s, c, m):
    for i in range(m):
        s[i] = y[i] - trials[i] * mean[i]
        c[i] = trials[i] * mean[i] * (1.0 - mean[i])


@njit(inline="always")
def slopes(code, y, trials, mean, scale, slope, curve, k, n_experts, m):
    """Derivatives in the linear predictors of expert k: first ones, second ones negated.

    Gaussian experts have two predictors, mean and log scale, and so the three rows
    k, k + K and k + 2 K of ``curve``: mean with mean, mean with log scale, log scale with itself.
    """
    if code == GAUSSIAN:
        second, third = k + n_experts, k + 2 * n_experts
        _gaussian_slopes(
            y, mean, scale, slope[k], slope[second], curve[k], curve[second], curve[third], m
        )
    elif code == POISSON:
        _poisson_slopes(y, mean, slope[k], curve[k], m)
    else:
        _binomial_slopes(y, trials, mean, slope[k], curve[k], m)


# --- the gates ---------------------------------------------------------------------------------


@njit(fastmath=FAST, error_model="numpy")
def gaussian_score(row, Zt, q, m, U, score):
    """``c - |u|^2 / 2`` with ``u = A z - b``; ``row`` holds c, then b_a and A[a, 0..a] for each a.

    U keeps u: sums over it are of residuals in the expert's own standard deviations.
    """
    for i in range(m):
        score[i] = row[0]
    t = 1
    for a in range(q):
        u = U[a]
        fill(u, -row[t], m)
        for b in range(a + 1):
            add_scaled(u, row[t + 1 + b], Zt[b], m)
        for i in range(m):
            score[i] -= 0.5 * u[i] * u[i]
        t += a + 2


@njit(fastmath=FAST, error_model="numpy")
def softmax_rows(prob, resp, weight, total, n_experts, m, V, W):
    """Gate residuals into V, weights of the gate's information blocks into W."""
    free = n_experts - 1
    for i in range(m):
        total[i] = 1.0 / total[i]
    for a in range(free):
        p, r, v = prob[a], resp[a], V[a]
        for i in range(m):
            p[i] = p[i] * total[i]
            v[i] = r[i] - weight[i] * p[i]
    t = 0
    for a in range(free):
        p = prob[a]
        for b in range(a):
            other, out = prob[b], W[t]
            for i in range(m):
                out[i] = -weight[i] * p[i] * other[i]
            t += 1
        out = W[t]
        for i in range(m):
            out[i] = weight[i] * p[i] * (1.0 - p[i])
        t += 1
