"""Rows of a penalised fit as the solver sees them, and the way back to the user's scale."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace

import numpy as np

from mixexperts._batch import Array, Batch, Theta, root_mean_square, weighted_mean
from mixexperts._design import DesignMap
from mixexperts.em.model import Model, em_pass, part
from mixexperts.em.sparse import SparseFit, SparseParams, SparseRows
from mixexperts.errors import DesignError, UnsupportedCombinationError
from mixexperts.estimators._base import canonical_order
from mixexperts.estimators._data import Resident
from mixexperts.estimators._frame import Frame
from mixexperts.experts.base import Expert
from mixexperts.gates import Softmax
from mixexperts.penalties.base import NoPenalty
from mixexperts.penalties.sparse import SparsePenalty

_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Problem:
    """The rows of a penalised fit, checked and brought to the solver's scale.

    Attributes
    ----------
    model : Model
        Softmax gate and family of experts.
    rows : SparseRows
        Standardised columns that either room uses, and the response; rows of positive weight.
    frame : Frame
        The way to and from the user's columns.
    taken : ndarray of int of shape (p,)
        Columns of X that the columns of ``rows`` are.
    n_experts : int
    data : Resident
        What is known of the rows as they were given.
    seed : int
        Of the starts.
    classes : ndarray of shape (C,) or None
        Labels of the codes in y.
    """

    model: Model
    rows: SparseRows
    frame: Frame
    taken: Array
    n_experts: int
    data: Resident
    seed: int
    classes: Array | None = None

    @classmethod
    def of(
        cls,
        family: Expert,
        data: Resident,
        columns: tuple[Array, Array],
        names: tuple[str, ...],
        n_experts: int,
        standardize: bool,
        seed: int,
        classes: Array | None = None,
    ) -> Problem:
        """Standardise rows; ``columns`` are those of experts and gate, ``names`` those of X.

        Raises
        ------
        ValueError, TypeError
            If a column is constant or named twice, or the family cannot be penalised.
        """
        _refuse_family(family)
        for argument, own in zip(("expert_features", "gate_features"), columns, strict=True):
            _refuse_twice(own, names, argument)
        given = data.given
        taken = np.union1d(*columns)
        X = given.X if len(taken) == data.n_features else given.X[:, taken]
        center = weighted_mean(X, given.weight) if len(taken) else np.zeros(0)
        spread = spread_of(X, center, given.weight)
        _refuse_constant(is_constant(X, spread), [names[j] for j in taken])
        scale = spread if standardize else np.ones(len(taken))
        columns_of_rooms = [np.searchsorted(taken, own) for own in columns]
        maps = [
            DesignMap.plain(tuple(names[j] for j in own), center[at], scale[at])
            for own, at in zip(columns, columns_of_rooms, strict=True)
        ]
        if np.array_equal(*columns):
            maps[1] = maps[0]
        loc, unit = 0.0, 1.0
        if family.affine_response:
            response = given.y if given.offset is None else given.y - given.offset
            loc = float(weighted_mean(response, given.weight))
            unit = float(root_mean_square(response - loc, given.weight))
        frame = Frame(columns[0], columns[1], maps[0], maps[1], loc, unit)
        model = Model(Softmax(), family)
        standard = np.empty(X.shape, order="F")
        for j in range(X.shape[1]):
            standard[:, j] = (X[:, j] - center[j]) / scale[j]
        rows = SparseRows(
            X=standard,
            y=frame.response(given.y),
            weight=given.weight,
            offset=None if given.offset is None else given.offset / unit,
            expert_mask=_mask(columns_of_rooms[0], len(taken)),
            gate_mask=_mask(columns_of_rooms[1], len(taken)),
        )
        return cls(model, rows, frame, taken, n_experts, data, seed, classes)

    @property
    def family(self) -> Expert:
        """Family of the experts."""
        return self.model.expert

    @property
    def unit(self) -> float:
        """The unit of the solver's response: the standard deviation of y, 1 for counts."""
        return float(self.frame.scale)

    @property
    def log_jacobian(self) -> float:
        """What the unit of y adds to log-likelihoods and objectives of the solver."""
        return float(self.frame.log_jacobian(self.data.row_weight, self.data.weight))

    @property
    def n_rows_of_expert(self) -> int:
        """Predictors L of an expert: classes of multinomial experts, else 1."""
        classes = getattr(self.family, "n_classes", None) if self.family.nominal else None
        return 1 if classes is None else int(classes)

    @property
    def room_columns(self) -> tuple[Array, Array]:
        """Columns of ``rows.X`` that the experts and the gate use, in the user's order."""
        return (
            np.searchsorted(self.taken, self.frame.expert_columns),
            np.searchsorted(self.taken, self.frame.gate_columns),
        )

    # --- parameters ------------------------------------------------------------------------

    def theta(self, params: SparseParams) -> Theta:
        """Parameters as predictions use them.

        The gate's rows and the classes' are those of the penalty: no row of the gate need be
        zero. Of classes the last is the reference.
        """
        experts, gate = self.room_columns
        return seen_theta(self.family, params, experts, gate)

    def params(self, theta: Theta) -> SparseParams:
        """Inverse of :meth:`theta`; of rows that are told apart only by differences the last
        stays as it is there: zero for classes."""
        experts, gate = self.room_columns
        coef = theta.expert["coef"]
        if self.family.nominal:
            coef = np.concatenate([coef, np.zeros_like(coef[:, :1])], axis=1)
        else:
            coef = coef[:, None, :]
        n_experts, n_rows, _ = coef.shape
        slopes = np.zeros((n_experts, n_rows, len(self.taken)))
        slopes[:, :, experts] = coef[:, :, 1:]
        logits = theta.gate["coef"]
        gate_slopes = np.zeros((n_experts, len(self.taken)))
        gate_slopes[:, gate] = logits[:, 1:]
        shapes = {name: values for name, values in theta.expert.items() if name != "coef"}
        return SparseParams(coef[:, :, 0].copy(), slopes, logits[:, 0].copy(), gate_slopes, shapes)

    def settled(self, params: SparseParams, coding: str) -> Theta:
        """Parameters as predictions use them, with intercepts of the gate that are told apart.

        Those of the symmetric coding sum to zero on the user's scale; of the other the last is
        zero.
        """
        theta = self.theta(params)
        logits = theta.gate["coef"].copy()
        if coding == "reference":
            logits -= logits[-1]
        else:
            logits[:, 0] -= self.frame.gate_map.raw_coefficients(logits)[0].mean()
        return Theta({"coef": logits}, theta.expert)

    def raw(self, theta: Theta, params: SparseParams) -> dict[str, Array]:
        """Parameters on the user's scale, by the names of the attributes.

        Of classes the coefficients of all, as they are penalised, with intercepts that sum to
        zero.
        """
        raw = {name: values + 0.0 for name, values in self.frame.raw(self.model, theta).items()}
        if self.family.nominal:
            design, (experts, _) = self.frame.expert_map, self.room_columns
            raw["coef"] = params.coef[:, :, experts] / design.scale + 0.0
            intercept = params.intercept - raw["coef"] @ design.center
            raw["intercept"] = intercept - intercept.mean(axis=1, keepdims=True)
        return raw

    def order(self, fit: SparseFit, coding: str) -> Array:
        """Experts by ascending mean fitted response over the rows they explain.

        With the gate's last row as reference its expert stays the last: a penalty on the other
        rows depends on which one it is.
        """
        found = SimpleNamespace(theta=self.theta(fit.params), mass=fit.mass, level=fit.level)
        order = canonical_order(found, self.family)
        if coding == "reference":
            last = len(order) - 1
            order = np.append(order[order != last], last)
        return order

    def separation(self, params: SparseParams) -> tuple[bool, Array]:
        """Whether the gate, and each expert (K,), has slopes without a finite maximum.

        Asked of coefficients that no penalty holds; each room is seen through its own columns.
        """
        rows, ones = self.rows, np.ones((len(self.rows.weight), 1))
        experts = np.flatnonzero((params.coef != 0.0).any(axis=(0, 1)))
        gate = np.flatnonzero((params.gate_coef != 0.0).any(axis=0))
        theta = seen_theta(self.family, params, experts, gate)
        theta = Theta({"coef": theta.gate["coef"] - theta.gate["coef"][-1]}, theta.expert)
        batch = Batch(
            y=rows.y,
            designs={"mean": np.hstack([ones, rows.X[:, experts]])},
            Z=np.hstack([ones, rows.X[:, gate]]),
            weight=rows.weight,
            offset=rows.offset,
        )
        stats = em_pass(self.model, theta, batch)
        of_gate = self.n_experts > 1 and self.model.gate.separation(theta.gate, part(stats, "gate"))
        of_experts = self.family.separation(theta.expert, part(stats, "expert"), NoPenalty())
        return bool(of_gate), of_experts

    # --- counting --------------------------------------------------------------------------

    def counts(self, params: SparseParams) -> tuple[int, int]:
        """Identifiable slopes that are not zero, and these with intercepts, scales and shapes.

        Rows that matter by their differences only count one less than there are: of a column of
        the gate at most K - 1, of one of multinomial experts at most C - 1 for each expert.
        """
        slopes = SparsePenalty(0.0, 0.0).n_free(params.coef, params.gate_coef)
        theta = self.theta(params)
        bare = {**theta.expert, "coef": theta.expert["coef"][..., :1]}
        free = self.family.n_params(bare) + self.n_experts - 1
        return slopes, slopes + free


