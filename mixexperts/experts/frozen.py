"""Experts that were fitted before: only the gate, and scales, are left to learn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts._registry import resolve
from mixexperts.experts._composite import Composite
from mixexperts.experts._members import NO_COLUMNS
from mixexperts.experts.base import Derivatives, Expert
from mixexperts.penalties.base import Penalty

_DESIGN = "frozen"


@dataclass(frozen=True)
class FrozenExperts(Composite):
    r"""Experts whose means are the predictions of models fitted before, kept as they are.

    The fit learns the gate, and the scales or other shapes of the family. With a softmax gate
    and nothing else to learn the log-likelihood is concave: there is one maximum.

    Parameters
    ----------
    models : sequence of estimators
        Fitted regressors, one per expert: ``predict(X)`` gives the mean of the response, for
        the features of the fit, all of them.
    family : Expert or str, default="gaussian"
        Distribution of the response about the predictions: ``"gaussian"``, ``"poisson"``, or
        another that has a mean and a link.
    known : mapping of str to float or list of float, optional
        All shapes of the family if they are known too, such as ``{"scale": [0.5, 1.0]}``, in
        units of the response.
    names : tuple of str, optional
        Names of the features; the fit fills them in.
    unit : tuple of float, optional
        Location and scale of the response inside the fit; the fit fills them in.

    Notes
    -----
    The experts keep the order of the models. An offset is added to the linear predictor that
    belongs to a prediction. A fit with models of other packages cannot be saved as an archive;
    pickle it.
    """

    models: tuple[Any, ...] = ()
    family: Expert = "gaussian"  # type: ignore[assignment]
    known: Any = ()
    names: tuple[str, ...] = ()
    unit: tuple[float, float] = (0.0, 1.0)
    name: ClassVar[str] = "frozen"
    makes_designs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        models = tuple(self.models)
        if not models:
            raise ValueError("models is empty; give one fitted model per expert")
        for k, model in enumerate(models):
            if not callable(getattr(model, "predict", None)):
                raise TypeError(
                    f"models[{k}] is a {type(model).__name__} without predict(); give fitted "
                    "regressors"
                )
        family = resolve("expert", self.family, "family")
        if not family.uses_features or isinstance(family, Composite):
            raise ValueError(f"family={family.name!r} has no mean to be predicted; choose another")
        shapes = tuple(name for name in family.param_names if name != "coef")
        pairs = tuple(self.known.items()) if isinstance(self.known, Mapping) else tuple(self.known)
        known = tuple((name, self._values(name, v, len(models))) for name, v in pairs)
        if known and {name for name, _ in known} != set(shapes):
            raise ValueError(
                f"known names {[name for name, _ in known]}, but {family.name} experts have "
                f"{list(shapes)}; give all of them, or none"
            )
        settled = {"models": models, "family": family, "known": known}
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        self._settle(self.families)
        object.__setattr__(self, "response_columns", family.response_columns)
        # The design of the mean has no columns.
        for name, value in {"uses_features": False, "fit_intercept": False}.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def _values(name: str, value: Any, n_experts: int) -> tuple[float, ...]:
        values = np.asarray(value, dtype=np.float64)
        if values.shape not in ((), (n_experts,)) or not np.isfinite(values).all():
            raise ValueError(
                f"known[{name!r}] must be a finite number or one per model ({n_experts}), got "
                f"{value!r}"
            )
        return tuple(map(float, np.broadcast_to(values, (n_experts,))))

    def __repr__(self) -> str:
        import joblib

        # What a model prints does not tell what it has learned.
        marks = ", ".join(f"{type(m).__name__}:{joblib.hash(m)[:12]}" for m in self.models)
        return f"FrozenExperts([{marks}], family={self.family!r}, known={self.known!r})"

    @property
    def families(self) -> tuple[Expert, ...]:
        """The family of each expert: the same for all."""
        return (self.family,) * len(self.models)

    @classmethod
    def example(cls, n_experts: int) -> FrozenExperts:
        """Lines of different slopes."""
        return cls(tuple(_Line(float(k), 1.0 - k) for k in range(n_experts)))

    def with_intercept(self, fit_intercept: bool) -> FrozenExperts:
        return self

    def with_features(self, names: tuple[str, ...]) -> FrozenExperts:
        return replace(self, names=names)

    def bound(self, design: DesignMap, loc: float, scale: float) -> FrozenExperts:
        return replace(self, unit=(loc, scale))

    def check_experts(self, n_experts: int) -> None:
        if n_experts != len(self.models):
            raise ValueError(
                f"n_experts={n_experts}, but there are {len(self.models)} models; give one model "
                "per expert"
            )

    def interchangeable(self, n_experts: int) -> Array:
        """Each expert has a model of its own."""
        return np.arange(n_experts)

    # --- the models ----------------------------------------------------------------------------

    def designs_of(self, X: Array, loc: float, scale: float) -> dict[str, Array]:
        """Linear predictors (n, K) that belong to the predictions."""
        columns = []
        for k, model in enumerate(self.models):
            mean = self._predicted(k, model, np.asarray(X, dtype=np.float64))
            with np.errstate(divide="ignore", invalid="ignore"):
                eta = self.family.predictor_at((mean - loc) / scale)
            if not np.isfinite(eta).all():
                row = int(np.flatnonzero(~np.isfinite(eta))[0])
                raise ValueError(
                    f"models[{k}] predicts {mean[row]:g} for row {row}, which is no mean of "
                    f"{self.family.name} experts"
                )
            columns.append(eta)
        return {_DESIGN: np.stack(columns, axis=1)}

    def _predicted(self, k: int, model: Any, X: Array) -> Array:
        wanted = [str(name) for name in getattr(model, "feature_names_in_", ())]
        given: Any = X
        if wanted and set(wanted) <= set(self.names):
            import pandas as pd

            given = pd.DataFrame(X, columns=list(self.names))[wanted]
        with warnings.catch_warnings():
            # Columns of an array go by their places, as for the model itself.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            mean = np.asarray(model.predict(given), dtype=np.float64)
        if mean.shape == (len(X), 1):
            mean = mean[:, 0]
        if mean.shape != (len(X),):
            raise ValueError(
                f"models[{k}] predicts an array of shape {mean.shape} for {len(X)} rows; give a "
                "regressor of one response"
            )
        return mean

    def view(self, batch: Batch, k: int, loc: float, scale: float, allowed: Array | None) -> Batch:
        view = super().view(batch, k, loc, scale, allowed)
        if _DESIGN not in batch.designs:
            raise ValueError("the rows lack the predictions of the models; use designs_of(X)")
        eta = batch.designs[_DESIGN][:, k]
        return replace(view, offset=eta if view.offset is None else view.offset + eta)

    # --- known shapes --------------------------------------------------------------------------

    def _known(self, params: Params) -> Params:
        """The parameters with the shapes that are known."""
        if not self.known:
            return params
        fixed = {name: np.array(values) for name, values in self.known}
        n = len(params["coef"])
        raw = {name: values[:n] for name, values in fixed.items()}
        raw |= {"intercept": np.zeros(n), "coef": np.empty((n, 0))}
        return {**params, **self.family.engine(raw, NO_COLUMNS, *self.unit)}

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Shapes of the residuals."""
        return self._known(super().init_params(batch, resp, rng))

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """The family's update of its shapes, if they are not known."""
        return params if self.known else super().update(params, stats, penalty)

    def pack(self, params: Params) -> Array:
        return np.empty(0) if self.known else super().pack(params)

    def unpack(self, vector: Array, like: Params) -> Params:
        return like if self.known else super().unpack(vector, like)

    def score(self, params: Params, stats: Stats) -> Array:
        return np.empty(0) if self.known else super().score(params, stats)

    def n_params(self, params: Params) -> int:
        return 0 if self.known else super().n_params(params)

    def n_params_each(self, params: Params) -> Array:
        each = super().n_params_each(params)
        return np.zeros_like(each) if self.known else each

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Those in the shapes."""
        if not self.known:
            return super().derivatives(params, batch)
        n, n_experts = batch.n_rows, len(params["coef"])
        nothing = np.empty((0, n, n_experts)), np.empty((0, 0, n, n_experts))
        return Derivatives((), *nothing, ())

    def at_boundary(self, params: Params) -> Array:
        if self.known:
            return np.zeros(len(params["coef"]), dtype=bool)
        return super().at_boundary(params)

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        """Shapes alone; there are no coefficients."""
        n = len(params["coef"])
        own = {**params, "coef": np.empty((n, 0))}
        return self.family.raw(own, NO_COLUMNS, loc, scale) | {"intercept": np.full(n, np.nan)}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        n = len(raw["coef"])
        own = {name: raw[name] for name in self.family.param_names}
        own |= {"intercept": np.zeros(n), "coef": np.empty((n, 0))}
        return self._known(self.family.engine(own, NO_COLUMNS, loc, scale))


@saveable("line")
@dataclass(frozen=True)
class _Line:
    """A model that predicts ``intercept + slope`` times the first feature."""

    intercept: float
    slope: float

    def predict(self, X: Any) -> Array:
        """Predictions (n,)."""
        line: Array = self.intercept + self.slope * np.asarray(X)[:, 0]
        return line
