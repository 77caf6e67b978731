"""What ``init`` may be, turned into starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.engine import Model
from mixexperts.em.init import AUTO, KINDS, keyed_rng, theta_from_responsibilities
from mixexperts.em.restarts import Start
from mixexperts.estimators._frame import Frame
from mixexperts.estimators._units import Grouping


@dataclass(frozen=True)
class StartMaker:
    """Turns what ``init`` may be into starts.

    ``labelled()`` gives rows and which of the ``n_given`` rows of the data they are, a mask or
    numbers; None means all of them. ``groups`` are those of the data; ``log_prior`` (u, K) is
    the evidence about the experts of their rows.
    """

    n_init: int
    n_experts: int
    model: Model
    frame: Frame
    labelled: Callable[[], tuple[Batch, Array | None]]
    n_given: int
    groups: Grouping | None = None
    log_prior: Array | None = None

    def starts(self, init: Any) -> tuple[Start, ...]:
        """Starts of a fit.

        A name gives ``n_init`` starts of that kind (``"auto"``: of all kinds in turn); labels,
        responsibilities, parameters or a fitted model give one; a list of those gives all.

        Raises
        ------
        ValueError, TypeError
            If ``init`` is none of these, or does not fit the data.
        """
        if isinstance(init, str):
            return self._with_evidence(init, _named(init, self.n_init, self.n_experts))
        if isinstance(init, list | tuple) and any(is_start(item) for item in init):
            return tuple(start for item in init for start in self.starts(item))
        if isinstance(init, dict):
            theta = parameters_of(init, self.n_experts, self.model, self.frame)
            return (Start("parameters", theta=theta),)
        if hasattr(init, "estimator"):
            init = init.estimator
        if hasattr(init, "fit") and hasattr(init, "get_params"):
            return (start_from_estimator(init, self.n_experts, self.model, self.frame),)
        return (Start("labels", theta=self._from_rows(init)),)

    def _with_evidence(self, init: str, starts: tuple[Start, ...]) -> tuple[Start, ...]:
        """One start comes from the evidence itself, all if it leaves nothing open."""
        if self.log_prior is None or self.n_experts == 1 or init != "auto":
            return starts
        pinned = np.isfinite(self.log_prior).sum(axis=1).max() == 1
        return (Start("prior"), *(() if pinned else starts[: self.n_init - 1]))

    def _from_rows(self, init: Any) -> Theta:
        values = rows_of_init(init, self.n_given)
        if self.groups is not None:
            self.groups.constant(
                values, "init", "rows of a group share one expert, and so one label"
            )
        batch, rows = self.labelled()
        if rows is not None:
            values = values[rows]
        resp = responsibilities_of(values, self.n_experts)
        rng = keyed_rng(0, "labels", 0)
        return theta_from_responsibilities(self.model, batch.dense(), resp, rng)


def rows_of_init(init: Any, n_given: int) -> Array:
    """Labels (n,) or responsibilities (n, K) among what ``init`` may be."""
    try:
        values = np.asarray(init)
    except ValueError as error:
        raise TypeError(f"init cannot be read as labels or responsibilities: {error}") from error
    if values.dtype == object or values.ndim not in (1, 2):
        raise TypeError(
            "init must be a name, labels (n,), responsibilities (n, K), a dict of "
            f"parameters, a fitted model, or a list of these; got {type(init).__name__}"
        )
    if len(values) != n_given:
        raise ValueError(f"init has {len(values)} rows but X has {n_given}")
    return values


def responsibilities_of(values: Array, n_experts: int) -> Array:
    """Responsibilities (n, K) of labels (n,), or checked ones."""
    make = _labels if values.ndim == 1 else _responsibilities
    return make(values, n_experts)


def is_start(item: Any) -> bool:
    return isinstance(item, str | dict | np.ndarray) or hasattr(item, "get_params")


def _named(init: str, n_init: int, n_experts: int) -> tuple[Start, ...]:
    if init != "auto" and init not in KINDS:
        known = ", ".join(repr(name) for name in ("auto", *KINDS))
        raise ValueError(
            f"init={init!r} is not known; known names: {known} (or labels, responsibilities, "
            "parameters, a fitted model, or a list of these)"
        )
    if n_experts == 1:
        return (Start("single"),)
    kinds = AUTO if init == "auto" else (init,)
    return tuple(Start(kinds[i % len(kinds)], i // len(kinds)) for i in range(n_init))


def _labels(values: Array, n_experts: int) -> Array:
    levels, codes = np.unique(values, return_inverse=True)
    if len(levels) != n_experts:
        raise ValueError(
            f"init holds {len(levels)} different labels, but n_experts={n_experts}; give as many "
            "labels as experts"
        )
    return np.eye(n_experts)[codes]


def _responsibilities(values: Array, n_experts: int) -> Array:
    if values.shape[1] != n_experts:
        raise ValueError(
            f"init has {values.shape[1]} columns of responsibilities, but n_experts={n_experts}"
        )
    resp = values.astype(np.float64)
    if not np.isfinite(resp).all() or (resp < 0).any():
        raise ValueError("init holds responsibilities that are negative, NaN or infinite")
    if not np.abs(resp.sum(axis=1) - 1.0).max() < 1e-6:
        raise ValueError("init holds responsibilities whose rows do not sum to one")
    if n_experts > 1 and np.ptp(resp, axis=0).max() < 1e-12:
        raise ValueError(
            "init holds the same responsibilities in every row: the experts would start alike, and "
            "EM cannot part experts that are alike; give rows that differ"
        )
    return resp


def parameters_of(init: dict[str, Any], n_experts: int, model: Model, frame: Frame) -> Theta:
    """Parameters by the names of the attributes, checked, on the engine's scale."""
    n_terms = frame.expert_map.n_terms
    own = model.expert.raw_template(n_experts, n_terms, frame.n_columns)
    gate = model.gate.neutral_raw(n_experts, frame.gate_map)
    shapes: dict[str, tuple[int, ...]] = {name: values.shape for name, values in own.items()}
    shapes |= {name: value.shape for name, value in gate.items()}
    unknown = sorted(set(init) - set(shapes))
    missing = [name for name in own if name not in init]
    if unknown or missing:
        raise ValueError(
            f"init is a dict of parameters with unknown keys {unknown} and missing keys {missing};"
            f" it takes {', '.join(shapes)} (the gate's may be left out)"
        )
    raw = {name: np.zeros(shape) for name, shape in shapes.items()} | gate
    for name, value in init.items():
        array = np.asarray(value, dtype=np.float64)
        free = np.isnan(own[name]) if name in own else False  # what a family has none of
        if array.shape != shapes[name] or not (np.isfinite(array) | free).all():
            raise ValueError(
                f"init[{name!r}] must be a finite array of shape {shapes[name]}, got shape "
                f"{array.shape}"
            )
        raw[name] = array
    if "intercept" in raw and not model.expert.fit_intercept and raw["intercept"].any():
        raise ValueError("init['intercept'] must be zero: the experts have no intercept")
    # A matrix that all experts share tells none from another.
    each = [values for name, values in raw.items() if name not in model.gate.shared_raw]
    alike = all(np.ptp(values, axis=0).max(initial=0.0) == 0.0 for values in each)
    if n_experts > 1 and alike:
        raise ValueError(
            "init holds the same parameters for every expert: EM cannot part experts that are "
            "alike; give experts that differ"
        )
    if "scale" in raw and not (np.isnan(own["scale"]) | (raw["scale"] > 0)).all():
        raise ValueError("init['scale'] must be positive")
    if "covariance" in raw and not (np.linalg.eigvalsh(raw["covariance"]) > 0).all():
        raise ValueError("init['covariance'] must hold positive definite matrices")
    return frame.engine(model, raw)


