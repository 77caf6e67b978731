"""From features to well-conditioned design columns, and back to raw coefficients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Columns, root_mean_square, weighted_mean
from mixexperts._moments import Moments

#: Gives features (n, d) and weights (n,) in blocks, anew at each call.
Rows: TypeAlias = Callable[[], Iterable[tuple[Array, Array]]]

# Columns whose pivot in a QR factor of the standardised design falls below this are taken as
# linear combinations of the others. Exact copies reach 1e-16.
_RANK_RATIO = 1e-10
# Below this pivot ratio the columns are replaced by an orthonormal basis of their span.
_WHITEN_RATIO = 0.1
# Many rows are taken in blocks of this size; their Gram will do where it is well-conditioned.
_QR_ROWS = 32768
_GRAM_RATIO = 1e-6


def monomials(n_features: int, degree: int) -> Array:
    """Exponents of all monomials of total degree 1 to ``degree``, (J, d).

    Ordered by degree, then as ``itertools.combinations_with_replacement`` orders the features.
    """
    rows = [
        np.bincount(combination, minlength=n_features)
        for total in range(1, degree + 1)
        for combination in itertools.combinations_with_replacement(range(n_features), total)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), n_features)


@saveable("design_map")
@dataclass(frozen=True)
class DesignMap:
    """Maps raw features (n, d) to the columns that the engine sees, (n, r).

    Features are centred (if there is an intercept) and scaled, expanded to monomials, and,
    where these are collinear or nearly so, projected on an orthonormal basis of their span:
    the unpenalised fit is then of minimum norm in the standardised coefficients.

    Attributes
    ----------
    names : tuple of str
        Names of the d features.
    center, scale : ndarray of shape (d,)
    powers : ndarray of int of shape (J, d) or None
        Exponents of the J non-constant columns; None where these are the features as they are,
        which may be too many for a table of all pairs.
    intercept : bool
    basis : ndarray of shape (P, r) or None
        With P = J + intercept; None where the columns are used as they are.
    dependent : tuple of str
        Columns that are linear combinations of the others.
    constant : tuple of str
        Features that have the same value in all rows.
    """

    names: tuple[str, ...]
    center: Array
    scale: Array
    powers: Array | None
    intercept: bool
    basis: Array | None = None
    dependent: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()

    @classmethod
    def plain(cls, names: tuple[str, ...], center: Array, scale: Array) -> DesignMap:
        """The features themselves, centred and scaled, after a column of ones."""
        return cls(names, center, scale, None, intercept=True)

    @classmethod
    def fit(
        cls,
        features: Array,
        weight: Array,
        names: tuple[str, ...],
        *,
        degree: int = 1,
        intercept: bool = True,
        orthogonalize: bool = True,
        center: bool | None = None,
        common_scale: bool = False,
    ) -> DesignMap:
        """Learn the map from features (n, d) and weights (n,).

        With ``orthogonalize=False`` (penalised fits) columns are standardised only. Features
        are centred if there is an intercept, unless ``center`` says otherwise; with
        ``common_scale`` all are divided by the same number.
        """
        wanted = intercept if center is None else center
        middle = np.zeros(features.shape[1])
        if wanted and features.shape[1]:
            middle = weighted_mean(features, weight)
        spread = root_mean_square(features - middle, weight)
        size = np.abs(features).max(axis=0, initial=0.0)

        def rows() -> Iterator[tuple[Array, Array]]:
            for i in range(0, len(features), _QR_ROWS):
                yield features[i : i + _QR_ROWS], weight[i : i + _QR_ROWS]

        plain = cls._standardizing(names, middle, spread, size, degree, intercept, common_scale)
        return plain._with_basis(rows, len(features), float(weight.sum()), orthogonalize)

    @classmethod
    def from_moments(
        cls,
        moments: Moments,
        rows: Rows,
        names: tuple[str, ...],
        *,
        degree: int = 1,
        intercept: bool = True,
        orthogonalize: bool = True,
        center: bool | None = None,
        common_scale: bool = False,
    ) -> DesignMap:
        """The same map from moments of the features, to rounding.

        ``rows()`` gives features and weights in blocks; they are read where moments do not do.
        """
        wanted = intercept if center is None else center
        middle = moments.mean if wanted else np.zeros(len(moments.mean))
        spread = moments.spread(middle)
        plain = cls._standardizing(
            names, middle, spread, moments.size, degree, intercept, common_scale
        )
        gram = None
        if degree <= 1:
            gram = np.eye(plain.n_columns)
            if degree:
                shift = int(intercept)
                gram[shift:, shift:] = moments.second(middle, plain.scale)
        return plain._with_basis(rows, moments.n_rows, moments.weight, orthogonalize, gram)

    @classmethod
    def _standardizing(
        cls,
        names: tuple[str, ...],
        center: Array,
        spread: Array,
        size: Array,
        degree: int,
        intercept: bool,
        common_scale: bool,
    ) -> DesignMap:
        # Rounding of the mean leaves a constant column a spread of some units in the last place.
        flat = spread <= 16.0 * np.finfo(float).eps * size
        flat |= spread == 0.0
        scale = np.where(flat, 1.0, spread)
        if common_scale and len(scale):
            scale = np.full_like(scale, root_mean_square(scale, np.ones_like(scale)))
        constant = tuple(names[j] for j in np.flatnonzero(flat))
        powers = monomials(len(names), degree)
        return cls(names, center, scale, powers, intercept, constant=constant)

    def _with_basis(
        self, rows: Rows, n_rows: int, total: float, orthogonalize: bool, gram: Array | None = None
    ) -> DesignMap:
        if not self.n_columns:
            return self
        factor = _triangle(self._factor(rows, n_rows, total, gram))
        ratio = _share_left(factor)
        independent = ratio > _RANK_RATIO
        columns = (("Intercept",) if self.intercept else ()) + self.column_names()
        dependent = tuple(columns[j] for j in np.flatnonzero(~independent))
        basis = None
        if orthogonalize and ratio.min() < _WHITEN_RATIO:
            basis = _orthonormal_basis(factor, independent)
        return replace(self, basis=basis, dependent=dependent)

    def _factor(self, rows: Rows, n_rows: int, total: float, gram: Array | None) -> Array:
        """A matrix with the Gram of the weighted standardised columns, of few rows."""

        def blocks() -> Iterator[Array]:
            for features, weight in rows():
                yield np.sqrt(weight / total)[:, None] * self.transform(features)

        if n_rows > _QR_ROWS:
            if gram is None:
                gram = np.zeros((self.n_columns, self.n_columns))
                for block in blocks():
                    gram += block.T @ block
            values = np.linalg.eigvalsh(gram)
            if values[0] > _GRAM_RATIO * values[-1]:
                lower: Array = np.linalg.cholesky(gram)
                return lower.T
        # Ill-conditioned: triangular factors of the blocks keep the digits that Grams lose.
        triangles: list[Array] = []
        held = 0
        for block in blocks():
            triangles.append(_triangle(block))
            held += len(triangles[-1])
            if held > max(_QR_ROWS, 2 * self.n_columns):
                triangles = [_triangle(np.vstack(triangles))]
                held = len(triangles[0])
        return np.vstack(triangles)

    @property
    def n_columns(self) -> int:
        """Number P of columns before projection, the intercept included."""
        return self.n_terms + int(self.intercept)

    @property
    def n_terms(self) -> int:
        """Number J of non-constant columns."""
        return len(self.names if self.powers is None else self.powers)

    def same_columns(self, other: DesignMap) -> bool:
        """Whether another map makes the same columns of the same features."""
        if (self.basis is None) != (other.basis is None) or self.intercept != other.intercept:
            return False
        names = ("center", "scale", "powers") + (() if self.basis is None else ("basis",))
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def column_names(self) -> tuple[str, ...]:
        """Names of the J non-constant columns: ``x1``, ``x1^2``, ``x1 x2``."""
        if self.powers is None:
            return self.names
        return tuple(
            " ".join(
                name if power == 1 else f"{name}^{power}"
                for name, power in zip(self.names, row, strict=True)
                if power
            )
            for row in self.powers
        )

    @property
    def is_plain(self) -> bool:
        """Whether the columns are the features themselves, centred and scaled."""
        return self.basis is None and self._is_linear

    @property
    def _is_linear(self) -> bool:
        powers = self.powers
        if powers is None:
            return True
        return len(powers) == powers.shape[1] and bool((powers.sum(axis=1) == 1).all())

    def columns(self, values: Array, taken: Array) -> Columns:
        """The design of a plain map of ``values[:, taken]``, made only where it is read."""
        shift = int(self.intercept)
        return Columns(
            values,
            0,
            len(values),
            np.concatenate([np.full(shift, -1), taken]).astype(np.int64),
            np.concatenate([np.zeros(shift), self.center]),
            np.concatenate([np.ones(shift), 1.0 / self.scale]),
        )

    def transform(self, features: Array) -> Array:
        """Design matrix (n, r) of raw features (n, d)."""
        standard = (features - self.center) / self.scale
        design = np.empty((features.shape[0], self.n_columns), order="C")
        shift = int(self.intercept)
        design[:, :shift] = 1.0
        if self.powers is None or self._is_linear:
            design[:, shift:] = standard
        else:
            for j, row in enumerate(self.powers):
                used = np.flatnonzero(row)
                design[:, shift + j] = np.prod(standard[:, used] ** row[used], axis=1)
        return design if self.basis is None else design @ self.basis

    def linear(self) -> Array:
        """Matrix M (d, r) of a map of degree 1 without intercept: ``(x - center) @ M``."""
        matrix = np.diag(1.0 / self.scale)
        return matrix if self.basis is None else matrix @ self.basis

    def log_volume(self) -> float:
        """Log of the volume that a unit of raw features takes, where :meth:`linear` is square."""
        return float(np.linalg.slogdet(self.linear())[1])

    def standard_to_raw(self) -> Array:
        """Matrix (P, P) from coefficients of standardised to those of raw monomials."""
        shift = int(self.intercept)
        powers = monomials(len(self.names), 1) if self.powers is None else self.powers
        rows = [tuple(row) for row in powers]
        position = {row: shift + j for j, row in enumerate(rows)}
        if self.intercept:
            position[(0,) * powers.shape[1]] = 0
        matrix = np.zeros((self.n_columns, self.n_columns))
        matrix[:shift, :shift] = 1.0
        for j, row in enumerate(rows):
            # ((x - m) / s) ** a = sum_b C(a, b) x ** b (-m) ** (a - b) / s ** a, per feature
            for lower in itertools.product(*(range(a + 1) for a in row)):
                target = position.get(lower)
                if target is None:
                    continue  # without intercept the centre is zero, and so is this term
                value = 1.0
                for a, b, m, s in zip(row, lower, self.center, self.scale, strict=True):
                    value *= math.comb(a, b) * (-m) ** (a - b) / s**a
                matrix[target, shift + j] = value
        return matrix

    def raw_coefficients(self, coef: Array) -> tuple[Array, Array]:
        """Intercepts (K,) and raw coefficients (K, J) of engine coefficients (K, r)."""
        if self.powers is None and self.basis is None and self.intercept:
            slopes = coef[:, 1:] / self.scale
            return coef[:, 0] - slopes @ self.center, slopes
        standard = coef if self.basis is None else coef @ self.basis.T
        raw = standard @ self.standard_to_raw().T
        if not self.intercept:
            return np.zeros(len(raw)), raw
        return raw[:, 0], raw[:, 1:]

    def engine_coefficients(self, intercept: Array, coef: Array) -> Array:
        """Engine coefficients (K, r) of intercepts (K,) and raw coefficients (K, J)."""
        if self.powers is None and self.basis is None and self.intercept:
            return np.column_stack([intercept + coef @ self.center, coef * self.scale])
        raw = np.column_stack([intercept, coef]) if self.intercept else np.asarray(coef)
        standard = np.linalg.solve(self.standard_to_raw(), raw.T)
        if self.basis is not None:
            standard = np.linalg.lstsq(self.basis, standard, rcond=None)[0]
        engine: Array = standard.T
        return engine


def _orthonormal_basis(factor: Array, independent: Array) -> Array:
    """Coefficients (P, r) of an orthonormal basis of the columns, within their row space.

    Fits in such a basis are those of minimum norm. The basis depends on the Gram of the
    columns alone: no sign and no rotation is left to chance, so that starts which draw random
    directions do not hang on rounding.
    """
    _, size, rows = np.linalg.svd(factor, full_matrices=False)
    keep = rows[size > _RANK_RATIO * size[0]]
    chosen = np.flatnonzero(independent)
    if len(chosen) != len(keep):  # rounding decides the rank: any basis will do
        rotated: Array = (keep / size[: len(keep), None]).T
        return rotated
    basis: Array = keep.T @ keep[:, chosen]
    for _ in range(2):  # once more for the digits that ill-conditioned columns lose
        triangle = _triangle(factor @ basis)
        triangle *= np.sign(np.diagonal(triangle))[:, None]
        basis = np.linalg.solve(triangle.T, basis.T).T
    return basis


def _share_left(factor: Array) -> Array:
    """Share of each column's norm that is left once the earlier columns are taken out, (P,)."""
    share = np.zeros(factor.shape[1])
    directions = np.empty((0, len(factor)))
    for j, column in enumerate(factor.T):
        size = np.sqrt(column @ column)
        rest = column
        for _ in range(2):
            rest = rest - directions.T @ (directions @ rest)
        left = np.sqrt(rest @ rest)
        share[j] = left / size if size > 0.0 else 0.0
        if share[j] > _RANK_RATIO:
            directions = np.vstack([directions, rest / left])
    return share


def _triangle(matrix: Array) -> Array:
    triangle: Array = np.asarray(np.linalg.qr(matrix, mode="r"))
    return triangle
