"""Compiled coordinate descent on weighted quadratics with absolute values in the penalty.

Columns are rows of ``XT`` (q, n), so that each lies in one piece. A sweep over one column reads
``n`` numbers of it and of the row weights twice: for the slope, and for the move.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from mixexperts.kernels._numba_math import FAST, exp, log
from mixexperts.kernels._numba_mixture import compiled, version


@njit(inline="always")
def _threshold(slope, curve, coef, l1, l2):
    """Minimiser in b of ``curve (b - coef)^2 / 2 - slope (b - coef) + l1 |b| + l2 b^2 / 2``."""
    pull = slope + curve * coef
    total = curve + l2
    if total <= 0.0:
        return coef
    if pull > l1:
        return (pull - l1) / total
    if pull < -l1:
        return (pull + l1) / total
    return 0.0


@njit(fastmath=FAST, error_model="numpy")
def _slope(x, g, h, d, n):
    total = 0.0
    for i in range(n):
        total += x[i] * (g[i] - h[i] * d[i])
    return total


@njit(fastmath=FAST, error_model="numpy")
def _squares(x, h, n):
    total = 0.0
    for i in range(n):
        total += x[i] * x[i] * h[i]
    return total


@njit(fastmath=FAST, error_model="numpy")
def _move(x, step, d, n):
    for i in range(n):
        d[i] += step * x[i]


@njit(fastmath=FAST, error_model="numpy")
def _intercept(g, h, d, n):
    """Move of the intercept that maximises the quadratic, and what that gains."""
    slope = curve = 0.0
    for i in range(n):
        slope += g[i] - h[i] * d[i]
        curve += h[i]
    if curve <= 0.0:
        return 0.0, 0.0
    step = slope / curve
    for i in range(n):
        d[i] += step
    return step, 0.5 * slope * step


@njit(error_model="numpy")
def _linear_sweep(XT, g, h, d, coef, l1, l2, squares, active):
    """One sweep over the columns (``active``: those that are not zero); the largest gain."""
    q, n = XT.shape
    gain = 0.0
    for j in range(q):
        if l1[j] == np.inf or (active and coef[j] == 0.0):
            continue
        if squares[j] < 0.0:
            squares[j] = _squares(XT[j], h, n)
        new = _threshold(_slope(XT[j], g, h, d, n), squares[j], coef[j], l1[j], l2[j])
        step = new - coef[j]
        if step != 0.0:
            _move(XT[j], step, d, n)
            coef[j] = new
            gain = max(gain, 0.5 * (squares[j] + l2[j]) * step * step)
    return gain


@functools.cache
def linear_descent():
    """Descent for one linear predictor, compiled when first called."""
    key = version()

    def run(XT, g, h, coef, intercept, l1, l2, tol, most, d):
        """Maximise ``g @ d - h @ d**2 / 2 - sum(l1 |coef| + l2 coef**2 / 2)``.

        ``d`` (n,) is the change of the predictor, ``intercept + coef @ XT`` less what it was, zero
        at first; coef (q,) is changed in place. An l1 of infinity leaves a column alone. Sweeps end
        when no coordinate gains more than ``tol``, or after ``most``. Returns the intercept's move.
        """
        key  # noqa: B018
        q, n = XT.shape
        squares = np.full(q, -1.0)
        shift = 0.0
        sweeps = 0
        while sweeps < most:
            gain = _linear_sweep(XT, g, h, d, coef, l1, l2, squares, False)
            if intercept:
                step, gained = _intercept(g, h, d, n)
                shift += step
                gain = max(gain, gained)
            sweeps += 1
            if gain <= tol:
                break
            while sweeps < most:
                gain = _linear_sweep(XT, g, h, d, coef, l1, l2, squares, True)
                if intercept:
                    step, gained = _intercept(g, h, d, n)
                    shift += step
                    gain = max(gain, gained)
                sweeps += 1
                if gain <= tol:
                    break
        return shift

    return compiled(run, "linear_descent")


@njit(fastmath=FAST, error_model="numpy")
def _softmax_slope(x, g, p, d, mean, n):
    total = 0.0
    for i in range(n):
        total += x[i] * (g[i] - p[i] * (d[i] - mean[i]))
    return total


@njit(fastmath=FAST, error_model="numpy")
def _softmax_squares(x, p, share, n):
    total = 0.0
    for i in range(n):
        total += x[i] * x[i] * p[i] * (1.0 - share[i])
    return total


@njit(fastmath=FAST, error_model="numpy")
def _softmax_move(x, step, share, d, mean, n):
    for i in range(n):
        moved = step * x[i]
        d[i] += moved
        mean[i] += share[i] * moved


@njit(fastmath=FAST, error_model="numpy")
def _softmax_intercept(g, p, share, d, mean, n):
    slope = curve = 0.0
    for i in range(n):
        slope += g[i] - p[i] * (d[i] - mean[i])
        curve += p[i] * (1.0 - share[i])
    if curve <= 0.0:
        return 0.0, 0.0
    step = slope / curve
    for i in range(n):
        d[i] += step
        mean[i] += share[i] * step
    return step, 0.5 * slope * step


@njit(error_model="numpy")
def _softmax_sweep(XT, G, P, share, D, mean, coef, shift, l1, l2, squares, intercept, active):
    free, (q, n) = len(G), XT.shape
    gain = 0.0
    for k in range(free):
        for j in range(q):
            if l1[k, j] == np.inf or (active and coef[k, j] == 0.0):
                continue
            if squares[k, j] < 0.0:
                squares[k, j] = _softmax_squares(XT[j], P[k], share[k], n)
            slope = _softmax_slope(XT[j], G[k], P[k], D[k], mean, n)
            new = _threshold(slope, squares[k, j], coef[k, j], l1[k, j], l2[k, j])
            step = new - coef[k, j]
            if step != 0.0:
                _softmax_move(XT[j], step, share[k], D[k], mean, n)
                coef[k, j] = new
                gain = max(gain, 0.5 * (squares[k, j] + l2[k, j]) * step * step)
        if intercept:
            step, gained = _softmax_intercept(G[k], P[k], share[k], D[k], mean, n)
            shift[k] += step
            gain = max(gain, gained)
    return gain


@functools.cache
def softmax_descent():
    """Descent for the logits of a softmax, compiled when first called."""
    key = version()

    def run(XT, G, P, share, coef, shift, intercept, l1, l2, tol, most, D, mean):
        """Maximise the quadratic model of a multinomial log-likelihood less its penalty.

        ``G`` (C, n) are weighted residuals, ``share`` (C, n) probabilities, ``P`` (C, n) these
        times the row weights; ``D`` (C, n) the changes of the logits and ``mean`` (n,) their mean
        under the probabilities, zero at first. The information about the logits is that of
        the softmax, in which all classes take part. coef (C', q) with C' = C, or C - 1 where the
        last class is the reference, is changed in place, and shift (C',) takes the intercepts.
        """
        key  # noqa: B018
        free = len(coef)
        squares = np.full(coef.shape, -1.0)
        sweeps = 0
        while sweeps < most:
            gain = _softmax_sweep(
                XT, G[:free], P, share, D, mean, coef, shift, l1, l2, squares, intercept, False
            )
            sweeps += 1
            if gain <= tol:
                break
            while sweeps < most:
                gain = _softmax_sweep(
                    XT, G[:free], P, share, D, mean, coef, shift, l1, l2, squares, intercept, True
                )
                sweeps += 1
                if gain <= tol:
                    break
        return sweeps

    return compiled(run, "softmax_descent")


@functools.cache
def group_descent():
    """Descent over groups of coordinates of several predictors, compiled when first called."""
    key = version()

    def run(XT, G, H, coef, unit, l2, start, members, l1, tol, most, D):
        """Maximise ``sum(G * D - H * D**2 / 2)`` less a norm of each group.

        ``G``, ``H``, ``D`` (M, n) are slopes, curvatures and changes of M predictors, coef (M, q)
        their coefficients. The coordinates of group g are ``members[start[g]:start[g + 1]]``,
        numbers ``m * q + j`` in ascending order; its penalty is ``l1[g]`` times the norm of
        ``unit * coef``, units being positive, and ``l2 / 2`` times the squares. Curvatures in a
        group are replaced by their largest, which leaves a minorising function.
        """
        key  # noqa: B018
        M, q = coef.shape
        n = XT.shape[1]
        squares = np.full((M, q), -1.0)
        n_groups = len(start) - 1
        pulls = np.empty(len(members))
        sweeps = 0
        while sweeps < most:
            gain = 0.0
            for g in range(n_groups):
                first, last = start[g], start[g + 1]
                largest = 0.0
                norm = 0.0
                trace = 0.0
                for c in range(first, last):
                    m, j = members[c] // q, members[c] % q
                    if squares[m, j] < 0.0:
                        squares[m, j] = _squares(XT[j], H[m], n)
                    if c == first or members[c - 1] // q != m:
                        trace = 0.0
                    # columns of one predictor are correlated: the trace bounds the largest root
                    trace += (squares[m, j] + l2[m, j]) / (unit[m, j] * unit[m, j])
                    largest = max(largest, trace)
                if largest <= 0.0:
                    continue
                for c in range(first, last):
                    m, j = members[c] // q, members[c] % q
                    u = unit[m, j]
                    slope = _slope(XT[j], G[m], H[m], D[m], n) - l2[m, j] * coef[m, j]
                    pull = slope / u + largest * u * coef[m, j]
                    pulls[c] = pull
                    norm += pull * pull
                norm = np.sqrt(norm)
                factor = 0.0
                if norm > l1[g]:
                    factor = (1.0 - l1[g] / norm) / largest
                for c in range(first, last):
                    m, j = members[c] // q, members[c] % q
                    new = factor * pulls[c] / unit[m, j]
                    step = new - coef[m, j]
                    if step != 0.0:
                        _move(XT[j], step, D[m], n)
                        coef[m, j] = new
                        gain = max(gain, 0.5 * largest * (unit[m, j] * step) ** 2)
            sweeps += 1
            if gain <= tol:
                break
        return sweeps

    return compiled(run, "group_descent")


@functools.cache
def softmax_rows():
    """E-step of rows that are columns, compiled when first called."""
    key = version()

    def run(log_f, score, weight, resp, prob):
        """Responsibilities and gate weights (K, n), times no weight; the log-likelihood."""
        key  # noqa: B018
        K, n = log_f.shape
        total = 0.0
        for i in range(n):
            top = score[0, i]
            for k in range(1, K):
                top = max(top, score[k, i])
            gate = 0.0
            peak = -np.inf
            for k in range(K):
                value = score[k, i] - top
                e = exp(value)
                prob[k, i] = e
                gate += e
                value += log_f[k, i]
                resp[k, i] = value
                peak = max(peak, value)
            if not peak > -np.inf:  # no expert gives the row a chance
                if weight[i] > 0.0:
                    total = peak if np.isnan(peak) else -np.inf
                for k in range(K):
                    prob[k, i] /= gate
                    resp[k, i] = prob[k, i]
                continue
            mass = 0.0
            for k in range(K):
                e = exp(resp[k, i] - peak)
                resp[k, i] = e
                mass += e
            for k in range(K):
                prob[k, i] /= gate
                resp[k, i] /= mass
            total += weight[i] * (peak + log(mass / gate))
        return total

    return compiled(run, "softmax_rows_by_column")


@functools.cache
def gauge():
    """Shifts of coefficients that no likelihood sees, compiled when first called."""
    key = version()

    def run(coef, l1, l2):
        """Shift each column (C, q) to the least ``sum(l1 |v| + l2 v**2 / 2)``, in place.

        Where an interval of shifts is as good, the one next to the mean.
        """
        key  # noqa: B018
        C, q = coef.shape
        for j in range(q):
            some = False
            barred = False
            for c in range(C):
                some |= coef[c, j] != 0.0
                barred |= l1[c, j] == np.inf
            if not some or barred:
                continue
            order = np.argsort(coef[:, j])
            mean = np.mean(coef[:, j])
            low = high = np.nan
            # the derivative in the shift rises: find where it meets zero
            for a in range(C):
                point = coef[order[a], j]
                left = right = 0.0
                for c in range(C):
                    away = point - coef[c, j]
                    left += l2[c, j] * away
                    right += l2[c, j] * away
                    if away > 0.0:
                        left += l1[c, j]
                        right += l1[c, j]
                    elif away < 0.0:
                        left -= l1[c, j]
                        right -= l1[c, j]
                    else:
                        left -= l1[c, j]
                        right += l1[c, j]
                slack = 1e-14 * (abs(left) + abs(right))
                if left <= slack and right >= -slack:
                    if np.isnan(low):
                        low = point
                    high = point
            if np.isnan(low):  # between two points, where the squares decide
                slope = rate = 0.0
                for a in range(C - 1):
                    first, last = coef[order[a], j], coef[order[a + 1], j]
                    middle = 0.5 * (first + last)
                    slope = rate = 0.0
                    for c in range(C):
                        slope += l2[c, j] * (middle - coef[c, j])
                        slope += l1[c, j] if coef[c, j] < middle else -l1[c, j]
                        rate += l2[c, j]
                    if rate > 0.0:
                        zero = middle - slope / rate
                        if first <= zero <= last:
                            low = high = zero
                            break
            if np.isnan(low):
                continue
            shift = min(max(mean, low), high)
            if shift != 0.0:
                for c in range(C):
                    coef[c, j] -= shift
        return 0

    return compiled(run, "gauge")
