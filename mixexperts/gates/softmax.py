"""Softmax gates: linear in the features, of other shapes, or constant."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, dense
from mixexperts._design import DesignMap
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.gates._activations import HOMOGENEOUS, KINKED, Activation, Transform
from mixexperts.gates._anchored import AnchoredGate, mapped, to_engine, to_raw
from mixexperts.gates._columns import Features, bound_columns, checked_features, dependent_fault
from mixexperts.gates._linear import LinearGate, reference_rows
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty

# Smallest weight of a constant gate: an expert that lost all its rows keeps a finite log weight.
_MIN_WEIGHT = 1e-20

F = TypeVar("F", bound=Callable[..., Any])


def _or_anchored(method: F) -> F:
    """Leave a method to the anchored gate where the logits are not linear in all columns."""

    @functools.wraps(method)
    def chosen(self: Softmax, *args: Any) -> Any:
        anchored = self._anchored
        return method(self, *args) if anchored is None else getattr(anchored, name)(*args)

    name = method.__name__
    chosen.__doc__ = method.__doc__ or getattr(Gate, name).__doc__
    return chosen  # type: ignore[return-value]


@dataclass(frozen=True)
class Softmax(LinearGate):
    r"""Softmax gate, ``g_k(x) = exp(s_k(x)) / sum_l exp(s_l(x))``, ``s_k = b_k + x @ a_k``.

    The last expert is the reference: its coefficients are zero. With the options below the
    logits are ``s_k(x) = (phi(M(x) @ a_k) + b_k) / tau``.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Whether the gate has intercepts b.
    temperature : float, "estimate" or None, default=None
        Temperature tau. None is 1. A number c is only another way to write the coefficients,
        which are c times those at 1: near zero the same coefficients give one expert all of a
        row, at large c all experts the same. ``"estimate"`` needs an activation that identifies
        it, and keeps it in [0.001, 1000].
    activation : str or None, default=None
        The function phi: ``"identity"`` (as None), ``"sigmoid"``, ``"tanh"``, ``"softplus"``,
        ``"silu"``, ``"gelu"``, ``"relu"`` or ``"leaky_relu"``, less phi(0), so that
        the reference has logit zero. It acts around the origin of the features as they are given
        (centre them first), and ``a`` has no intercept inside of it.
    transform : {"tanh", "sigmoid", "sin", "cos"} or None, default=None
        The function M, of each feature standardised by its weighted mean and standard deviation:
        the modified softmax gate. ``gate_coef_`` is then per unit of M.
    features : sequence of K - 1 sequences of str or int, or None, default=None
        Columns that each logit but the reference's may use, by name or by position among the
        gate's; None in place of an entry means all. Coefficients elsewhere are zero. Which expert
        takes which entry is part of the fit: entry j goes to the expert that a start puts at
        j (with labels as starts, the j-th label), and ``gate_role_`` tells where it ended.

    Raises
    ------
    ValueError, TypeError
        If an option is not known; and if the temperature is to be estimated with an activation
        that does not identify it.

    Notes
    -----
    The update is one Newton step on the expected log-likelihood, which is concave in the
    coefficients; the engine halves the step in the rare case that the likelihood falls. With an
    activation it is not concave, and the Hessian is made positive first.

    With phi the identity, ReLU or any other function with ``phi(c z) = c phi(z)`` for c > 0,
    the parameters (a, b, tau) and (c a, c b, c tau) give the same density for every c: the
    temperature cannot be estimated. With the other activations it can, with more or less
    precision: some hundred rows do for tanh, GELU wants tens of thousands.

    With an activation or with ``features`` the gate depends on which expert is the reference.
    It is chosen by the best start; its entry of ``gate_role_`` is -1.

    References
    ----------
    Jacobs, R. A., Jordan, M. I., Nowlan, S. J. and Hinton, G. E. (1991). Adaptive mixtures of
    local experts. Neural Computation 3, 79-87.
    Nguyen, H., Akbarian, P. and Ho, N. (2024). Is temperature sample efficient for softmax
    Gaussian mixture of experts? Proceedings of the 41st International Conference on Machine
    Learning.
    Nguyen, H., Akbarian, P., Nguyen, T. and Ho, N. (2024). A general theory for softmax gating
    multinomial logistic mixture of experts. Proceedings of the 41st International Conference on
    Machine Learning.
    """

    fit_intercept: bool = True
    temperature: float | Literal["estimate"] | None = None
    activation: Activation | None = None
    transform: Transform | None = None
    features: Features = None

    name: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        for argument, known in (("activation", Activation), ("transform", Transform)):
            value = getattr(self, argument)
            if value is not None and value not in get_args(known):
                raise ValueError(
                    f"{argument}={value!r} is not known; known: "
                    + ", ".join(map(repr, get_args(known)))
                )
        object.__setattr__(self, "features", checked_features(self.features))
        tau = self.temperature
        if tau == "estimate":
            phi = self.activation or "identity"
            if phi in HOMOGENEOUS:
                raise ValueError(
                    f"temperature='estimate' cannot be had with activation={phi!r}: for every "
                    "c > 0 the coefficients (c a, c b) with temperature c tau give the same "
                    "density as (a, b) with tau. Leave temperature out, or use an activation "
                    "that identifies it: 'sigmoid', 'tanh', 'softplus', 'silu', 'gelu'"
                )
        elif tau is not None:
            if isinstance(tau, bool) or not isinstance(tau, int | float | np.number):
                raise TypeError(f"temperature must be a number, 'estimate' or None, got {tau!r}")
            if not (math.isfinite(tau) and tau > 0.0):
                raise ValueError(f"temperature must be a positive finite number, got {tau!r}")

    @property
    def _is_linear(self) -> bool:
        """Whether the logits are linear in all columns."""
        return self.activation in (None, "identity") and self.features is None

    @property
    def _anchored(self) -> AnchoredGate | None:
        """The gate that serves where the logits are not linear in all columns."""
        if self._is_linear:
            return None
        phi = self.activation or "identity"
        tau = self.temperature
        return AnchoredGate(
            phi,
            1.0 if tau is None else tau,
            self.transform,
            bound_columns(self.features),
            self.fit_intercept,
        )

    @property
    def _tau(self) -> float:
        """A fixed temperature."""
        return 1.0 if self.temperature is None else float(self.temperature)

    @property
    def fused_code(self) -> int | None:  # type: ignore[override]
        """The fused kernels know logits that are linear in the columns as they are."""
        return 1 if self._is_linear and self.transform is None else None

    @property
    def has_logits(self) -> bool:  # type: ignore[override]
        """Whether the logits are linear in a design."""
        return self._is_linear

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """Whether the activation has no kink."""
        return self.activation not in KINKED

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        """Whether an activation, a transform or a choice of columns has nothing to act on."""
        return not self._is_linear or self.transform is not None

    @property
    def separation_reason(self) -> str:  # type: ignore[override]
        """What :meth:`separation` means."""
        return super().separation_reason if self._is_linear else AnchoredGate.separation_reason

    @property
    def shared_raw(self) -> frozenset[str]:  # type: ignore[override]
        """Raw parameters without an axis of experts."""
        return frozenset(() if self._is_linear else ("gate_temperature", "gate_role"))

    @property
    def dialect(self) -> str:
        """Constant gates are softmax gates without columns."""
        own = (self.temperature, self.activation, self.transform, self.features)
        return "softmax" if own == (None,) * 4 else f"softmax {own!r}"

    def with_columns(self, names: tuple[str, ...]) -> Softmax:
        if self.features is None:
            return self
        return replace(self, features=bound_columns(self.features, names))

    def check_experts(self, n_experts: int) -> None:
        given = None if self.features is None else len(self.features)
        if given is not None and given != n_experts - 1:
            raise ValueError(
                f"gate features has {given} entries, but n_experts={n_experts}; give the columns "
                f"of {n_experts - 1} logits, one for each expert but the reference"
            )

    def design_options(self) -> Mapping[str, Any]:
        if self._is_linear and self.transform is None:
            return {}
        options: dict[str, Any] = {"orthogonalize": False}
        if self.transform is not None:
            options["center"] = True
        elif self.activation not in (None, "identity"):
            options["center"] = False
        return options

    def design_fault(self, design: DesignMap) -> str | None:
        return dependent_fault("softmax", design) if self.needs_features else None

    def terms(self, design: DesignMap) -> tuple[str, ...]:
        """Names such as ``tanh(x1)`` where the gate sees functions of its features."""
        names = design.column_names()
        if self.transform is None:
            return names
        return tuple(f"{self.transform}({name})" for name in names)

    def columns(self, batch: Batch) -> Array:
        return mapped(dense(batch.Z), self.transform, self.fit_intercept)

    init_params = _or_anchored(LinearGate.init_params)
    log_prob = _or_anchored(LinearGate.log_prob)
    accumulate = _or_anchored(LinearGate.accumulate)
    update = _or_anchored(LinearGate.update)
    pack = _or_anchored(LinearGate.pack)
    unpack = _or_anchored(LinearGate.unpack)
    score = _or_anchored(LinearGate.score)
    permute = _or_anchored(LinearGate.permute)
    n_params = _or_anchored(LinearGate.n_params)
    separation = _or_anchored(LinearGate.separation)
    penalized = _or_anchored(LinearGate.penalized)
    penalized_coef = _or_anchored(LinearGate.penalized_coef)
    pull = _or_anchored(LinearGate.pull)
    neutral_raw = _or_anchored(LinearGate.neutral_raw)
    own_rows = _or_anchored(LinearGate.own_rows)
    bound_rows = _or_anchored(LinearGate.bound_rows)
    reference = _or_anchored(LinearGate.reference)

    @_or_anchored
    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        intercept, coef = to_raw(self._tau * params["coef"], design, self.transform)
        return {"gate_intercept": intercept, "gate_coef": coef}

    @_or_anchored
    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        coef = to_engine(raw["gate_intercept"], raw["gate_coef"], design, self.transform)
        return {"coef": (coef - coef[-1]) / self._tau}

    def log_odds(self, raw: Mapping[str, Array]) -> Array:
        if self.activation not in (None, "identity") or self.transform is not None:
            what = f"activation={self.activation!r}" if self.activation else (
                f"transform={self.transform!r}"
            )  # fmt: skip
            raise UnsupportedCombinationError(
                f"a softmax gate with {what} has no odds ratios: its log odds are not linear in "
                "the features"
            )
        coef = raw["gate_coef"]
        odds: Array = (coef - coef[-1]) / self._tau
        return odds

    def table_title(self, n_experts: int) -> str:
        plain = self._is_linear and self.transform is None and self.temperature in (None, 1.0)
        return f"log odds against expert {n_experts}" if plain else "logits"


@dataclass(frozen=True)
class Constant(Gate):
    """Constant mixing weights: the ordinary finite mixture of regressions."""

    name: ClassVar[str] = "constant"
    fused_code: ClassVar[int | None] = 0
    has_logits: ClassVar[bool] = True
    uses_features: ClassVar[bool] = False

    @property
    def dialect(self) -> str:
        """A softmax gate without columns."""
        return "softmax"

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        return self._from_mass(batch.weight @ resp)

    def _from_mass(self, mass: Array) -> Params:
        weight = np.maximum(mass / mass.sum(), _MIN_WEIGHT)
        return {"log_weight": np.log(weight / weight.sum())}

    def log_score(self, params: Params, batch: Batch) -> Array:
        return self.log_prob(params, batch)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        log_weight = params["log_weight"]
        return np.tile(log_weight, (batch.n_units, 1))

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        return {"mass": weight.sum(axis=0)}

    def fused_inputs(self, params: Params) -> Array:
        return params["log_weight"][:, None]

    def fused_stats(
        self, params: Params, sums: Array, gradient: Array, information: Array
    ) -> Stats:
        return {"mass": sums[0]}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        return self._from_mass(stats["mass"])

    def logit_design(self, params: Params, batch: Batch) -> Array:
        return np.ones((batch.n_units, 1))

    def pack(self, params: Params) -> Array:
        log_weight = params["log_weight"]
        packed: Array = log_weight[:-1] - log_weight[-1]
        return packed

    def unpack(self, vector: Array, like: Params) -> Params:
        logits = np.append(vector, 0.0)[None, :]
        return {"log_weight": kernels.log_softmax(logits)[0]}

    def score(self, params: Params, stats: Stats) -> Array:
        mass = stats["mass"]
        score: Array = mass - mass.sum() * np.exp(params["log_weight"])
        return score[:-1]

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        log_weight = params["log_weight"]
        none = np.zeros((len(log_weight), 0))
        return {"gate_intercept": log_weight - log_weight[-1], "gate_coef": none}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        return {"log_weight": kernels.log_softmax(raw["gate_intercept"][None, :])[0]}

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        return reference_rows(raw, terms)

    def reference(self, raw: Mapping[str, Array]) -> int | None:
        return len(raw["gate_intercept"])

    def table_title(self, n_experts: int) -> str:
        return f"log odds against expert {n_experts}"

    def log_odds(self, raw: Mapping[str, Array]) -> Array:
        raise UnsupportedCombinationError(
            "gate 'constant' has no odds ratios: it does not look at features"
        )

    def permute(self, params: Params, order: Array) -> Params:
        return {"log_weight": params["log_weight"][order]}

    def n_params(self, params: Params) -> int:
        return len(params["log_weight"]) - 1

    def penalized(self, n_columns: int) -> Array:
        return np.zeros(n_columns, dtype=bool)
