"""The predictive distribution of several responses at given rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mixexperts._arguments import count, generator, log_weights
from mixexperts._batch import Array, Batch, Params
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert
from mixexperts.predictive import Predictive

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 1 << 15  # rows evaluated at a time


class MultivariatePredictive:
    """Predictive distribution ``p(y | x) = sum_k weight_k(x) f_k(y | x)`` of d responses at n rows.

    Distribution functions, quantiles, intervals and highest-density regions are of one response:
    take :meth:`marginal`.

    Parameters
    ----------
    expert : Expert
        Family of the experts, of several responses.
    params : mapping of str to ndarray
        Parameters of the K experts, on the internal scale of the responses.
    batch : Batch
        Designs and offset of the n rows; its response is a placeholder of shape (n, d).
    log_weight : array-like of shape (n, K)
        Log mixing weights; ``-inf`` switches an expert off in a row.
    loc, scale : array-like of shape (d,)
        The reported responses are ``loc + scale * internal``.
    index : array-like of shape (n,), optional
        Row labels for :meth:`to_frame`.

    Raises
    ------
    ValueError
        If shapes disagree, weights do not sum to one, or ``scale`` is not positive.
    """

    def __init__(
        self,
        expert: Expert,
        params: Params,
        batch: Batch,
        log_weight: Any,
        *,
        loc: Any = 0.0,
        scale: Any = 1.0,
        index: Any = None,
    ) -> None:
        if batch.y.ndim != 2:
            raise ValueError(f"batch.y must have shape (n, d), got {batch.y.shape}")
        d = batch.y.shape[1]
        self._loc = np.broadcast_to(np.asarray(loc, dtype=float), (d,))
        self._scale = np.broadcast_to(np.asarray(scale, dtype=float), (d,))
        if not (np.isfinite(self._loc).all() and np.isfinite(self._scale).all()):
            raise ValueError("loc and scale must be finite; look for infinities in the response")
        if not (self._scale > 0.0).all():
            raise ValueError("scale must be positive; look for a constant response")
        if index is not None and len(index) != batch.n_rows:
            raise ValueError(
                f"index must hold {batch.n_rows} labels, got {len(index)}; pass one per row"
            )
        self._expert, self._params, self._batch, self._index = expert, params, batch, index
        self._log_weight = log_weights(log_weight, batch.n_rows)
        self._weight = np.exp(self._log_weight)
        self._weight.flags.writeable = False

    def __repr__(self) -> str:
        return (
            f"MultivariatePredictive(expert={self._expert.name!r}, n_rows={self.n_rows}, "
            f"n_responses={self.n_responses}, n_experts={self.n_experts})"
        )

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self._weight.shape[0])

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return int(self._weight.shape[1])

    @property
    def n_responses(self) -> int:
        """Number of responses d."""
        return len(self._loc)

    @property
    def weights(self) -> Array:
        """Mixing weights, (n, K), read-only."""
        return self._weight

    def marginal(self, response: int) -> Predictive:
        """Distribution of one response, whatever the others are.

        Parameters
        ----------
        response : int
            Number of the response, from 0; negative numbers count from the last.

        Returns
        -------
        Predictive
            With ``cdf``, ``ppf``, ``interval``, ``hdr`` and the others.

        Raises
        ------
        TypeError, ValueError
            If ``response`` is no such number.
        """
        d = self.n_responses
        if isinstance(response, bool) or not isinstance(response, int | np.integer):
            raise TypeError(f"response must be an integer, got {response!r}")
        if not -d <= response < d:
            raise ValueError(f"response={response} is not among {d} responses (0 to {d - 1})")
        j = int(response) % d
        expert, params = self._expert.marginal(self._params, j)
        offset = self._batch.offset
        if offset is not None and offset.ndim == 2:
            offset = offset[:, j]
        return Predictive(
            expert,
            params,
            replace(self._batch, y=self._batch.y[:, j], offset=offset),
            self._log_weight,
            loc=float(self._loc[j]),
            scale=float(self._scale[j]),
            index=self._index,
        )

    def expert_means(self) -> Array:
        """Mean of each expert, also of those with weight zero.

        Returns
        -------
        ndarray of shape (n, K, d)
        """
        return np.asarray(self._loc + self._scale * self._expert.mean(self._params, self._batch))

    def mean(self) -> Array:
        """Mean.

        Returns
        -------
        ndarray of shape (n, d)
        """
        mean = np.einsum("ik,ikd->id", self._weight, self._means())
        return np.asarray(self._loc + self._scale * mean)

    def _means(self) -> Array:
        """Internal means (n, K, d), zero where the weight is."""
        means = self._expert.mean(self._params, self._batch)
        return np.where(self._weight[:, :, None] > 0.0, means, 0.0)

    def cov(self) -> Array:
        """Covariance matrices: those within experts plus that of their means.

        Returns
        -------
        ndarray of shape (n, d, d)
        """
        means = self._means()
        away = means - np.einsum("ik,ikd->id", self._weight, means)[:, None]
        within = self._expert.covariance_within(self._params, self._batch)
        on = self._weight[:, :, None, None] > 0.0
        total = np.einsum("ik,ikde->ide", self._weight, np.where(on, within, 0.0))
        total += np.einsum("ik,ikd,ike->ide", self._weight, away, away)
        return np.asarray(total * np.outer(self._scale, self._scale))

    def var(self) -> Array:
        """Variances of the responses.

        Returns
        -------
        ndarray of shape (n, d)
        """
        return np.diagonal(self.cov(), axis1=1, axis2=2).copy()

    def std(self) -> Array:
        """Standard deviations of the responses.

        Returns
        -------
        ndarray of shape (n, d)
        """
        return np.sqrt(self.var())

    def corr(self) -> Array:
        """Correlation matrices; experts with different means correlate responses, too.

        Returns
        -------
        ndarray of shape (n, d, d)
        """
        cov = self.cov()
        std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
        return np.asarray(cov / (std[:, :, None] * std[:, None]))

    def pdf(self, y: Any) -> Array:
        """Density at y; where a response is missing (NaN), that of the others.

        Parameters
        ----------
        y : array-like of shape (n, d), (d,) or (n, m, d)
            Responses row by row, the same ones for all rows, or m for each row.

        Returns
        -------
        ndarray of shape (n,), or (n, m)

        Raises
        ------
        ValueError
            If y has another shape.
        """
        return np.exp(self.logpdf(y))

    def logpdf(self, y: Any) -> Array:
        """Log density at y; where a response is missing (NaN), that of the others.

        Parameters
        ----------
        y : array-like of shape (n, d), (d,) or (n, m, d)
            Responses, as in :meth:`pdf`; other shapes are a ValueError.

        Returns
        -------
        ndarray of shape (n,), or (n, m)
        """
        values, (n, d) = np.asarray(y, dtype=float), (self.n_rows, self.n_responses)
        if values.shape not in ((n, d), (d,)) and not (
            values.ndim == 3 and values.shape[0] in (1, n) and values.shape[2] == d
        ):
            raise ValueError(
                f"y must have shape ({n}, {d}), ({d},) or ({n}, m, {d}), got {values.shape}"
            )
        wide = values if values.ndim == 3 else np.broadcast_to(values, (n, d))[:, None]
        m = wide.shape[1]
        flat = np.broadcast_to(wide, (n, m, d)).reshape(-1, d)
        rows = np.repeat(np.arange(n), m)
        out = np.empty(len(flat))
        for first in range(0, len(flat), _BLOCK):
            part = slice(first, first + _BLOCK)
            out[part] = self._log_density(rows[part], flat[part])
        out -= (~np.isnan(flat)) @ np.log(self._scale)
        return out.reshape(n, m) if values.ndim == 3 else out

    def _log_density(self, rows: Array, y: Array) -> Array:
        log_weight = self._log_weight[rows]
        whole = self._expert.discrete_columns(self.n_responses)
        between = whole & ~np.isnan(y) & ((y != np.floor(y)) | np.isinf(y))
        internal = np.where(between, 0.0, (y - self._loc) / self._scale)
        with np.errstate(over="ignore", invalid="ignore"):
            log_joint = log_weight + self._expert.log_prob(self._params, self._at(rows, internal))
        log_joint = np.where(log_weight > -np.inf, log_joint, -np.inf)
        log_joint[between.any(axis=1)] = -np.inf
        return np.asarray(np.logaddexp.reduce(log_joint, axis=1))

    def _at(self, rows: Array, y: Array) -> Batch:
        designs = {name: design[rows] for name, design in self._batch.designs.items()}
        offset = None if self._batch.offset is None else self._batch.offset[rows]
        return Batch(y, designs, np.empty((rows.size, 0)), np.ones(rows.size), offset=offset)

    def sample(self, size: int | None = None, random_state: Any = None) -> Array:
        """Draw responses: an expert by weight, then all responses from it.

        Parameters
        ----------
        size : int, optional
            Number of draws at each row; None for one draw without an axis of its own.
        random_state : int, Generator, RandomState or None, default=None
            An integer repeats its draws, a generator is advanced, None draws afresh.

        Returns
        -------
        ndarray of shape (n, d) or (size, n, d)

        Raises
        ------
        ValueError
            If ``size`` or ``random_state`` is none of these.
        """
        rng = generator(random_state)
        draws = 1 if size is None else count(size, "size")
        bound = np.cumsum(self._weight, axis=1)
        bound /= bound[:, -1:]
        rows = np.tile(np.arange(self.n_rows), draws)
        drawn = np.empty((rows.size, self.n_responses))
        for first in range(0, rows.size, _BLOCK):
            part = rows[first : first + _BLOCK]
            label = (rng.random(part.size)[:, None] >= bound[part]).sum(axis=1)
            batch = self._at(part, self._batch.y[part])
            drawn[first : first + _BLOCK] = self._expert.sample(self._params, batch, label, rng)
        drawn = self._loc + self._scale * drawn
        return drawn if size is None else drawn.reshape(draws, self.n_rows, self.n_responses)

    def to_frame(self, confidence: float = 0.9, names: Any = None) -> pd.DataFrame:
        """Table of the means, the spreads, the medians and the central intervals.

        Parameters
        ----------
        confidence : float, default=0.9
            Probability inside each interval, of its response alone.
        names : sequence of d str, optional
            Names of the responses; ``y0``, ``y1``, ... without.

        Returns
        -------
        DataFrame of shape (n, 5 d)
            Columns by response, then as in :meth:`Predictive.to_frame`.

        Raises
        ------
        ValueError
            If ``names`` are not d, or ``confidence`` lies outside [0, 1].
        """
        import pandas as pd

        d = self.n_responses
        names = [f"y{j}" for j in range(d)] if names is None else list(names)
        if len(names) != d:
            raise ValueError(f"names must hold {d} names, got {len(names)}")
        frames = [self.marginal(j).to_frame(confidence) for j in range(d)]
        return pd.concat(frames, axis=1, keys=names, names=["response", None])

    def cdf(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, as ``sf``, ``ppf``, ``median``, ``interval``, ``hdr`` and ``mode`` are.

        Parameters
        ----------
        *args, **kwargs
            Whatever they are.

        Raises
        ------
        UnsupportedCombinationError
            Always; take :meth:`marginal`.
        """
        raise UnsupportedCombinationError(
            "distribution functions, quantiles, intervals, regions and modes are those of one "
            f"response: take marginal(j), with j from 0 to {self.n_responses - 1}"
        )

    sf = ppf = median = interval = hdr = mode = cdf
