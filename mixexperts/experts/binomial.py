"""Binomial experts: successes out of trials, or zeros and ones, with logistic probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._lattice import smallest_integer
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import GLM, first_row
from mixexperts.experts._links import CLOGLOG, PROBIT, Link


@dataclass(frozen=True)
class Binomial(GLM):
    r"""Binomial experts, ``y | x, k ~ Binomial(trials, pi_k)`` with logistic ``pi_k``.

    .. math:: \log\frac{\pi_k}{1 - \pi_k} = \mathrm{offset} + \beta_{0k} + \beta_k^\top x

    The response is one column of zeros and ones (or booleans), or two columns: successes and
    failures, as in statsmodels. The trials of a row are fixed, and a row without trials says
    nothing. Without a response at hand, as in predictions, a row is one trial.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features: 0 gives constants, 1 logistic experts,
        2 adds squares and products, and so on.
    link : {"logit", "probit", "cloglog"}, default="logit"
        The probability is the logistic or the normal distribution function of the linear
        predictor, or ``1 - exp(-exp(eta))``, the complementary log-log link.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If the link is not known.

    Notes
    -----
    A mixture of single trials (zeros and ones) with constant weights is itself a single trial:
    its experts are told apart by their shapes in the features alone, and often hardly.
    Two columns with several trials per row tell them apart by their spread.

    Where features part an expert's successes from its failures, its coefficients have no finite
    maximum. The fit stands where the log-likelihood stopped rising, and the expert is marked as
    separated.

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition. Chapman and
    Hall.
    Wang, P. and Puterman, M. L. (1998). Mixed logistic regression models. Journal of
    Agricultural, Biological, and Environmental Statistics 3, 175-200.
    """

    degree: int = 1
    link: Literal["logit", "probit", "cloglog"] = "logit"
    fit_intercept: bool = True
    name: ClassVar[str] = "binomial"
    links: ClassVar[Mapping[str, Link | None]] = {
        "logit": None, "probit": PROBIT, "cloglog": CLOGLOG,
    }  # fmt: skip
    response_columns: ClassVar[tuple[int, ...]] = (1, 2)
    takes_classes: ClassVar[Literal["none", "two", "many"]] = "two"

    @property
    def fused_code(self) -> int | None:  # type: ignore[override]
        return 2 if self.link == "logit" else None

    def check_rows(self, y: Array) -> None:
        """Zeros and ones, or two columns of integers >= 0; the first row at fault is named."""
        if y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] != 2):
            raise InvalidResponseError(
                "binomial experts take one column of 0 and 1 or two columns (successes, failures) "
                f"as y, got shape {y.shape}"
            )
        if y.ndim == 1:
            bad = ~((y == 0.0) | (y == 1.0))
            if bad.any():
                row = first_row(bad)
                raise InvalidResponseError(
                    f"binomial experts take 0 and 1 in a single column of y; row {row} holds "
                    f"{y[row]:g}. Give counts as two columns, successes and failures"
                )
            return
        bad = ~(np.isfinite(y) & (y >= 0.0) & (y == np.floor(y)))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                "binomial experts take counts, integers >= 0, as the columns (successes, failures) "
                f"of y; row {row} holds ({y[row, 0]:g}, {y[row, 1]:g}). The second column is the "
                "failures, not the trials"
            )

    def check_response(self, y: Array) -> None:
        self.check_rows(y)
        if y.ndim == 2 and not y.any():
            raise InvalidResponseError(
                "binomial experts need trials: successes and failures in y are 0 in all "
                f"{len(y)} rows"
            )

    def possible(self, y: Array) -> Array:
        counts = np.isfinite(y) & (y >= 0.0) & (y == np.floor(y))
        found: Array = counts & (y <= 1.0) if y.ndim == 1 else counts.all(axis=1)
        return found

    @staticmethod
    def inverse_link(eta: Array) -> Array:
        from scipy.special import expit

        return np.asarray(expit(eta))

    @staticmethod
    def density(y: Array, eta: Array) -> tuple[Array, Array]:
        from scipy.special import gammaln

        successes, trials = successes_and_trials(y)
        failures = trials - successes
        ways = gammaln(trials + 1.0) - gammaln(successes + 1.0) - gammaln(failures + 1.0)
        log_prob: Array = (
            ways[:, None]
            - successes[:, None] * np.logaddexp(0.0, -eta)
            - failures[:, None] * np.logaddexp(0.0, eta)
        )
        return log_prob, Binomial.inverse_link(eta)

    @staticmethod
    def moments(y: Array, mean: Array) -> tuple[Array, Array]:
        successes, trials = successes_and_trials(y)
        expected = trials[:, None] * mean
        return successes[:, None] - expected, expected * (1.0 - mean)

    @staticmethod
    def nearest(y: Array) -> tuple[Array, Array]:
        successes, trials = successes_and_trials(y)
        some, none = successes + 0.5, trials - successes + 0.5
        # A row without trials asks for nothing.
        return np.log(some / none), np.where(trials > 0.0, some * none / (trials + 1.0), 0.0)

    def fused_response(self, y: Array) -> tuple[Array, Array]:
        return successes_and_trials(y)

    def response_at(self, y: Array, value: Array) -> Array:
        """Successes ``value`` out of the trials that ``y`` has."""
        if y.ndim == 1:
            return value
        finite = np.clip(value, -1e300, 1e300)  # of infinities no trials would be left
        return np.column_stack([finite, y.sum(axis=1) - finite])

    def mean(self, params: Params, batch: Batch) -> Array:
        """Expected successes out of the rows' trials, (n, K): for one trial, probabilities."""
        _, trials = successes_and_trials(batch.y)
        mean: Array = trials[:, None] * self.inverse_link(self._natural(params, batch))
        return mean

    def variance(self, params: Params, batch: Batch) -> Array:
        from scipy.special import expit

        _, trials = successes_and_trials(batch.y)
        eta = self._natural(params, batch)
        variance: Array = trials[:, None] * expit(eta) * expit(-eta)
        return variance

    def cdf(self, params: Params, batch: Batch) -> Array:
        successes, trials = successes_and_trials(batch.y)
        return _cdf(successes[:, None], trials[:, None], self._natural(params, batch))

    def sf(self, params: Params, batch: Batch) -> Array:
        """Probability above ``batch.y`` of each expert, (n, K), accurate in the upper tail."""
        successes, trials = successes_and_trials(batch.y)
        return _sf(successes[:, None], trials[:, None], self._natural(params, batch))

    def quantile(self, params: Params, batch: Batch, probability: float) -> Array:
        """Least number of successes whose distribution function reaches the probability, (n, K)."""
        eta = self._natural(params, batch)
        trials = np.broadcast_to(successes_and_trials(batch.y)[1][:, None], eta.shape)
        if probability >= 1.0:
            return np.array(trials, dtype=float)
        flat, total = eta.ravel(), trials.ravel()

        def reaches(index: Array, value: Array) -> Array:
            if probability > 0.5:
                return np.asarray(_sf(value, total[index], flat[index]) <= 1.0 - probability)
            return np.asarray(_cdf(value, total[index], flat[index]) >= probability)

        return smallest_integer(reaches, np.full(flat.size, -1.0), total).reshape(eta.shape)

    def sample(self, params: Params, batch: Batch, label: Array, rng: np.random.Generator) -> Array:
        """Successes out of the rows' trials, (n,)."""
        _, trials = successes_and_trials(batch.y)
        eta = self._natural(params, batch)[np.arange(batch.n_rows), label]
        return rng.binomial(trials.astype(np.int64), self.inverse_link(eta)).astype(float)


def successes_and_trials(y: Array) -> tuple[Array, Array]:
    """Successes (n,) and trials (n,) of a response (n,) of single trials, or (n, 2)."""
    if y.ndim == 1:
        return y, np.ones_like(y)
    return y[:, 0], y[:, 0] + y[:, 1]


def _cdf(value: Array, trials: Array, eta: Array) -> Array:
    from scipy.special import betainc, expit

    k = np.floor(value)
    inside = (k >= 0.0) & (k < trials)
    k_in = np.where(inside, k, 0.0)
    rest = np.where(inside, trials - k_in, 1.0)
    within = betainc(rest, k_in + 1.0, expit(-eta))
    cdf: Array = np.where(inside, within, np.heaviside(k - trials, 1.0))
    return cdf


def _sf(value: Array, trials: Array, eta: Array) -> Array:
    from scipy.special import betainc, expit

    k = np.floor(value)
    inside = (k >= 0.0) & (k < trials)
    k_in = np.where(inside, k, 0.0)
    rest = np.where(inside, trials - k_in, 1.0)
    within = betainc(k_in + 1.0, rest, expit(eta))
    sf: Array = np.where(inside, within, np.heaviside(-k, 0.0))
    return sf
