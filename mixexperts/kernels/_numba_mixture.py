"""The E-step of a block of rows, shared by the compiled passes.

Rows are standardised as they are read, so that no second copy of the features is kept.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numba import njit

from mixexperts.kernels._numba_families import (
    CONSTANT,
    GAUSSIAN_GATE,
    SOFTMAX,
    constant,
    density,
    gaussian_score,
)
from mixexperts.kernels._numba_math import EXACT, FAST, exp, log
from mixexperts.kernels._numba_sums import add_scaled, fill, predictor, shift

#: Rows per block.
BLOCK = 384


@njit(fastmath=EXACT, error_model="numpy")
def normalize(values, n_experts, m, top, total):
    """Replace rows of logs by ``exp(value - top)``; keep the largest log and the sum."""
    for i in range(m):
        top[i] = values[0, i]
        total[i] = 0.0
    for k in range(1, n_experts):
        row = values[k]
        for i in range(m):
            top[i] = max(top[i], row[i])
    for i in range(m):
        # a row without support (all -inf) must give -inf, not NaN, so that the fall is seen
        top[i] = top[i] if top[i] >= -1.7e308 else 0.0
    for k in range(n_experts):
        row = values[k]
        for i in range(m):
            value = exp(row[i] - top[i])
            row[i] = value
            total[i] += value


@njit(fastmath=EXACT, error_model="numpy")
def add_shifted(score, n_experts, m, top, joint):
    """Take its largest entry off each row of scores, then add them: huge ones swallow nothing."""
    for i in range(m):
        top[i] = score[0, i]
    for k in range(1, n_experts):
        row = score[k]
        for i in range(m):
            top[i] = max(top[i], row[i])
    for k in range(n_experts):
        row, out = score[k], joint[k]
        for i in range(m):
            row[i] -= top[i]
            out[i] += row[i]


@njit(fastmath=EXACT, error_model="numpy")
def log_density(top, total, gate_top, gate_total, out, m):
    for i in range(m):
        out[i] += (top[i] - gate_top[i]) + log(total[i] / gate_total[i])


@njit(fastmath=FAST, error_model="numpy")
def weighted_sum(weight, values, m):
    total = 0.0
    for i in range(m):
        # a row of weight zero counts for nothing, even where its density is zero
        total += weight[i] * values[i] if weight[i] > 0.0 else 0.0
    return total


@njit(fastmath=FAST, error_model="numpy")
def responsibilities(values, weight, total, n_experts, m, W):
    for i in range(m):
        total[i] = weight[i] / total[i] if total[i] > 0.0 else 0.0
    for k in range(n_experts):
        row, out = values[k], W[k]
        for i in range(m):
            out[i] = row[i] * total[i]


@njit(fastmath=FAST, error_model="numpy")
def gather(X, by_column, start, m, columns, shift, factor, Xt):
    """Standardised columns of the block; a column of -1 is the constant one."""
    for j in range(len(columns)):
        out, c, f = Xt[j], shift[j], factor[j]
        if columns[j] < 0:
            fill(out, 1.0, m)
        elif by_column:
            # slices first: an index start + i could be negative and would not vectorise
            source = X[columns[j]][start : start + m]
            for i in range(m):
                out[i] = (source[i] - c) * f
        else:
            block, column = X[start : start + m], np.uintp(columns[j])
            for i in range(m):
                out[i] = (block[i, column] - c) * f


@njit(inline="always")
def mixture(
    code, gate_code, y, trials, offset, m, experts, aux, gate, logits, Xt, Zt, q,
    mean, joint, score, U, top, total, gate_top, gate_total, log_f,
):  # fmt: skip
    """E-step of a block: means, ``exp(joint - top)`` with its sum, the same of the gate, log f."""
    K, free = len(mean), len(logits)
    for k in range(K):
        predictor(experts[k], Xt, len(Xt), m, mean[k])
        if len(offset):
            add_scaled(mean[k], 1.0, offset, m)
        density(code, y, trials, mean[k], aux[k], joint[k], m)
        if gate_code == CONSTANT:
            shift(joint[k], gate[k, 0], m)
        elif gate_code == GAUSSIAN_GATE:
            gaussian_score(gate[k], Zt, q, m, U[k], score[k])
        elif k < free:
            predictor(logits[k], Zt, len(Zt), m, score[k])
        else:
            fill(score[k], 0.0, m)
        if gate_code == GAUSSIAN_GATE:
            add_scaled(joint[k], 1.0, score[k], m)
    if gate_code == SOFTMAX:
        add_shifted(score, K, m, top, joint)
    normalize(joint, K, m, top, total)
    if gate_code == SOFTMAX:
        normalize(score, K, m, gate_top, gate_total)
    constant(code, y, trials, log_f, m)
    log_density(top, total, gate_top, gate_total, log_f, m)


def version():
    """Digest of the sources: numba looks for changes in the file of a cached function alone."""
    folder = Path(__file__).parent
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.glob("*numba*.py"))))


def compiled(function, name, *parts):
    """The function compiled and cached, under a name of its own.

    Machine code is looked up by the function's name. Closures of one name that were compiled in
    different processes can be taken for each other once both are loaded.
    """
    function.__name__ = function.__qualname__ = "_".join([name, *map(str, parts)])
    return njit(cache=True, nogil=True, error_model="numpy")(function)