def seen_theta(
    family: Expert, params: SparseParams, columns: Array, gate_columns: Array | None = None
) -> Theta:
    """Parameters of a mixture that sees a column of ones and some of the columns."""
    gate = columns if gate_columns is None else gate_columns
    coef = np.concatenate([params.intercept[:, :, None], params.coef[:, :, columns]], axis=2)
    own = coef[:, :-1] - coef[:, -1:] if family.nominal else coef[:, 0]
    logits = np.column_stack([params.gate_intercept, params.gate_coef[:, gate]])
    return Theta({"coef": logits}, {"coef": own, **params.shapes})


def centred(penalty: SparsePenalty, params: SparseParams) -> SparseParams:
    """The same mixture with the smallest penalty: rows of a softmax are known up to a shift.

    The last row of the gate is zero where it is the reference.
    """
    intercept = params.gate_intercept
    middle = intercept[-1] if penalty.gate_coding == "reference" else intercept.mean()
    return replace(
        params,
        coef=penalty.centred(params.coef, "expert"),
        gate_intercept=intercept - middle,
        gate_coef=penalty.centred(params.gate_coef),
    )


def _mask(columns: Array, n: int) -> Array | None:
    """Columns that a room may use, (n,) bool; None: all of them."""
    if len(columns) == n:
        return None
    mask: Array = np.zeros(n, dtype=bool)
    mask[columns] = True
    return mask


