"""Which code runs a pass: the fused kernels, or the methods of gate and expert."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch, Columns, Stats, Theta, tree_sum
from mixexperts.em.model import Model, em_pass
from mixexperts.errors import UnsupportedCombinationError

Pass: TypeAlias = Callable[[Model, Theta, Batch], Stats]

BACKENDS = ("auto", "numba", "numpy", "cupy")
_NONE = np.empty(0)
_CONSTANT, _SOFTMAX = 0, 1
# Rows whose terms are computed at a time: the cache holds the arrays, a call costs little per row.
_TERM_ROWS = 16384


def check_backend(backend: str) -> None:
    """Refuse a name that is no backend.

    Raises
    ------
    ValueError
        If the backend is not known.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend={backend!r} is not known; known backends: "
            + ", ".join(repr(name) for name in BACKENDS)
        )


def check_available(backend: str) -> None:
    """Refuse a backend that cannot run here.

    Raises
    ------
    ValueError
        If the backend is not known.
    BackendUnavailableError
        If it is ``"cupy"``, and there is no CuPy or no GPU.
    """
    check_backend(backend)
    if backend == "cupy":
        from mixexperts.em import cupy_device

        cupy_device.load_cupy()


def is_served(model: Model) -> bool:
    """Whether the pass on a GPU knows the gate and the expert."""
    from mixexperts.em import device

    return device.is_served(model)


def choose_pass(model: Model, backend: str) -> Pass:
    """The pass that serves a model.

    Raises
    ------
    UnsupportedCombinationError
        If ``backend="numba"`` or ``"cupy"`` is asked for and its kernels do not know the model.
    """
    if backend == "cupy":
        from mixexperts.em.device import check_served, device_pass

        check_served(model)
        return device_pass
    if backend == "numba" and not is_compiled(model):
        raise UnsupportedCombinationError(
            f"backend='numba' has no fused pass for the gate {model.gate.name!r} with the expert "
            f"{model.expert.name!r}; use backend='auto'"
        )
    if backend == "numpy" or not is_compiled(model):
        return em_pass
    return fused_pass if is_fused(model) else terms_pass


def is_fused(model: Model) -> bool:
    """Whether the compiled pass knows the gate and the family."""
    return model.expert.fused_code is not None and model.gate.fused_code is not None


def is_compiled(model: Model) -> bool:
    """Whether a compiled pass reads the rows, and standardises them as it does."""
    return model.gate.fused_code is not None and (
        model.expert.fused_code is not None or model.expert.has_row_terms
    )


def fused_pass(model: Model, theta: Theta, batch: Batch) -> Stats:
    """The same statistics as :func:`em_pass`, from one compiled loop over the rows."""
    if batch.unit is not None or batch.log_prior is not None:
        return em_pass(model, theta, batch)
    from mixexperts.kernels import numba_

    gate, expert = model.gate, model.expert
    experts = _source(batch.designs["mean"])
    run = numba_.fused_pass(expert.fused_code, gate.fused_code)
    log_likelihood, sums, gram, cross, gradient, information = run(
        batch.same_design,
        *_rows(model, theta, batch),
        *experts,
        *(experts if batch.same_design else _source(batch.Z)),
    )
    gate_stats = gate.fused_stats(theta.gate, sums, gradient, unfold(information, batch.Z.shape[1]))
    p = batch.designs["mean"].shape[1]
    expert_stats = expert.fused_stats(sums, unfold(gram, p), cross)
    return {
        "log_likelihood": log_likelihood,
        "weight": float(batch.weight.sum()),
        **{f"gate.{name}": value for name, value in gate_stats.items()},
        **{f"expert.{name}": value for name, value in expert_stats.items()},
    }


def fused_information(model: Model, theta: Theta, batch: Batch) -> Array | None:
    """Minus the Hessian of the log-likelihood by the compiled pass, untied; None: not served."""
    gate, expert = model.gate, model.expert
    served = is_fused(model) and batch.unit is None and batch.log_prior is None
    shared = gate.fused_code == _SOFTMAX and batch.same_design
    if not (served and (shared or gate.fused_code == _CONSTANT)):
        return None
    from mixexperts.kernels import numba_information

    run = numba_information.information(expert.fused_code, gate.fused_code)
    matrix: Array = run(
        *_rows(model, theta, batch),
        *_source(batch.designs["mean"]),
    )
    return matrix


