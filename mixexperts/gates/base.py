"""The gate protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts._design import DesignMap
from mixexperts._registry import register
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.penalties.base import Penalty


class Gate(ABC):
    """Mixing weights g_k(x) over K experts, without state.

    ``log_score`` is what EM adds to the experts' log density; ``log_prob`` are the log
    mixing weights given x. They differ where the gate models the joint density of x
    and the expert (``objective = "joint"``).
    """

    name: ClassVar[str]
    objective: ClassVar[Literal["conditional", "joint"]] = "conditional"
    #: Whether the gate looks at features at all.
    uses_features: ClassVar[bool] = True

    #: Whether the gate has a :meth:`logit_design`; else the engine takes no Newton steps.
    has_logits: ClassVar[bool] = False

    #: Whether the weights are differentiable in the parameters. Where they have jumps or kinks a
    #: run ends when no step along the update raises the likelihood any more.
    smooth: ClassVar[bool] = True

    #: Whether weights can be exactly zero.
    sparse: ClassVar[bool] = False

    #: Whether different parameters give different weights, up to the order of the experts.
    identified: ClassVar[bool] = True

    #: What :meth:`separation` means.
    separation_reason: ClassVar[str] = (
        "the gate separates some experts perfectly, so that some of its coefficients have no "
        "finite maximum"
    )

    #: Whether the gate needs features to be anything else than constant.
    needs_features: ClassVar[bool] = False

    #: Kind of gate in the fused kernels; None: passes run on the methods below.
    fused_code: ClassVar[int | None] = None

    #: Raw parameters that all experts share, without an axis of experts.
    shared_raw: frozenset[str] = frozenset()

    fit_intercept: bool = True
    degree: int = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register("gate", cls)

    @abstractmethod
    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """Parameters fitted to responsibilities ``resp`` (u, K), weights not included."""

    @abstractmethod
    def log_score(self, params: Params, batch: Batch) -> Array:
        """What EM adds to the log density of the experts, (u, K)."""

    @abstractmethod
    def log_prob(self, params: Params, batch: Batch) -> Array:
        """Log mixing weights given x, (u, K); each row logsumexps to zero."""

    @abstractmethod
    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        """Additive statistics; ``weight`` (u, K) holds responsibilities times weight."""

    @abstractmethod
    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """New parameters that raise the expected penalised log-likelihood."""

    def fused_inputs(self, params: Params) -> Any:
        """Coefficients (K, q), log weights (K, 1) or rows of a score, of the fused kernels."""
        raise NotImplementedError(f"gate {self.name!r} has no fused pass")

    def fused_stats(
        self, params: Params, sums: Array, gradient: Array, information: Array
    ) -> Stats:
        """What :meth:`accumulate` returns, from the sums of the fused kernels.

        ``sums[0]`` (K,) holds the masses, ``gradient`` (K - 1, q), and ``information``
        (K (K - 1) / 2, q, q) the blocks a >= b, row by row.
        """
        raise NotImplementedError(f"gate {self.name!r} has no fused pass")

    def logit_design(self, params: Params, batch: Batch) -> Array:
        """Design (u, q) of the K - 1 logits whose softmax the mixing weights are.

        :meth:`pack` holds their coefficients, logit by logit.
        """
        raise NotImplementedError(f"gate {self.name!r} is not linear in logits")

    @abstractmethod
    def pack(self, params: Params) -> Array:
        """Free parameters as one unconstrained vector."""

    @abstractmethod
    def unpack(self, vector: Array, like: Params) -> Params:
        """Inverse of :meth:`pack`."""

    @abstractmethod
    def score(self, params: Params, stats: Stats) -> Array:
        """Gradient of the observed log-likelihood with respect to :meth:`pack`."""

    @abstractmethod
    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """Parameters on the scale of the user's columns, by the names of the attributes.

        A gate with logits linear in its columns has ``gate_intercept`` (K,) and ``gate_coef``
        (K, q'), zero for expert K.
        """

    @abstractmethod
    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        """Inverse of :meth:`raw`."""

    def neutral_raw(self, n_experts: int, design: DesignMap) -> dict[str, Array]:
        """What :meth:`raw` gives for a gate under which all experts weigh the same."""
        coef = np.zeros((n_experts, design.n_terms))
        return {"gate_intercept": np.zeros(n_experts), "gate_coef": coef}

    @property
    def dialect(self) -> str:
        """What the raw parameters mean: gates of one dialect can start from each other."""
        return self.name

    def reads(self, other: Gate) -> bool:
        """Whether raw parameters of another gate mean the same here."""
        return other.dialect == self.dialect

    def with_columns(self, names: tuple[str, ...]) -> Gate:
        """The same gate for features of these names; names that it holds become positions."""
        return self

    def check_experts(self, n_experts: int) -> None:
        """Refuse a number of experts that the gate is not made for, with a ``ValueError``."""
        return None

    def terms(self, design: DesignMap) -> tuple[str, ...]:
        """Names of the columns of ``gate_coef``."""
        return design.column_names()

    def log_odds(self, raw: Mapping[str, Array]) -> Array:
        """Change of the log odds of each expert against the last per unit of a column, (K, q').

        Raises
        ------
        UnsupportedCombinationError
            If the log odds are not linear in the user's columns.
        """
        raise UnsupportedCombinationError(
            f"gate {self.name!r} has no odds ratios: its log odds are not linear in the features"
        )

    def table_title(self, n_experts: int) -> str:
        """What the numbers of the table of a fit are; empty if their names say it."""
        return ""

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        """Entries of the table of a fit that are no free parameters: expert from 1, and row.

        By default none but the last of the weights, where the gate has weights.
        """
        weights = raw.get("gate_weights")
        return set() if weights is None else {(len(weights), terms[0])}

    def reference(self, raw: Mapping[str, Array]) -> int | None:
        """The expert, counted from 1, that the logits are against; None if there is none."""
        return None

    def own_rows(self, raw: Mapping[str, Array], design: DesignMap) -> dict[str, Array]:
        """Rows of the table of a fit that are no coefficients: name, and (K,) values."""
        if design.intercept or not self.uses_features:
            return {"Intercept": raw["gate_intercept"]}
        return {}

    def design_options(self) -> Mapping[str, Any]:
        """Arguments of :meth:`DesignMap.fit` that the gate's design takes beside the usual."""
        return {}

    def design_fault(self, design: DesignMap) -> str | None:
        """Why the gate cannot be fitted on these columns, and what to do; None if it can."""
        return None

    @abstractmethod
    def permute(self, params: Params, order: Array) -> Params:
        """The same gate with the experts in another order, its reference kept last."""

    @abstractmethod
    def n_params(self, params: Params) -> int:
        """Number of free parameters."""

    def at_boundary(self, params: Params) -> Array:
        """Which experts' gates have collapsed onto the boundary of the parameters, (K,) bool."""
        return np.zeros(next(iter(params.values())).shape[0], dtype=bool)

    def boundary_reason(self) -> str:
        """What :meth:`at_boundary` means, to complete 'expert 2 ...'."""
        return "has its gate on the boundary of the parameters"

    def rows_needed(self, params: Params) -> int:
        """Effective rows that an expert must have for its part of the gate to mean anything."""
        return 0

    def penalized(self, n_columns: int) -> Array:
        """Columns of the gate's design that a penalty may touch, (q,) bool."""
        mask = np.ones(n_columns, dtype=bool)
        mask[: int(self.fit_intercept)] = False
        return mask

    def penalized_coef(self, params: Params) -> Array:
        """The coefficients that a penalty sees, (K, q)."""
        return params["coef"]

    def pull(self, params: Params, gradient: Array) -> Array:
        """Gradient with respect to :meth:`pack` of what has this one in penalised coefficients."""
        centred: Array = gradient - gradient.mean(axis=0)
        return centred[:-1].ravel()

    def separation(self, params: Params, stats: Stats) -> bool:
        """Whether some direction of the coefficients is left without information."""
        return False