def start_from_estimator(est: Any, n_experts: int, model: Model, frame: Frame) -> Start:
    """Start from a fitted model of at most so many experts."""
    if not hasattr(est, "theta_"):
        raise ValueError("init is a model that is not fitted; fit it first")
    own = len(est.mass_)
    if own > n_experts:
        raise ValueError(
            f"init is a model of {own} experts, more than n_experts={n_experts}; start from a "
            "model with at most as many"
        )
    theirs, ours = est.model_.expert.family_name(), model.expert.family_name()
    if theirs != ours:
        raise ValueError(
            f"init is a model with {theirs} experts, but this one's are {ours}; start "
            "from a model of the same family"
        )
    raw = est.frame_.raw(est.model_, est.theta_)
    n_coef = frame.expert_map.n_terms
    if est.frame_.n_columns != frame.n_columns:
        raise ValueError(
            f"init is a model of {est.frame_.n_columns} responses, but y has {frame.n_columns}; "
            "start from a model of the same responses"
        )
    if raw["coef"].shape[-1] != n_coef:
        raise ValueError(
            f"init is a model whose experts have {raw['coef'].shape[-1]} coefficients, but this "
            f"one's have {n_coef}; start from a model with the same terms"
        )
    for name, like in model.expert.raw_template(own, n_coef, frame.n_columns).items():
        if raw[name].shape != like.shape:
            raise ValueError(
                f"init is a model whose {name} has shape {raw[name].shape}, but this one's has "
                f"{like.shape}; start from a model of the same response"
            )
    reads = model.gate.reads(est.model_.gate)
    neutral = model.gate.neutral_raw(own, frame.gate_map)
    other = {n for n, v in neutral.items() if not reads or n not in raw or raw[n].shape != v.shape}
    if other and model.gate.objective == "joint":  # means and covariances belong together
        other = set(neutral)
    # A model with another gate still tells where the experts are.
    raw |= {name: neutral[name] for name in other}
    kind = "split" if own < n_experts else "model"
    same = frame.same(est.frame_) and reads and est.model_.gate.name == model.gate.name
    # What this model states as known is put in place by its own way from raw parameters.
    same = same and repr(est.model_.expert) == repr(model.expert)
    # Raw coefficients of high degree lose digits; the engine's are taken where they mean the same.
    return Start(kind, theta=est.theta_ if same else frame.engine(model, raw))
