"""Trees of softmax gates: hierarchical mixtures of experts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._design import DesignMap
from mixexperts.gates._codes import (
    Shape,
    along_features,
    balanced,
    checked_shape,
    leaves_of,
    pruned,
    splits,
)
from mixexperts.gates._predictors import PredictorGate
from mixexperts.kernels import numpy_ as kernels


@dataclass(frozen=True)
class Tree(PredictorGate):
    """Tree of softmax gates: the hierarchical mixture of experts.

    Every inner node of the tree is a softmax gate over its branches, and the weight of an expert
    is the product of the weights along the path to it.

    Parameters
    ----------
    structure : nested tuple of int or None, default=None
        Shape of the tree: a leaf 0, 1, ... or a tuple of two or more trees, such as
        ``((0, 1), (2, 3))`` or ``(0, (1, 2, 3))``. Each leaf stands once. None is the binary
        tree of least depth. The numbers name places: which expert sits at which leaf is part of
        the fit, and ``gate_leaf_`` tells.
    fit_intercept : bool, default=True
        Whether the splits have intercepts.

    Notes
    -----
    The responsibility of a branch is the sum of those of its experts, so that the M-step falls
    into one weighted softmax problem per split, each concave; the update is a Newton step in all
    of them. A tree has K - 1 rows of coefficients whatever its shape, as many as a softmax gate;
    a split over all experts *is* a softmax gate. Ridge penalties act on the coefficients of each
    branch against the last of its split.

    A start puts experts with similar features next to each other in the tree.

    There are no Newton steps on the observed likelihood for this gate: ``tol`` is on the gain of
    EM's next step alone.

    References
    ----------
    Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM
    algorithm. Neural Computation 6, 181-214.
    """

    structure: Shape = None
    fit_intercept: bool = True

    name: ClassVar[str] = "tree"

    def __post_init__(self) -> None:
        object.__setattr__(self, "structure", checked_shape(self.structure))

    @property
    def dialect(self) -> str:
        """Coefficients belong to a shape."""
        return f"tree {self.structure!r}"

    def check_experts(self, n_experts: int) -> None:
        if self.structure is None:
            return
        leaves = len(list(leaves_of(self.structure)))
        if leaves != n_experts:
            raise ValueError(
                f"structure={self.structure!r} has {leaves} leaves, but n_experts={n_experts}; "
                "give one leaf for each expert"
            )

    def _splits(self, n_experts: int) -> tuple[Array, ...]:
        return _splits_of(self.structure, n_experts)

    def starts(self, batch: Batch, resp: Array) -> list[Params]:
        n_experts = resp.shape[1]
        leaf = np.empty(n_experts, dtype=np.int64)
        # Experts along the features go to the leaves from left to right.
        shape = _shape(self.structure, n_experts)
        leaf[along_features(batch, resp)] = list(leaves_of(shape))
        return [{"coef": np.zeros((n_experts, batch.Z.shape[1])), "leaf": leaf}]

    def predictors(self, params: Params) -> Array:
        return params["coef"][:-1]

    def with_predictors(self, like: Params, coef: Array) -> Params:
        rows = np.vstack([coef, np.zeros((1, coef.shape[1]), coef.dtype)])
        return {"coef": rows, "leaf": like["leaf"]}

    def permute(self, params: Params, order: Array) -> Params:
        """Coefficients belong to the splits; only the leaves of the experts change."""
        return {"coef": params["coef"], "leaf": params["leaf"][order]}

    def log_weights(self, params: Params, eta: Array) -> Array:
        leaf = params["leaf"]
        at_leaf = np.zeros((len(eta), len(leaf)), eta.dtype)
        row = 0
        for members in self._splits(len(leaf)):
            branches = kernels.log_softmax(_branch_logits(eta, row, len(members)))
            at_leaf += branches @ members
            row += len(members) - 1
        return at_leaf[:, leaf]

    def derivatives(self, params: Params, eta: Array, weight: Array) -> tuple[Array, Array, Array]:
        leaf = params["leaf"]
        at_leaf = np.empty_like(weight)
        at_leaf[:, leaf] = weight
        gradient = np.zeros(eta.shape, np.result_type(eta, weight))
        information = np.zeros((*eta.shape, eta.shape[1]), gradient.dtype)
        row = 0
        for members in self._splits(len(leaf)):
            rows = np.arange(row, row + len(members) - 1)
            prob = np.exp(kernels.log_softmax(_branch_logits(eta, row, len(members))))[:, :-1]
            branch = at_leaf @ members.T.astype(at_leaf.dtype)
            total = branch.sum(axis=1, keepdims=True)
            gradient[:, rows] = branch[:, :-1] - total * prob
            block = -total[:, :, None] * prob[:, :, None] * prob[:, None, :]
            own = np.arange(len(rows))
            block[:, own, own] += total * prob
            information[:, rows[:, None], rows] = block
            row += len(members) - 1
        return gradient, information, information

    # --- the user's scale ----------------------------------------------------------------------

    @property
    def shared_raw(self) -> frozenset[str]:  # type: ignore[override]
        """The leaves, which tell no expert from another."""
        return frozenset({"gate_leaf"})

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """``gate_leaf`` (K,), ``gate_split_intercept`` (K,) and ``gate_split_coef`` (K, q').

        A split with c branches has c - 1 rows, those of its branches against the last, splits
        from the root on, level by level. The last row is zero.
        """
        intercept, coef = design.raw_coefficients(params["coef"])
        leaf = params["leaf"].astype(float)
        return {"gate_leaf": leaf, "gate_split_intercept": intercept, "gate_split_coef": coef}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        leaf = np.asarray(raw["gate_leaf"])
        if sorted(leaf.tolist()) != list(range(len(leaf))):
            raise ValueError(f"init['gate_leaf'] must hold each of 0, 1, ... once, got {leaf}")
        intercept, slope = raw["gate_split_intercept"], raw["gate_split_coef"]
        if np.any(intercept[-1]) or np.any(slope[-1]):
            raise ValueError(
                "init['gate_split_intercept'] and init['gate_split_coef'] must end in a row of "
                "zeros: K experts have K - 1 rows of splits"
            )
        coef = design.engine_coefficients(intercept, slope)
        return {"coef": coef, "leaf": leaf.astype(np.int64)}

    def neutral_raw(self, n_experts: int, design: DesignMap) -> dict[str, Array]:
        """Every branch weighs as many experts as it holds."""
        intercept = np.zeros(n_experts)
        if self.fit_intercept:
            row = 0
            for members in self._splits(n_experts):
                size = np.log(members.sum(axis=1))
                intercept[row : row + len(size) - 1] = size[:-1] - size[-1]
                row += len(size) - 1
        return {
            "gate_leaf": np.arange(float(n_experts)),
            "gate_split_intercept": intercept,
            "gate_split_coef": np.zeros((n_experts, design.n_terms)),
        }

    def own_rows(self, raw: Mapping[str, Array], design: DesignMap) -> dict[str, Array]:
        """Rows ``split 1: x``: the coefficient of the branch that leads to an expert.

        Zero on the last branch, missing for experts that do not lie under the split.
        """
        leaf = raw["gate_leaf"].astype(int)
        values = {"Intercept": raw["gate_split_intercept"]} if design.intercept else {}
        names = design.column_names()
        values |= dict(zip(names, raw["gate_split_coef"].T, strict=True))
        rows: dict[str, Array] = {}
        row = 0
        for number, members in enumerate(self._splits(len(leaf)), start=1):
            branch = np.where(members.any(axis=0), members.argmax(axis=0), -1)[leaf]
            for name, column in values.items():
                own = np.append(column[row : row + len(members) - 1], [0.0, np.nan])
                rows[f"split {number}: {name}"] = own[branch]
            row += len(members) - 1
        return rows

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        """All but one entry per branch."""
        leaf = raw["gate_leaf"].astype(int)
        width = int(design.intercept) + design.n_terms
        free: set[tuple[int, str]] = set()
        for number, members in enumerate(self._splits(len(leaf))):
            for branch in members[:-1]:
                first = int(np.flatnonzero(branch[leaf])[0]) + 1
                free |= {(first, term) for term in terms[number * width : (number + 1) * width]}
        return {(k, term) for k in range(1, len(leaf) + 1) for term in terms} - free

    def table_title(self, n_experts: int) -> str:
        return "log odds of the branch that leads to an expert against the last of its split"


def _branch_logits(eta: Array, row: int, n_branches: int) -> Array:
    """Logits (u, c) of a split, zero for the last branch."""
    logits = np.zeros((len(eta), n_branches), eta.dtype)
    logits[:, :-1] = eta[:, row : row + n_branches - 1]
    return logits


def _shape(structure: Shape, n_experts: int) -> Shape:
    if structure is None or len(list(leaves_of(structure))) < n_experts:
        return balanced(range(n_experts))
    return pruned(structure, n_experts)


@functools.lru_cache(maxsize=64)
def _splits_of(structure: Any, n_experts: int) -> tuple[Array, ...]:
    return tuple(splits(_shape(structure, n_experts), n_experts))
