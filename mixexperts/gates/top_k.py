"""Top-k gates: only the k largest logits count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats
from mixexperts.gates._linear import LinearGate
from mixexperts.gates.softmax import Softmax
from mixexperts.kernels import numpy_ as kernels


@dataclass(frozen=True)
class TopK(LinearGate):
    """Top-k gate: the softmax of the k largest logits, exactly zero for the other experts.

    Logits are those of a softmax gate, linear in x and zero for the last expert. Experts that
    tie for the last place are all kept.

    Parameters
    ----------
    k : int, default=2
        Largest number of experts with positive weight, at least two; with as many experts or
        fewer the gate is a softmax gate.
    fit_intercept : bool, default=True
        Whether the logits have intercepts.

    Notes
    -----
    The likelihood jumps where a row changes its set of experts, and there is no theory of
    maximum likelihood for this gate. The update is a Newton step for the sets as they are, and
    is taken only if the likelihood does not fall; if it does, and also when shortened, the
    experts alone are updated. A run ends when that gains nothing more, usually at a jump: a
    point that no step improves, but that depends on the start more than elsewhere.
    ``n_init`` matters. A softmax gate fitted first and cut by ``predict(X, top_k=k)``, or
    :class:`DSelectK`, which is differentiable, are the alternatives.

    References
    ----------
    Shazeer, N., Mirhoseini, A., Maziarz, K., Davis, A., Le, Q., Hinton, G. and Dean, J. (2017).
    Outrageously large neural networks: the sparsely-gated mixture-of-experts layer.
    International Conference on Learning Representations.
    """

    k: int = 2
    fit_intercept: bool = True

    name: ClassVar[str] = "top_k"
    smooth: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self.k)
        if self.k == 1:
            raise ValueError(
                "k=1 gives every row to one expert, so that the likelihood does not change with "
                "the gate's coefficients but in jumps, and cannot tell them; fit with k=2 or a "
                "softmax gate, and use predict(X, top_k=1)"
            )

    @property
    def dialect(self) -> str:
        """The same logits mean other weights for another k."""
        return f"top_k {self.k}"

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """The start of a softmax gate: no expert is left out for good by a first guess."""
        return Softmax(self.fit_intercept).init_params(batch, resp, rng)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        logits = self.columns(batch) @ params["coef"].T
        n_experts = logits.shape[1]
        if self.k < n_experts:
            least = np.partition(logits, n_experts - self.k, axis=1)[:, n_experts - self.k]
            logits = np.where(logits >= least[:, None], logits, -np.inf)
        return kernels.log_softmax(logits)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        prob = np.exp(self.log_prob(params, batch))
        # What lies on experts without weight says nothing about the weights of the others.
        kept = np.where(prob > 0.0, weight, 0.0)
        gradient, information = kernels.softmax_stats(
            self.columns(batch), prob, kept, kept.sum(axis=1)
        )
        return {"gradient": gradient, "information": information}

    def table_title(self, n_experts: int) -> str:
        return f"logits against expert {n_experts}, of which the {self.k} largest count"


def check_k(k: object) -> None:
    """Refuse a number of experts to keep that is none."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer, got {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