def spread_of(X: Array, center: Array, weight: Array) -> Array:
    """Weighted standard deviations (p,), some columns at a time: X may be wide."""
    width = max(1, 2**22 // max(len(X), 1))
    parts = [
        root_mean_square(X[:, j : j + width] - center[j : j + width], weight)
        for j in range(0, X.shape[1], width)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def is_constant(X: Array, spread: Array) -> Array:
    """Columns (p,) bool of a spread that is none.

    Rounding of the mean leaves a constant column a spread of some units in the last place.
    """
    constant: Array = spread <= 16.0 * _EPS * np.abs(X).max(axis=0, initial=0.0)
    return constant


def _refuse_constant(constant: Array, names: list[str]) -> None:
    if not constant.any():
        return
    found = [names[j] for j in np.flatnonzero(constant)]
    more = f" and {len(found) - 10} more" * (len(found) > 10)
    raise DesignError(
        f"X has constant columns: {', '.join(map(repr, found[:10]))}{more}. A penalty has no "
        "scale for what does not vary, and intercepts are fitted anyway: leave them out"
    )


def _refuse_twice(columns: Array, names: tuple[str, ...], argument: str) -> None:
    found, counts = np.unique(columns, return_counts=True)
    if (counts > 1).any():
        name = names[found[counts.argmax()]]
        raise ValueError(f"{argument} names the column {name!r} twice; name each column once")


def _refuse_family(family: Expert) -> None:
    """Refuse terms that are the penalty's to choose; families are the solver's to refuse."""
    if family.degree != 1:
        raise UnsupportedCombinationError(
            f"expert={family!r} has degree={family.degree}; penalised experts are linear in the "
            "columns of X: give squares and products as columns of their own, for instance by "
            "sklearn.preprocessing.PolynomialFeatures"
        )
    named: set[str] = {field.name for field in fields(family)} if is_dataclass(family) else set()
    # families of another form, without the option, are the solver's to refuse
    if not family.fit_intercept and "fit_intercept" in named:
        raise UnsupportedCombinationError(
            f"expert={family!r} has no intercept; penalised experts have one, which is not "
            "penalised: use fit_intercept=True"
        )