def terms_pass(model: Model, theta: Theta, batch: Batch) -> Stats:
    """The same statistics as :func:`em_pass`, compiled but for what the family says of its rows."""
    if batch.unit is not None or batch.log_prior is not None:
        return em_pass(model, theta, batch)
    return tree_sum(_terms_block(model, theta, part) for part in batch.split(_TERM_ROWS))


def _terms_block(model: Model, theta: Theta, batch: Batch) -> Stats:
    from mixexperts.kernels import numba_terms

    gate, expert = model.gate, model.expert
    source = _source(batch.designs["mean"])
    coef = np.ascontiguousarray(expert.term_coef(theta.expert))
    offset = _NONE if batch.offset is None else np.ascontiguousarray(batch.offset)
    eta = np.empty((len(coef), batch.n_rows))
    numba_terms.linear_predictors()(coef, offset, *source, eta)
    terms = expert.row_terms(theta.expert, batch.y, eta)
    resp = np.empty(terms.log_f.shape)
    log_likelihood, gram, cross, gradient, information = numba_terms.summed(gate.fused_code)(
        batch.same_design,
        *(np.ascontiguousarray(part) for part in (terms.log_f, terms.slope, terms.curve)),
        np.ascontiguousarray(batch.weight),
        np.ascontiguousarray(gate.fused_inputs(theta.gate)),
        *source,
        *(source if batch.same_design else _source(batch.Z)),
        resp,
    )
    mass = resp.sum(axis=1)
    p, q = batch.designs["mean"].shape[1], batch.Z.shape[1]
    gate_stats = gate.fused_stats(theta.gate, mass[None], gradient, unfold(information, q))
    sums = {name: _weighted(resp, part) for name, part in terms.sums.items()}
    expert_stats = expert.term_stats(theta.expert, mass, unfold(gram, p), cross, sums)
    return {
        "log_likelihood": log_likelihood,
        "weight": float(batch.weight.sum()),
        **{f"gate.{name}": value for name, value in gate_stats.items()},
        **{f"expert.{name}": value for name, value in expert_stats.items()},
    }


def _weighted(resp: Array, part: Array) -> Array:
    """Sums over rows of (K, ..., n) under weights (K, n); what has no weight may be anything."""
    with np.errstate(invalid="ignore", over="ignore"):
        total: Array = np.einsum("kn,k...n->k...", resp, part)
        if not np.isfinite(total).all():
            weight = resp.reshape(len(resp), *[1] * (part.ndim - 2), -1)
            total = np.where(weight > 0.0, weight * part, 0.0).sum(axis=-1)
    return total


def _rows(model: Model, theta: Theta, batch: Batch) -> tuple[Array, ...]:
    """What the compiled passes need beside the designs."""
    coef, aux = model.expert.fused_inputs(theta.expert)
    y, trials = model.expert.fused_response(batch.y)
    arrays = (
        np.asarray(y, dtype=np.float64),
        np.asarray(trials, dtype=np.float64),
        _NONE if batch.offset is None else batch.offset,
        batch.weight,
        coef,
        aux,
        model.gate.fused_inputs(theta.gate),
    )
    return tuple(map(np.ascontiguousarray, arrays))


def _source(design: Array | Columns) -> tuple[Array, bool, int, Array, Array, Array]:
    """Where the kernel finds a design: values, layout, first row, columns, shift and factor."""
    if not isinstance(design, Columns):
        return np.ascontiguousarray(design), False, 0, *_as_they_are(design.shape[1])
    values = design.values
    plan = design.index, design.shift, design.factor
    if values.flags.c_contiguous:
        return values, False, design.start, *plan
    if values.flags.f_contiguous:
        return values.T, True, design.start, *plan
    return np.ascontiguousarray(values[design.start : design.stop]), False, 0, *plan


@functools.cache
def _as_they_are(p: int) -> tuple[Array, Array, Array]:
    return np.arange(p), np.zeros(p), np.ones(p)


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
