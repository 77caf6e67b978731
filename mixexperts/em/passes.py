"""Which code runs a pass: the fused kernels, or the methods of gate and expert."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from mixexperts._batch import Array, Batch, Columns, Stats, Theta, tree_sum
from mixexperts.em.model import Model, em_pass
from mixexperts.errors import UnsupportedCombinationError

if TYPE_CHECKING:
    from mixexperts.experts._linear import LinearExpert

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
    fused, termed = is_fused(model), has_terms(model)
    if backend == "numba" and not (fused or termed):
        raise UnsupportedCombinationError(
            f"backend='numba' has no fused pass for the gate {model.gate.name!r} with the expert "
            f"{model.expert.name!r}; use backend='auto'"
        )
    if backend == "numpy":
        return em_pass
    return fused_pass if fused else terms_pass if termed else em_pass


def is_fused(model: Model) -> bool:
    """Whether the compiled pass knows the gate and the family."""
    return model.expert.fused_code is not None and model.gate.fused_code is not None


def has_terms(model: Model) -> bool:
    """Whether the compiled sums serve the gate and a family that gives its terms as arrays."""
    from mixexperts.experts._linear import LinearExpert

    return isinstance(model.expert, LinearExpert) and model.gate.fused_code is not None


def is_compiled(model: Model) -> bool:
    """Whether a compiled pass reads the rows, and standardises them as it does."""
    return is_fused(model) or has_terms(model)


def terms_pass(model: Model, theta: Theta, batch: Batch) -> Stats:
    """The same statistics as :func:`em_pass`, compiled but for the family's own terms."""
    if batch.unit is not None or batch.log_prior is not None:
        return em_pass(model, theta, batch)
    parts = (_terms_block(model, theta, part) for part in batch.split(_TERM_ROWS))
    return tree_sum(parts)


def _terms_block(model: Model, theta: Theta, batch: Batch) -> Stats:
    """A block whose terms stay in the cache."""
    from mixexperts.kernels import numba_terms

    gate, expert = model.gate, cast("LinearExpert", model.expert)
    source = _source(batch.designs["mean"])
    coef = np.ascontiguousarray(theta.expert["coef"])
    eta = np.empty((len(coef), batch.n_rows))
    offset = _NONE if batch.offset is None else np.ascontiguousarray(batch.offset)
    numba_terms.linear_predictors()(coef, offset, *source, eta)
    y = batch.y[None, :] if batch.y.ndim == 1 else np.ascontiguousarray(batch.y.T)[:, None, :]
    shapes = {name: values[:, None] for name, values in expert.shapes_of(theta.expert).items()}
    terms = expert.terms(y, eta, **shapes)
    resp = np.empty_like(eta)
    log_likelihood, gram, cross, gradient, information = numba_terms.summed(gate.fused_code)(
        batch.same_design,
        *(_full(part, eta) for part in (terms.log_f, terms.slopes[0], terms.weights[0])),
        np.ascontiguousarray(batch.weight),
        np.ascontiguousarray(gate.fused_inputs(theta.gate)),
        *source,
        *(source if batch.same_design else _source(batch.Z)),
        resp,
    )
    mass = resp.sum(axis=1)
    sums = np.stack([mass, np.zeros_like(mass), _weighted(resp, terms.mean)])
    gate_stats = gate.fused_stats(theta.gate, sums, gradient, unfold(information, batch.Z.shape[1]))
    expert_stats = {
        "mass": mass,
        "gram": unfold(gram, batch.designs["mean"].shape[1]),
        "cross": cross,
        "fitted": sums[2],
        **expert.shape_stats(
            [_weighted(resp, part) for part in terms.slopes[1:]],
            [_weighted(resp, part) for part in terms.weights[1:]],
        ),
    }
    return {
        "log_likelihood": log_likelihood,
        "weight": float(batch.weight.sum()),
        **{f"gate.{name}": value for name, value in gate_stats.items()},
        **{f"expert.{name}": value for name, value in expert_stats.items()},
    }


def _full(part: Array, like: Array) -> Array:
    return np.ascontiguousarray(np.broadcast_to(part, like.shape))


def _weighted(resp: Array, part: Array) -> Array:
    """Sums over rows (K,); what has no weight may be anything."""
    with np.errstate(invalid="ignore"):
        total: Array = np.einsum("kn,kn->k", resp, np.broadcast_to(part, resp.shape))
        if not np.isfinite(total).all():
            total = np.where(resp > 0.0, resp * part, 0.0).sum(axis=1)
    return total


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
