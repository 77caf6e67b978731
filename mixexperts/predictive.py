"""The predictive distribution of the response at given rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mixexperts._arguments import count, fraction, generator, log_weights
from mixexperts._batch import Array, Batch, Params
from mixexperts._lattice import LEAST, MOST, integers_between, likeliest, smallest_integer
from mixexperts._roots import Kernel, blocks, grid, highest, solve, with_turns
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert

if TYPE_CHECKING:
    import pandas as pd

_EPS = np.finfo(float).eps
_BLOCK = 1 << 16  # cells (a row and a value) evaluated at a time
_LEVELS = np.linspace(-8.0, 8.0, 97)  # normal scores of the probabilities that sample a density


class Predictive:
    """Predictive distribution ``p(y | x) = sum_k weight_k(x) f_k(y | x)`` at n rows.

    Parameters
    ----------
    expert : Expert
        Family of the experts.
    params : mapping of str to ndarray
        Parameters of the K experts, on the internal scale of the response.
    batch : Batch
        Designs and offset of the n rows; its response is a placeholder of shape (n,), or of
        (n, 2) where its sums are the trials of binomial experts.
    log_weight : array-like of shape (n, K)
        Log mixing weights; ``-inf`` switches an expert off in a row.
    loc, scale : float, default=0.0 and 1.0
        The reported response is ``loc + scale * internal``.
    index : array-like of shape (n,), optional
        Row labels for :meth:`to_frame`.

    Raises
    ------
    ValueError
        If shapes disagree, weights do not sum to one, or ``scale`` is not positive.
    UnsupportedCombinationError
        If the family takes no such response; from a method, if the family lacks what it needs.

    Notes
    -----
    ``y`` in ``pdf``, ``logpdf``, ``cdf``, ``sf``: a scalar goes with every row, (n,) row by row,
    both giving (n,); (n, m) holds m values for each row, (1, m) the same for all, giving (n, m).
    """

    def __init__(
        self,
        expert: Expert,
        params: Params,
        batch: Batch,
        log_weight: Any,
        *,
        loc: float = 0.0,
        scale: float = 1.0,
        index: Any = None,
    ) -> None:
        if batch.y.ndim != 1 and batch.y.shape[1] not in expert.response_columns:
            raise UnsupportedCombinationError(
                f"expected one response per row, got shape {batch.y.shape}; take one column"
            )
        if not (0.0 < scale < math.inf and math.isfinite(loc)):
            raise ValueError(
                f"expected a finite loc and a finite scale > 0, got {loc!r} and {scale!r}; "
                "look for infinities or a constant response"
            )
        if index is not None and len(index) != batch.n_rows:
            raise ValueError(
                f"index must hold {batch.n_rows} labels, got {len(index)}; pass one per row"
            )
        self._expert, self._params = expert, params
        self._log_weight = log_weights(log_weight, batch.n_rows)
        self._weight = np.exp(self._log_weight)
        self._weight.flags.writeable = False
        self._loc, self._scale, self._index = float(loc), float(scale), index
        self._source, self._rows = batch, np.arange(batch.n_rows)
        self._value = batch.y if batch.y.ndim == 1 else batch.y[:, 0]
        self._batch = self._at(self._rows, self._value)

    def __repr__(self) -> str:
        name, (n_rows, n_experts) = self._expert.name, self._weight.shape
        return f"Predictive(expert={name!r}, n_rows={n_rows}, n_experts={n_experts})"

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self._weight.shape[0])

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return int(self._weight.shape[1])

    @property
    def weights(self) -> Array:
        """Mixing weights, (n, K), read-only."""
        return self._weight

    def expert_means(self) -> Array:
        """Mean of each expert, also of those with weight zero.

        Returns
        -------
        ndarray of shape (n, K)
        """
        return self._report(self._expert.ordered().mean(self._params, self._batch))

    def mean(self) -> Array:
        """Mean.

        Returns
        -------
        ndarray of shape (n,)
        """
        return self._report(self._mix(self._expert.ordered().mean(self._params, self._batch)))

    def var(self) -> Array:
        """Variance: that within experts plus that between them.

        Returns
        -------
        ndarray of shape (n,)
        """
        return self.std() ** 2

    def std(self) -> Array:
        """Standard deviation.

        Returns
        -------
        ndarray of shape (n,)
        """
        mean = self._expert.ordered().mean(self._params, self._batch)
        within = self._expert.variance(self._params, self._batch)
        return self._scale * np.sqrt(self._mix(within + (mean - self._mix(mean)[:, None]) ** 2))

    def pdf(self, y: Any) -> Array:
        """Density at y; of counts the probability of y, zero where y is no integer.

        Parameters
        ----------
        y : float or array-like of shape (n,), (n, m) or (1, m)
            Responses; the notes of the class say which goes with which row.

        Returns
        -------
        ndarray of shape (n,) or (n, m)

        Raises
        ------
        ValueError
            If y has another shape.
        """
        return np.exp(self.logpdf(y))

    def logpdf(self, y: Any) -> Array:
        """Log density at y, however far in the tails.

        Parameters
        ----------
        y : float or array-like of shape (n,), (n, m) or (1, m)
            Responses, as in :meth:`pdf`; other shapes are a ValueError.

        Returns
        -------
        ndarray of shape (n,) or (n, m)
        """
        return self._evaluate(self._log_density, y) - math.log(self._scale)

    def cdf(self, y: Any) -> Array:
        """Distribution function at y, also where it is tiny.

        Parameters
        ----------
        y : float or array-like of shape (n,), (n, m) or (1, m)
            Responses, as in :meth:`pdf`; other shapes are a ValueError.

        Returns
        -------
        ndarray of shape (n,) or (n, m)
        """
        return self._evaluate(self._lower, y)

    def sf(self, y: Any) -> Array:
        """Probability above y.

        Mixed from the experts' own ``sf(params, batch)`` where the family offers one, and then
        right also where it is tiny; else ``1 - cdf``, with an absolute error near 1e-16.

        Parameters
        ----------
        y : float or array-like of shape (n,), (n, m) or (1, m)
            Responses, as in :meth:`pdf`; other shapes are a ValueError.

        Returns
        -------
        ndarray of shape (n,) or (n, m)
        """
        return self._evaluate(self._upper, y)

    def ppf(self, q: Any) -> Array:
        """Quantiles, the smallest y with ``cdf(y) >= q``.

        ``cdf`` equals q there to rounding, or neighbouring floats enclose its jump. Where it is
        flat to the last bit, as between experts far apart, any point of the flat part will do.

        Parameters
        ----------
        q : float or array-like of shape (m,)
            Probabilities; 0 and 1 give the ends of the support (for Gaussians, -inf and inf).

        Returns
        -------
        ndarray of shape (n,) for a scalar, (n, m) for an array

        Raises
        ------
        ValueError
            If q has two axes or more, or a value outside [0, 1].
        """
        prob = np.asarray(q, dtype=float)
        if prob.ndim > 1:
            raise ValueError(f"q must be a scalar or (m,), got shape {prob.shape}; use q.ravel()")
        flat = fraction(prob, "q", "[0, 1]").ravel()
        ends = np.array([self._bracket(float(p)) for p in flat]).reshape(flat.size, 3, self.n_rows)
        lo, hi, start = ends.transpose(1, 2, 0).reshape(3, -1)
        rows, target = np.repeat(self._rows, flat.size), np.tile(flat, self.n_rows)
        hi, lo = np.where(target == 0.0, lo, hi), np.where(target == 1.0, hi, lo)
        for part in blocks(rows.size, _BLOCK):
            if self._expert.discrete:
                reaches = partial(self._reaches, rows[part], target[part])
                hi[part] = smallest_integer(reaches, lo[part] - 1.0, hi[part])
            else:
                probe = partial(self._towards, rows[part], target[part])
                hi[part] = solve(probe, lo[part], hi[part], start[part])
        quantile = self._report(hi.reshape(self.n_rows, flat.size))
        return quantile if prob.ndim else quantile[:, 0]

    def median(self) -> Array:
        """Median.

        Returns
        -------
        ndarray of shape (n,)
        """
        return self.ppf(0.5)

    def interval(self, confidence: float = 0.9) -> tuple[Array, Array]:
        """Central interval, with equal mass below and above it (of counts: at most that).

        Parameters
        ----------
        confidence : float, default=0.9
            Probability inside, in [0, 1].

        Returns
        -------
        lower, upper : ndarray of shape (n,)
            Both belong to the interval.

        Raises
        ------
        ValueError
            If ``confidence`` lies outside [0, 1].
        """
        half = 0.5 * fraction(confidence, "confidence", "[0, 1]")
        lower, upper = self.ppf([0.5 - half, 0.5 + half]).T
        return lower, upper

    def hdr(self, confidence: float = 0.9) -> list[list[tuple[float, float]]]:
        """Highest-density region: the shortest set of mass ``confidence`` (Hyndman, 1996).

        Parameters
        ----------
        confidence : float, default=0.9
            Probability inside, in (0, 1).

        Returns
        -------
        list of n lists of (lower, upper)
            Disjoint intervals of each row, ascending. All ends have the same density, but for
            an end of the support. Of counts: runs of integers, first and last, of the likeliest
            values that together have at least that mass.

        Raises
        ------
        ValueError
            If ``confidence`` lies outside (0, 1).
        UnsupportedCombinationError
            If no such region has that mass, the counts are too many to be looked at, or some
            values have a probability beside a density.
        """
        mass = float(fraction(confidence, "confidence", "(0, 1)"))
        if self._expert.discrete:
            return [likeliest(value, log_f, mass) for value, log_f in self._integers()]
        return [region for rows in self._row_blocks() for region in self._regions(rows, mass)]

    def mode(self) -> Array:
        """Point of highest density, within about 1e-8 of the width of that peak.

        Of counts the likeliest integer, the least if several are.

        Returns
        -------
        ndarray of shape (n,)
        """
        if self._expert.discrete:
            likely = [value[log_f.argmax()] for value, log_f in self._integers()]
            return self._report(np.array(likely, dtype=float))
        top = np.empty(self.n_rows)
        for rows in self._row_blocks():
            x, log_f = self._profile(rows)
            top[rows] = x[np.arange(rows.size), log_f.argmax(axis=1)]
        return self._report(top)

    def sample(self, size: int | None = None, random_state: Any = None) -> Array:
        """Draw responses: an expert by weight, then a value from it.

        Parameters
        ----------
        size : int, optional
            Number of draws at each row; None for one draw without an axis of its own.
        random_state : int, Generator, RandomState or None, default=None
            An integer repeats its draws, a generator is advanced, None draws afresh.

        Returns
        -------
        ndarray of shape (n,) or (size, n)

        Raises
        ------
        ValueError
            If ``size`` or ``random_state`` is none of these.
        """
        rng = generator(random_state)
        draws = 1 if size is None else count(size, "size")
        bound = np.cumsum(self._weight, axis=1)
        bound /= bound[:, -1:]
        rows = np.tile(self._rows, draws)
        drawn = np.empty(rows.size)
        for part in blocks(rows.size, _BLOCK):
            label = (rng.random(rows[part].size)[:, None] >= bound[rows[part]]).sum(axis=1)
            batch = self._at(rows[part], self._value[rows[part]])
            drawn[part] = self._expert.sample(self._params, batch, label, rng)
        return self._report(drawn if size is None else drawn.reshape(draws, self.n_rows))

    def to_frame(self, confidence: float = 0.9) -> pd.DataFrame:
        """Table of the mean, the spread, the median and the central interval.

        Parameters
        ----------
        confidence : float, default=0.9
            As in :meth:`interval`; outside [0, 1] it is a ValueError.

        Returns
        -------
        DataFrame of shape (n, 5)
            Columns ``mean``, ``std``, ``median``, ``lower`` and ``upper``.
        """
        import pandas as pd

        columns = {"mean": self.mean(), "std": self.std(), "median": self.median()}
        columns["lower"], columns["upper"] = self.interval(confidence)
        return pd.DataFrame(columns, index=self._index)

    def _report(self, internal: Array) -> Array:
        return self._loc + self._scale * internal

    def _at(self, rows: Array, value: Array) -> Batch:
        designs = {name: design[rows] for name, design in self._source.designs.items()}
        offset = None if self._source.offset is None else self._source.offset[rows]
        y = self._expert.response_at(self._source.y[rows], value)
        return Batch(y, designs, np.empty((rows.size, 0)), np.ones(rows.size), offset=offset)

    def _mix(self, values: Array, rows: Array | slice = slice(None)) -> Array:
        """Weighted sum over experts of (c, K) values; those of weight zero may be anything."""
        weight = self._weight[rows]
        mixed: Array = np.sum(weight * np.where(weight > 0.0, values, 0.0), axis=1)
        return mixed

    def _log_density(self, rows: Array, value: Array) -> Array:
        log_weight = self._log_weight[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            log_joint = log_weight + self._expert.log_prob(self._params, self._at(rows, value))
        if self._expert.discrete:
            whole = np.isnan(value) | (np.isfinite(value) & (value == np.floor(value)))
            log_weight = np.where(whole[:, None], log_weight, -np.inf)
        log_joint = np.where(log_weight > -np.inf, log_joint, -np.inf)
        return np.asarray(np.logaddexp.reduce(log_joint, axis=1))

    def _lower(self, rows: Array, value: Array) -> Array:
        cdf = self._expert.cdf(self._params, self._at(rows, value))
        return np.clip(self._mix(cdf, rows), 0.0, 1.0)

    def _upper(self, rows: Array, value: Array, cdf: Array | None = None) -> Array:
        own = getattr(self._expert, "sf", None)
        if own is None:
            return 1.0 - (self._lower(rows, value) if cdf is None else cdf)
        return np.clip(self._mix(own(self._params, self._at(rows, value)), rows), 0.0, 1.0)

    def _evaluate(self, kernel: Kernel, y: Any) -> Array:
        value, n = np.asarray(y, dtype=float), self.n_rows
        if value.shape not in ((), (n,)) and (value.ndim != 2 or value.shape[0] not in (1, n)):
            raise ValueError(
                f"y must be a scalar, ({n},), ({n}, m) or (1, m), got shape {value.shape}; use "
                "y.reshape(1, -1) for the same values at all rows"
            )
        wide = value if value.ndim == 2 else np.broadcast_to(value, (n,))[:, None]
        values = (np.broadcast_to(wide, (n, wide.shape[1])) - self._loc) / self._scale
        result = grid(kernel, self._rows, values, _BLOCK)
        return result if value.ndim == 2 else result[:, 0]

    def _bracket(self, p: float) -> tuple[Array, Array, Array]:
        """Least and greatest quantile of the experts of positive weight, and their mean."""
        quantile, on = self._expert.quantile(self._params, self._batch, p), self._weight > 0.0
        lo = np.where(on, quantile, np.inf).min(axis=1)
        hi = np.where(on, quantile, -np.inf).max(axis=1)
        return lo, hi, np.clip(self._mix(quantile), lo, hi)

    def _towards(self, rows: Array, q: Array, i: Array, x: Array) -> tuple[Array, Array, Array]:
        """Probe of the quantiles q, on the log of the smaller tail, nearly straight far out."""
        rows, q = rows[i], q[i]
        cdf, high = self._lower(rows, x), q > 0.5
        tail, target = np.where(high, self._upper(rows, x, cdf), cdf), np.where(high, 1.0 - q, q)
        short = np.where(high, tail - target, target - tail)
        rounded = high & (getattr(self._expert, "sf", None) is None)
        with np.errstate(all="ignore"):
            size = np.abs(np.log1p((target - tail) / tail)) * tail
            step = np.copysign(size * np.exp(-self._log_density(rows, x)), short)
        return short > 0.0, np.abs(short) <= _EPS * np.where(rounded, 0.5, 2.0 * target), step

    def _reaches(self, rows: Array, q: Array, i: Array, value: Array) -> Array:
        """Whether the distribution function at counts has come to q, by the smaller tail."""
        rows, q = rows[i], q[i]
        cdf = self._lower(rows, value)
        reached = np.where(q > 0.5, self._upper(rows, value, cdf) <= 1.0 - q, cdf >= q)
        # Sums over experts are good to a few roundings.
        return np.asarray(reached | (np.abs(cdf - q) <= 4.0 * _EPS * q))

    def _integers(self) -> Iterator[tuple[Array, Array]]:
        """Row by row the integers that hold all but 1e-16 of the mass, and their log masses."""
        every = self._expert.all_values(self._params)
        some = (LEAST, MOST) if every is None else ()
        ends = [self._expert.quantile(self._params, self._batch, p) for p in some]
        for row, on in enumerate(self._weight > 0.0):
            value = integers_between(*(end[row, on] for end in ends)) if ends else every
            if value is None:
                raise UnsupportedCombinationError(
                    f"row {row} has too many likely counts to look at each; use interval()"
                )
            yield value, grid(self._log_density, self._rows[[row]], value[None], _BLOCK)[0]

    def _row_blocks(self) -> Iterator[Array]:
        size = max(1, 4 * _BLOCK // (_LEVELS.size * self.n_experts))
        return (self._rows[part] for part in blocks(self.n_rows, size))

    def _profile(self, rows: Array) -> tuple[Array, Array]:
        """Points (r, m) that sample every expert and hold every peak and valley; log densities."""
        if self._expert.has_atoms:
            raise UnsupportedCombinationError(
                f"under {self._expert.name!r} some values have a probability of their own, which "
                "no density compares with; use interval() or median()"
            )
        from scipy.special import ndtr

        batch, on = self._at(rows, self._value[rows]), self._weight[rows][:, None] > 0.0
        levels = [self._expert.quantile(self._params, batch, float(p)) for p in ndtr(_LEVELS)]
        q = np.stack(levels, axis=1)
        # Each expert starts a little later than the one before, so that equal experts interleave.
        x = q[:, :-1] + np.diff(q, axis=1) * (np.arange(self.n_experts) / self.n_experts)
        top = np.where(on, x, -np.inf).max(axis=(1, 2), keepdims=True)
        x = np.sort(np.where(on, x, top).reshape(rows.size, -1), axis=1)
        f = grid(self._log_density, rows, x, _BLOCK)
        x = with_turns(self._log_density, rows, x, f)
        return x, grid(self._log_density, rows, x, _BLOCK)

    def _regions(self, rows: Array, confidence: float) -> list[list[tuple[float, float]]]:
        x, log_f = self._profile(rows)
        part = np.diff(grid(self._lower, rows, x, _BLOCK), axis=1)
        row, edge, held = highest(self._log_density, self._lower, rows, x, log_f, part, confidence)
        if (np.abs(held - confidence) > 1e-6).any():
            raise UnsupportedCombinationError(
                f"no highest-density region of {self._expert.name!r} has mass {confidence:g}: its "
                f"distribution has jumps; use interval({confidence:g})"
            )
        cuts = np.searchsorted(row[::2], np.arange(1, rows.size))
        pairs = np.split(self._report(edge).reshape(-1, 2), cuts)
        return [[(lower, upper) for lower, upper in pair.tolist()] for pair in pairs]
