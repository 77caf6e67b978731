"""Which code runs a pass: the fused kernels, or the methods of gate and expert."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch, Stats, Theta
from mixexperts.em.model import Model, em_pass
from mixexperts.errors import UnsupportedCombinationError

Pass: TypeAlias = Callable[[Model, Theta, Batch], Stats]

BACKENDS = ("auto", "numba", "numpy")
# What the kernels have an elementwise part for: GAUSSIAN; CONSTANT, SOFTMAX.
_EXPERT_CODES = (0,)
_GATE_CODES = (0, 1)
_NO_OFFSET = np.empty(0)


def choose_pass(model: Model, backend: str) -> Pass:
    """The pass that serves a model.

    Raises
    ------
    UnsupportedCombinationError
        If ``backend="numba"`` is asked for and the fused kernels do not know the model.
    """
    fused = model.expert.fused_code in _EXPERT_CODES and model.gate.fused_code in _GATE_CODES
    if backend == "numba" and not fused:
        raise UnsupportedCombinationError(
            f"backend='numba' has no fused pass for the gate {model.gate.name!r} with the expert "
            f"{model.expert.name!r}; use backend='auto'"
        )
    return fused_pass if fused and backend != "numpy" else em_pass


def fused_pass(model: Model, theta: Theta, batch: Batch) -> Stats:
    """The same statistics as :func:`em_pass`, from one compiled loop over the rows."""
    if batch.unit is not None or batch.log_prior is not None:
        return em_pass(model, theta, batch)
    from mixexperts.kernels import numba_

    gate, expert = model.gate, model.expert
    coef, aux = expert.fused_inputs(theta.expert)
    same = batch.Z is batch.X
    X = np.ascontiguousarray(batch.X)
    log_likelihood, sums, gram, cross, gradient, information = numba_.fused_pass(
        expert.fused_code,
        gate.fused_code,
        same,
        np.ascontiguousarray(batch.y),
        _NO_OFFSET if batch.offset is None else np.ascontiguousarray(batch.offset),
        X,
        X if same else np.ascontiguousarray(batch.Z),
        np.ascontiguousarray(batch.weight),
        np.ascontiguousarray(coef),
        np.ascontiguousarray(aux),
        np.ascontiguousarray(gate.fused_inputs(theta.gate)),
    )
    gate_stats = gate.fused_stats(sums, gradient, unfold(information, batch.Z.shape[1]))
    expert_stats = expert.fused_stats(sums, unfold(gram, batch.X.shape[1]), cross)
    return {
        "log_likelihood": log_likelihood,
        "weight": float(batch.weight.sum()),
        **{f"gate.{name}": value for name, value in gate_stats.items()},
        **{f"expert.{name}": value for name, value in expert_stats.items()},
    }


@functools.cache
def _triangle(p: int) -> tuple[Array, Array]:
    return np.tril_indices(p)


def unfold(triangles: Array, p: int) -> Array:
    """Lower triangles (G, p (p + 1) / 2), row by row, as symmetric matrices (G, p, p)."""
    rows, columns = _triangle(p)
    square = np.empty((len(triangles), p, p))
    square[:, rows, columns] = triangles
    square[:, columns, rows] = triangles
    return square
