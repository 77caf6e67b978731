"""What a penalised fit needs of a family: terms of rows in its linear predictors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixexperts._batch import Array, Batch
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts._adapters import as_linear
from mixexperts.experts._classes import codes
from mixexperts.experts._glm import GLM
from mixexperts.experts._linear import LinearExpert
from mixexperts.experts._skewed import Skewed
from mixexperts.experts.base import Expert
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.multinomial import Multinomial
from mixexperts.experts.poisson import Poisson

Shapes = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Terms:
    """Rows under K experts of L predictors each; arrays of rows (., n).

    Attributes
    ----------
    log_f : ndarray of shape (K, n)
    slope, curve : ndarray of shape (K L, n)
        First derivatives in the predictors, and curvatures >= 0 to divide by.
    mean : ndarray of shape (K, n)
        By which experts are put in order.
    share : ndarray of shape (K, L, n) or None
        Probabilities of the classes, of multinomial experts.
    """

    log_f: Array
    slope: Array
    curve: Array
    mean: Array
    share: Array | None = None


class Family(ABC):
    """Experts of L linear predictors each and of scalar shapes.

    Attributes
    ----------
    expert : Expert
    n_predictors : int
        L: one, or the number of classes.
    intercept : bool
    """

    def __init__(self, expert: Expert, n_predictors: int) -> None:
        self.expert = expert
        self.n_predictors = n_predictors
        self.intercept = bool(expert.fit_intercept)

    #: Names of the shapes that are estimated, in the order of their derivatives.
    free_shapes: tuple[str, ...] = ()
    #: Those of the shapes that all experts share.
    tied_shapes: frozenset[str] = frozenset()

    @abstractmethod
    def terms(self, y: Array, eta: Array, shapes: Shapes) -> Terms:
        """Terms of rows at predictors (K L, n), offsets included."""

    @abstractmethod
    def curves(self, y: Array, eta: Array, shapes: Shapes) -> tuple[Array, Array]:
        """Slopes (K, T, n) and negated second derivatives (K, T, T, n); T = L + free shapes.

        Shapes are differentiated in their unconstrained form.
        """

    def slopes(self, y: Array, eta: Array, shapes: Shapes) -> Array:
        """The slopes (K, T, n) of :meth:`curves` alone."""
        return self.curves(y, eta, shapes)[0]

    def next_shapes(
        self,
        y: Array,
        eta: Array,
        shapes: Shapes,
        weight: Array,
        pull: tuple[Array, Array] | None = None,
    ) -> Shapes:
        """Shapes after an update under weights (K, n), at predictors just updated.

        ``pull`` holds what a penalty by scale adds: factors (K,) of ``1 / scale`` and of
        ``1 / (2 scale^2)``.
        """
        return shapes

    def moved_shapes(self, shapes: Shapes, step: Array) -> Shapes:
        """Shapes after a step (K, S) of their unconstrained forms."""
        return shapes

    def at_boundary(self, shapes: Shapes) -> Array:
        """Experts whose shapes have run to a spike, (K,) bool."""
        return np.zeros(0, dtype=bool)

    def start(
        self, y: Array, offset: Array | None, resp: Array, weight: Array
    ) -> tuple[Array, Shapes]:
        """Intercepts (K, L) and shapes of experts without slopes, fitted to responsibilities."""
        n = len(weight)
        batch = Batch(
            y=y, designs={"mean": np.ones((n, 1))}, Z=np.ones((n, 1)), weight=weight, offset=offset
        )
        params = self.expert.init_params(batch, resp.T, np.random.default_rng(0))
        intercept = np.asarray(params["coef"]).reshape(len(resp), -1)
        if not self.intercept:
            intercept = np.zeros_like(intercept)
        shapes = {name: np.array(v) for name, v in params.items() if name != "coef"}
        return intercept, shapes

    def n_shapes(self, n_experts: int) -> int:
        """Number of shapes that are estimated."""
        return sum(1 if name in self.tied_shapes else n_experts for name in self.free_shapes)


class LinearFamily(Family):
    """Families of one linear predictor, by their elementwise terms."""

    def __init__(self, expert: Expert, linear: LinearExpert) -> None:
        super().__init__(expert, 1)
        self.linear = linear
        self._shapes = tuple(shape for _, shape in linear.free_shapes())
        self.free_shapes = tuple(shape.name for shape in self._shapes)
        self.tied_shapes = frozenset(s.name for s in self._shapes if linear.is_shared(s))

    def _columns(self, y: Array) -> Array:
        return y[None, :] if y.ndim == 1 else np.ascontiguousarray(y.T)[:, None, :]

    @staticmethod
    def _tall(shapes: Shapes) -> dict[str, Array]:
        return {name: values[:, None] for name, values in shapes.items()}

    def terms(self, y: Array, eta: Array, shapes: Shapes) -> Terms:
        found = self.linear.terms(self._columns(y), eta, **self._tall(shapes))
        parts = (found.log_f, found.slopes[0], found.weights[0], found.mean)
        return Terms(*(np.broadcast_to(part, eta.shape) for part in parts))

    def curves(self, y: Array, eta: Array, shapes: Shapes) -> tuple[Array, Array]:
        columns, tall = self._columns(y), self._tall(shapes)
        slopes = self.linear.terms(columns, eta, **tall).slopes
        table = self.linear.curves(columns, eta, **tall)
        size = 1 + len(self._shapes)
        slope = np.stack([np.broadcast_to(part, eta.shape) for part in slopes[:size]], axis=1)
        curve = np.stack(
            [np.stack([np.broadcast_to(c, eta.shape) for c in row], axis=1) for row in table],
            axis=1,
        )
        return slope, curve

    def next_shapes(
        self,
        y: Array,
        eta: Array,
        shapes: Shapes,
        weight: Array,
        pull: tuple[Array, Array] | None = None,
    ) -> Shapes:
        if not self._shapes:
            return shapes
        found = self.linear.terms(self._columns(y), eta, **self._tall(shapes))
        stats: dict[str, Array] = {"mass": weight.sum(axis=1)}
        for shape, slope, curve in zip(
            self._shapes, found.slopes[1:], found.weights[1:], strict=True
        ):
            for name, part in (("slope", slope), ("weight", curve)):
                rows = np.where(weight > 0.0, weight * part, 0.0)
                stats[f"{shape.name}_{name}"] = rows.sum(axis=1)
        params = dict(shapes)
        moved = {s.name: self.linear.update_shape(s, params, stats) for s in self._shapes}
        return {**shapes, **moved}

    def moved_shapes(self, shapes: Shapes, step: Array) -> Shapes:
        moved = dict(shapes)
        for s, shape in enumerate(self._shapes):
            moved[shape.name] = shape.value(shape.free(shapes[shape.name]) + step[:, s])
        return moved

    def at_boundary(self, shapes: Shapes) -> Array:
        found = np.zeros(0, dtype=bool)
        for shape in self._shapes:
            value = shapes[shape.name]
            if not len(found):
                found = np.zeros(len(value), dtype=bool)
            if shape.boundary:
                found = found | (value <= shape.lower * (1.0 + 1e-9))
            if shape.upper_boundary:
                found = found | (value >= shape.upper * (1.0 - 1e-9))
        return found


class GaussianFamily(LinearFamily):
    """Gaussian experts: the update of the scales is exact."""

    def next_shapes(
        self,
        y: Array,
        eta: Array,
        shapes: Shapes,
        weight: Array,
        pull: tuple[Array, Array] | None = None,
    ) -> Shapes:
        square = np.einsum("kn,kn->k", weight, (y - eta) ** 2)
        mass = weight.sum(axis=1)
        linear = np.zeros(len(mass))
        if pull is not None:
            linear, square = pull[0], square + pull[1]
        if self.tied_shapes:
            square, mass, linear = (
                np.full(square.shape, part.sum()) for part in (square, mass, linear)
            )
        # the positive root of mass scale^2 - linear scale - square
        root = np.sqrt(linear**2 + 4.0 * mass * square)
        scale = (linear + root) / np.where(mass > 0.0, 2.0 * mass, 1.0)
        shape = self._shapes[0]
        scale = np.where(mass > 0.0, np.clip(scale, shape.lower, shape.upper), shapes["scale"])
        return {"scale": scale}

    def terms(self, y: Array, eta: Array, shapes: Shapes) -> Terms:
        scale = shapes["scale"][:, None]
        precision = scale**-2
        residual = y - eta
        slope = residual * precision
        log_f = -0.5 * slope * residual
        log_f -= np.log(scale) + 0.9189385332046727
        return Terms(log_f, slope, np.repeat(precision, eta.shape[1], axis=1), eta)

    def slopes(self, y: Array, eta: Array, shapes: Shapes) -> Array:
        z = (y - eta) / shapes["scale"][:, None]
        slope = np.empty((len(eta), 2, len(y)))
        np.divide(z, shapes["scale"][:, None], out=slope[:, 0])
        np.multiply(z, z, out=slope[:, 1])
        slope[:, 1] -= 1.0
        return slope

    def curves(self, y: Array, eta: Array, shapes: Shapes) -> tuple[Array, Array]:
        slope = self.slopes(y, eta, shapes)
        curve = np.empty((len(eta), 2, 2, len(y)))
        curve[:, 0, 0] = shapes["scale"][:, None] ** -2
        curve[:, 0, 1] = curve[:, 1, 0] = 2.0 * slope[:, 0]
        curve[:, 1, 1] = 2.0 * (slope[:, 1] + 1.0)
        return slope, curve


class LinkedFamily(Family):
    """Binomial experts, and counts with a link of their own."""

    expert: GLM

    def __init__(self, expert: GLM) -> None:
        super().__init__(expert, 1)

    def _parts(self, y: Array, eta: Array) -> tuple[Array, ...]:
        eta = eta.T
        link = self.expert.other_link
        natural, first, second = (eta, None, None) if link is None else link.own(eta)
        log_f, mean = self.expert.density(y, natural)
        slope, weight = self.expert.moments(y, mean)
        observed = weight
        if first is not None:
            slope, weight = slope * first, weight * first**2
            observed = weight - self.expert.moments(y, mean)[0] * second
        return tuple(
            np.ascontiguousarray(part.T) for part in (log_f, slope, weight, mean, observed)
        )

    def terms(self, y: Array, eta: Array, shapes: Shapes) -> Terms:
        return Terms(*self._parts(y, eta)[:4])

    def curves(self, y: Array, eta: Array, shapes: Shapes) -> tuple[Array, Array]:
        _, slope, _, _, observed = self._parts(y, eta)
        return slope[:, None], observed[:, None, None]


class ClassFamily(Family):
    """Multinomial experts, all C classes alike."""

    expert: Multinomial

    def __init__(self, expert: Multinomial, n_classes: int) -> None:
        super().__init__(expert, n_classes)
        self.values = np.arange(float(n_classes))

    def _log_share(self, eta: Array) -> Array:
        log_share = eta.reshape(-1, self.n_predictors, eta.shape[-1])
        log_share = log_share - log_share.max(axis=1, keepdims=True)
        normed: Array = log_share - np.log(np.exp(log_share).sum(axis=1, keepdims=True))
        return normed

    def terms(self, y: Array, eta: Array, shapes: Shapes) -> Terms:
        log_share = self._log_share(eta)
        code, known = codes(y, self.n_predictors)
        log_f = np.take_along_axis(log_share, code[None, None], axis=1)[:, 0]
        log_f = np.where(known, log_f, -np.inf)
        share = np.exp(log_share)
        hit = known & (code == np.arange(self.n_predictors)[:, None])
        slope = (hit - share).reshape(eta.shape)
        curve = (share * (1.0 - share)).reshape(eta.shape)
        mean = np.einsum("kcn,c->kn", share, self.values)
        return Terms(log_f, slope, curve, mean, share)

    def curves(self, y: Array, eta: Array, shapes: Shapes) -> tuple[Array, Array]:
        found = self.terms(y, eta, shapes)
        share = found.share
        assert share is not None
        curve = -share[:, :, None] * share[:, None]
        c = np.arange(self.n_predictors)
        curve[:, c, c] += share
        return found.slope.reshape(share.shape), curve

    def start(
        self, y: Array, offset: Array | None, resp: Array, weight: Array
    ) -> tuple[Array, Shapes]:
        code, _ = codes(y, self.n_predictors)
        hit = (code == np.arange(self.n_predictors)[:, None]).astype(float)
        mass = (resp * weight) @ hit.T
        pooled = mass.sum(axis=0)
        # a little of the pooled shares: no class may be missing at a start
        shares = mass + (pooled + 1.0) / (pooled + 1.0).sum()
        intercept = np.log(shares / shares.sum(axis=1, keepdims=True))
        intercept -= intercept.mean(axis=1, keepdims=True)
        return intercept * self.intercept, {}


def family_of(expert: Expert, n_columns: int = 1) -> Family:
    """The family in the form that penalised fits need.

    Parameters
    ----------
    expert : Expert
        Bound to the response: multinomial experts know their classes.
    n_columns : int, default=1
        Columns of the response.

    Raises
    ------
    UnsupportedCombinationError
        If it has no single linear predictor, or none per class.
    """
    if isinstance(expert, Gaussian) and n_columns == 1:
        return GaussianFamily(expert, as_linear(expert, "a penalised fit"))
    if isinstance(expert, Multinomial) and expert.n_classes:
        return ClassFamily(expert, int(expert.n_classes))
    if isinstance(expert, Poisson) and expert.other_link is None:
        return LinearFamily(expert, as_linear(expert, "a penalised fit"))
    if isinstance(expert, GLM):
        return LinkedFamily(expert)
    if _is_plain(expert):
        assert isinstance(expert, LinearExpert)
        return LinearFamily(expert, expert)
    raise UnsupportedCombinationError(
        f"{expert.name!r} experts cannot be fitted with sparse penalties: they need one linear "
        "predictor with second derivatives, or one per class; use 'gaussian', 'poisson', "
        "'binomial', 'multinomial', 'gamma', 'negative_binomial', 'student_t' or the like"
    )


def _is_plain(expert: Expert) -> bool:
    """Whether a family is elementwise functions of one predictor, with second derivatives."""
    if not isinstance(expert, LinearExpert) or expert.truncates or expert.degree != 1:
        return False
    if isinstance(expert, Skewed):  # the information about a skewness is singular at zero
        return False
    return type(expert).curves is not LinearExpert.curves
