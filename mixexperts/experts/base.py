"""The expert protocol."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts._registry import register
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts._row_terms import Derivatives, RowTerms
from mixexperts.penalties.base import Penalty

__all__ = ["Derivatives", "Expert", "RowTerms"]

_LINKS: dict[str, Callable[[Array], Array]] = {
    "identity": np.asarray,
    "log": np.log,
    "inverse": np.reciprocal,
    "sqrt": np.sqrt,
    "logit": lambda mean: np.log(mean) - np.log1p(-mean),
}


class Expert(ABC):
    """A family of K expert densities, without state: parameters go in and come out.

    Shapes: n rows, K experts, p columns of the design. Every parameter array has the
    expert on axis 0. A subclass that states a ``name`` registers itself under it.
    """

    name: ClassVar[str]
    param_names: ClassVar[tuple[str, ...]]
    #: The response may be shifted and scaled to a common scale inside the fit.
    affine_response: ClassVar[bool] = False
    #: The response takes integers only; :meth:`log_prob` is then the log of a probability.
    discrete: ClassVar[bool] = False
    #: Ends of the interval that the response lies in; outside it densities are zero.
    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    #: Numbers of columns that the response may have.
    response_columns: ClassVar[tuple[int, ...]] = (1,)
    #: There are d responses, one per column of y: means are (n, K, d), offsets (n,) or (n, d).
    multivariate: ClassVar[bool] = False
    #: Missing responses, NaN in y, are left to the likelihood.
    allows_missing: ClassVar[bool] = False

    #: The response may hold infinities, such as bounds that are not known.
    infinite_response: ClassVar[bool] = False

    #: Rows were sampled only if their response lay in a window: the family has
    #: :meth:`log_inside`, and the likelihood is that of the sampled rows.
    truncates: ClassVar[bool] = False
    #: Classes that the response may name by the codes 0, 1, ...: none, two of them, or many.
    takes_classes: ClassVar[Literal["none", "two", "many"]] = "none"
    #: The codes are names of classes without an order: means and quantiles mean nothing.
    nominal: ClassVar[bool] = False

    #: Elementwise part in the fused kernels; None: passes run on the methods below.
    fused_code: ClassVar[int | None] = None

    #: The response is continuous but for atoms, values that have a probability of their own.
    has_atoms: ClassVar[bool] = False

    #: Whether the family has :meth:`row_terms`, around which a pass is compiled.
    has_row_terms: ClassVar[bool] = False

    #: Whether the family has :meth:`derivatives`; else the engine takes no Newton steps.
    has_derivatives: ClassVar[bool] = False

    #: Whether the family has :meth:`designs_of`.
    makes_designs: ClassVar[bool] = False
    #: How the mean (of one trial) hangs on the predictor, where no field ``link`` says it.
    mean_link: ClassVar[str | None] = None
    #: Whether a response that :meth:`check_response` lets pass may still have density zero, under
    #: parameters that the data set; another expert of the mixture must then explain it.
    partial: ClassVar[bool] = False

    #: Experts look at features; a family that does not says so.
    uses_features: ClassVar[bool] = True

    fit_intercept: bool = True
    degree: int = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register("expert", cls)

    def check_terms(self) -> None:
        """Raise if ``degree`` is no integer >= 0, or if no column is left."""
        if isinstance(self.degree, bool) or not isinstance(self.degree, int | np.integer):
            raise TypeError(f"degree must be an integer >= 0, got {self.degree!r}")
        if self.degree < 0:
            raise ValueError(f"degree must be an integer >= 0, got {self.degree!r}")
        if self.degree == 0 and not self.fit_intercept:
            raise ValueError("degree=0 with fit_intercept=False leaves no column; set one of them")

    @classmethod
    def example(cls, n_experts: int) -> Expert:
        """An instance for that many experts; what has no use without arguments gets some."""
        return cls()

    def family_name(self) -> str:
        """Name of the densities: families of the same name have the same parameters."""
        return self.name

    def with_intercept(self, fit_intercept: bool) -> Self:
        """The same family with or without intercepts.

        Raises
        ------
        ValueError
            If the family has no intercept to be left out.
        """
        if "fit_intercept" in {field.name for field in fields(self)}:  # type: ignore[arg-type]
            return replace(self, fit_intercept=fit_intercept)  # type: ignore[type-var]
        if not fit_intercept:
            raise ValueError(
                f"family={self.name!r} has no intercept to be left out of the formula: remove the "
                "'- 1' or '0 +'"
            )
        return self

    def check_experts(self, n_experts: int) -> None:
        """Raise ValueError if the family cannot be that of so many experts."""
        return None

    def interchangeable(self, n_experts: int) -> Array:
        """Labels (K,) of the experts: those with the same label may change places."""
        return np.zeros(n_experts, dtype=np.int64)

    def bound(self, design: DesignMap, loc: float, scale: float) -> Expert:
        """The family for a design and a scale of the response that are known now."""
        return self

    def with_features(self, names: tuple[str, ...]) -> Expert:
        """The family for features of these names, before a design is made of them."""
        return self

    def designs_of(self, X: Array, loc: float, scale: float) -> dict[str, Array]:
        """Designs of the family's own, from the user's features (n, d), if it makes any."""
        return {}

    # --- responses of several columns --------------------------------------------------------

    def for_response(self, n_columns: int) -> Expert:
        """The family for a response of so many columns: itself, if it has no other for them."""
        return self

    def takes_columns(self, n_columns: int) -> bool:
        """Whether the response may have so many columns."""
        return n_columns in self.response_columns

    def affine_columns(self, n_columns: int) -> Array:
        """Which columns of y may be shifted and scaled to a common scale, (n_columns,) bool."""
        return np.full(n_columns, self.affine_response)

    def correlates(self) -> bool:
        """Whether responses may be correlated given the features and the expert."""
        return False

    def on_integers(self) -> bool:
        """Whether all that a discrete family takes are integers."""
        return self.discrete

    def discrete_columns(self, n_columns: int) -> Array:
        """Which columns of y take integers only, (n_columns,) bool."""
        return np.full(n_columns, self.discrete)

    def raw_template(self, n_experts: int, n_terms: int, n_columns: int) -> dict[str, Array]:
        """Parameters like those of :meth:`raw`: their shapes, and NaN where there is none."""
        template = {name: np.ones(n_experts) for name in ("intercept", *self.param_names)}
        return template | {"coef": np.zeros((n_experts, n_terms))}

    def table_rows(
        self, raw: Mapping[str, Array], responses: tuple[str, ...]
    ) -> dict[tuple[str, ...], Array]:
        """Rows (K,) of the table of a multivariate fit that are no coefficients.

        Their names hold those of the responses that they are about.
        """
        return {}

    def covariance_within(self, params: Params, batch: Batch) -> Array:
        """Covariances (n, K, d, d) of the responses under each expert of a multivariate family."""
        raise self._lacks("covariance_within")

    def marginal(self, params: Params, response: int) -> tuple[Expert, Params]:
        """Family and parameters of one of the responses of a multivariate family."""
        raise self._lacks("marginal")

    # --- what EM needs -----------------------------------------------------------------

    @abstractmethod
    def check_response(self, y: Array) -> None:
        """Raise ``InvalidResponseError`` if y lies outside the family's support."""

    def with_classes(self, n_classes: int) -> Expert:
        """The family for a response of that many classes; itself where it need not know."""
        return self

    def check_rows(self, y: Array) -> None:
        """The part of :meth:`check_response` that holds of any of the rows, for blocks of them."""
        self.check_response(y)

    def possible(self, y: Array) -> Array:
        """Which responses have a positive density or probability, (n,) bool."""
        low, high = self.support
        with np.errstate(invalid="ignore"):
            inside: Array = np.isfinite(y) & (y > low) & (y < high)
            if self.discrete:
                inside = inside & (y == np.floor(y))
        rows: Array = np.logical_and.reduce(inside.reshape(len(y), -1), axis=1)
        return rows

    def atoms(self, y: Array) -> Array:
        """Which responses have a positive probability, (n,) bool."""
        return self.possible(y) if self.discrete else np.zeros(len(y), dtype=bool)

    def arranged(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Array:
        """Responsibilities (u, K) of clusters found without regard to which expert is which."""
        return resp

    @abstractmethod
    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Parameters fitted to responsibilities ``resp`` (u, K), weights not included."""

    @abstractmethod
    def log_prob(self, params: Params, batch: Batch) -> Array:
        """Log density of each row under each expert, (n, K)."""

    @abstractmethod
    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """Additive statistics at the current parameters; ``weight`` (n, K).

        Always holds ``"mass"``, the (K,) sums of the weights, and ``"fitted"``, those of the
        weights times the fitted means.
        """

    @abstractmethod
    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """New parameters that raise the expected penalised log-likelihood."""

    def quadratic(self, params: Params, stats: Stats) -> tuple[Array, Array]:
        """Curvature (K, p, p) and slope (K, p) of the quadratic that :meth:`update` climbs."""
        raise self._lacks("quadratic")

    def stepped(self, params: Params, stats: Stats, step: Array) -> Params:
        """New parameters whose coefficients have taken a step (K, p)."""
        raise self._lacks("stepped")

    def update_rises(self) -> bool:
        """Whether :meth:`update` never lowers the expected log-likelihood by itself.

        Where it does not, it is a direction of ascent, and the engine halves steps that fall.
        """
        return True

    def fused_response(self, y: Array) -> tuple[Array, Array]:
        """Response (n,) and, of binomial families, numbers of trials (n,), else (0,)."""
        return y, np.empty(0)

    def fused_inputs(self, params: Params) -> tuple[Array, Array]:
        """Coefficients (K, p) and the auxiliary parameter (K,) of the fused kernels."""
        raise self._lacks("fused_inputs")

    def fused_stats(self, sums: Array, gram: Array, cross: Array) -> Stats:
        """What :meth:`accumulate` returns, from the sums of the fused kernels.

        ``sums`` (3, K) holds masses, weighted sums of squared residuals and of fitted means,
        ``gram`` (K, p, p) and ``cross`` (K, p) the weighted products.
        """
        raise self._lacks("fused_stats")

    def term_coef(self, params: Params) -> Array:
        """Coefficients (K T, p) of the linear predictors, expert by expert."""
        coef: Array = params["coef"]
        return coef.reshape(int(np.prod(coef.shape[:-1])), coef.shape[-1])

    def row_terms(self, params: Params, y: Array, eta: Array) -> RowTerms:
        """Terms of rows with responses (n,) or (n, c) and predictors (K T, n), offsets included."""
        raise self._lacks("row_terms")

    def term_stats(
        self, params: Params, mass: Array, gram: Array, cross: Array, sums: Stats
    ) -> Stats:
        """What :meth:`accumulate` returns, from sums under the responsibilities.

        Masses (K,), Grams (K P, p, p), products (K T, p), and ``sums`` (K, ...) by their names.
        """
        raise self._lacks("term_stats")

    def log_inside(self, params: Params, batch: Batch) -> Array:
        """Log of the chance of each row to be sampled under each expert, (n, K)."""
        raise self._lacks("log_inside")

    def accumulate_unseen(
        self, params: Params, batch: Batch, unseen: Array, inside: Array
    ) -> Stats:
        """What rows that were not sampled add to the statistics of :meth:`accumulate`.

        ``unseen`` (n, K) holds their expected numbers, ``inside`` (n, K) the posterior of the
        experts of a row of which it is known only that it was sampled; both times the weight.
        """
        raise self._lacks("accumulate_unseen")

    def inside_derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """Derivatives of :meth:`log_inside`."""
        raise self._lacks("inside_derivatives")

    # --- what acceleration, convergence and counting need --------------------------------

    @abstractmethod
    def pack(self, params: Params) -> Array:
        """Free parameters as one unconstrained vector."""

    @abstractmethod
    def unpack(self, vector: Array, like: Params) -> Params:
        """Inverse of :meth:`pack`; ``like`` gives the shapes."""

    @abstractmethod
    def score(self, params: Params, stats: Stats) -> Array:
        """Gradient of the observed log-likelihood with respect to :meth:`pack`.

        By Fisher's identity it equals the gradient of the expected complete
        log-likelihood at the parameters where the statistics were taken.
        """

    def derivatives(self, params: Params, batch: Batch) -> Derivatives:
        """First and second derivatives of the log density in its linear predictors."""
        raise self._lacks("derivatives")

    def tie(self, params: Params, information: Array) -> Array:
        """An information matrix, the experts' parameters last, with shared ones added up."""
        return information

    @abstractmethod
    def n_params(self, params: Params) -> int:
        """Number of free parameters of all K experts together."""

    @abstractmethod
    def n_params_each(self, params: Params) -> int | Array:
        """Number of parameters of one expert, or of each (K,), to check its effective rows."""

    def at_boundary(self, params: Params) -> Array:
        """Which experts have collapsed onto the boundary of the parameters, (K,) bool."""
        return np.zeros(next(iter(params.values())).shape[0], dtype=bool)

    def collapsed(self, params: Params, stats: Stats) -> Array:
        """:meth:`at_boundary` of a fit, where the statistics may tell more, (K,) bool."""
        return self.at_boundary(params)

    def boundary_reason(self) -> str:
        """What :meth:`at_boundary` means, to complete 'expert 2 ...'."""
        return "lies on the boundary of the parameters"

    def boundary_reason_of(self, expert: int) -> str:
        """The same for one of the experts, by number."""
        return self.boundary_reason()

    def separation(self, params: Params, stats: Stats, penalty: Penalty) -> Array:
        """Which experts have coefficients without a finite maximum, (K,) bool."""
        return np.zeros(len(stats["mass"]), dtype=bool)

    def separation_reason(self) -> str:
        """What :meth:`separation` means of the rows of an expert."""
        return "its rows hold no event, or the features part events and their absence"

    def permute(self, params: Params, order: Array) -> Params:
        """The same experts in another order."""
        return {name: values[order] for name, values in params.items()}

    def penalized(self, n_columns: int) -> Array:
        """Columns of the mean design that a penalty may touch, (p,) bool."""
        mask = np.ones(n_columns, dtype=bool)
        mask[: int(self.fit_intercept)] = False
        return mask

    def penalized_coef(self, params: Params) -> Array:
        """The coefficients that a penalty sees, (K, p)."""
        return params["coef"]

    def penalty_score(self, params: Params, gradient: Array) -> Array:
        """Gradient of a penalty in the first entries of :meth:`pack`.

        ``gradient`` is that in :meth:`penalized_coef`.
        """
        return gradient.ravel()

    def penalty_information(self, params: Params, diagonal: Array) -> Array:
        """Hessian of a penalty in the same entries, from its diagonal in the coefficients."""
        return np.diag(diagonal.ravel())

    def design_options(self) -> Mapping[str, Any]:
        """Arguments of :meth:`DesignMap.fit` that the experts' design takes beside the usual."""
        return {}

    def raw(self, params: Params, design: DesignMap, loc: float, scale: float) -> dict[str, Array]:
        """Parameters on the scale of the user's columns, by the names of the attributes.

        Every family has ``intercept`` (K,) and ``coef`` (K, J); the engine sees the response
        as ``(y - loc) / scale``, with 0 and 1 for families without ``affine_response``.
        """
        intercept, coef = design.raw_coefficients(params["coef"])
        intercept = intercept * scale + loc if design.intercept else intercept
        return {"intercept": intercept, "coef": coef * scale}

    def engine(
        self, raw: Mapping[str, Array], design: DesignMap, loc: float, scale: float
    ) -> Params:
        """Inverse of :meth:`raw`."""
        intercept = (raw["intercept"] - loc) / scale
        return {"coef": design.engine_coefficients(intercept, raw["coef"] / scale)}

    def predictor_at(self, mean: Array) -> Array:
        """The linear predictor at which the mean (of one trial) is ``mean``, elementwise."""
        name = getattr(self, "link", self.mean_link or ("identity" * self.affine_response))
        if name not in _LINKS:
            raise self._lacks("predictor_at")
        return _LINKS[name](mean)

    # --- what starts are made from -----------------------------------------------------------

    def point_response(self, y: Array) -> Array:
        """One number (n,) for each row of a response, to start and to plot from."""
        return y

    def working_response(self, batch: Batch) -> Array:
        """The response on the scale of the linear predictor, less the offset, (n,) or (n, d)."""
        response: Array = batch.y if batch.offset is None else batch.y - batch.offset
        return response

    def residual(self, params: Params, batch: Batch) -> Array:
        """Residuals of each expert that may be compared between rows, (n, K)."""
        residual: Array = batch.y[:, None] - self.mean(params, batch)
        return residual

    def distance(self, params: Params, batch: Batch) -> Array:
        """How far each row is from each expert, (n, K); the nearest expert takes the row."""
        return self.residual(params, batch) ** 2

    # --- what predictions need -------------------------------------------------------------

    def log_class_proba(self, params: Params, batch: Batch, n_classes: int) -> Array:
        """Log probability of each class under each expert, (n, K, C), whatever ``batch.y``."""
        codes = (np.full(batch.n_rows, float(c)) for c in range(n_classes))
        columns = [self.log_prob(params, replace(batch, y=code)) for code in codes]
        return np.stack(columns, axis=2)

    def ordered(self) -> Expert:
        """The family itself, refused where its values are names without an order."""
        if self.nominal:
            raise self._lacks("mean")
        return self

    def all_values(self, params: Params) -> Array | None:
        """All values that the response may take, ascending; None where there is no end to them."""
        return None

    def response_at(self, y: Array, value: Array) -> Array:
        """A response like ``y`` that takes the values (n,) of the predictive distribution."""
        return value

    def observed(self, y: Array, value: Array) -> Array:
        """What would be seen of drawn values (n,) in rows like those of ``y``, in simulations."""
        return self.response_at(y, value)

    def admits(self, y: Array) -> Array:
        """Which rows of a response could have entered the sample, (n,) bool."""
        return np.ones(len(y), dtype=bool)

    @abstractmethod
    def mean(self, params: Params, batch: Batch) -> Array:
        """Mean of each expert at each row, (n, K)."""

    @abstractmethod
    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        """One response per row from the expert that ``label`` (n,) names."""

    def variance(self, params: Params, batch: Batch) -> Array:
        """Variance of each expert at each row, (n, K)."""
        raise self._lacks("variance")

    def cdf(self, params: Params, batch: Batch) -> Array:
        """Distribution function of each expert at ``batch.y``, (n, K)."""
        raise self._lacks("cdf")

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Quantile of each expert at each row, (n, K)."""
        raise self._lacks("quantile")

    def _lacks(self, method: str) -> UnsupportedCombinationError:
        return UnsupportedCombinationError(
            f"expert {self.name!r} has no {method}(); use a family that offers it"
        )
