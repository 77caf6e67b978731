"""How large a penalty an oracle inequality asks for; far above what is of use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

# Two from symmetrisation, sqrt(2) from the contraction of vectors, sqrt(3) because the log density
# is Lipschitz in three kinds of coordinates: means, gate scores and log scales.
_FACTOR = 2.0 * math.sqrt(2.0) * math.sqrt(3.0)


@dataclass(frozen=True)
class LassoAlphaBound:
    """Strengths for which an oracle inequality holds; made by :func:`lasso_alpha_bound`.

    Attributes
    ----------
    alpha, gate_alpha : float
        Strengths per row, as the estimators take them.
    n, p, n_experts : int
    mean_bound, scale_min, scale_max : float
        As given.
    """

    alpha: float
    gate_alpha: float
    n: int
    p: int
    n_experts: int
    mean_bound: float
    scale_min: float
    scale_max: float

    def remainder(self, slopes: float, gate_slopes: float, gate_bound: float) -> float:
        """What the inequality adds to the best trade of fit and penalty, in nats per row.

        Parameters
        ----------
        slopes, gate_slopes : float
            Largest sums of absolute slopes, of all experts and of the gate, in the set of
            parameters over which the likelihood is maximised.
        gate_bound : float
            Largest absolute score of the gate in that set.

        Returns
        -------
        float

        Raises
        ------
        ValueError, TypeError
            If an argument is negative, not finite, or no number.
        """
        slopes = _number(slopes, "slopes")
        gate_slopes = _number(gate_slopes, "gate_slopes")
        gate_bound = _number(gate_bound, "gate_bound")
        precision = 1.0 / (self.scale_min * self.scale_min)
        mean = self.mean_bound * precision * (2.0 * self.mean_bound + self.scale_max)
        far = 2.0 * self.mean_bound + math.sqrt(math.sqrt(3.0)) * self.scale_max
        scale = math.log(self.scale_max / self.scale_min) * 0.5 * (1.0 + precision * far**2)
        gate = 0.0 if self.n_experts == 1 else math.sqrt(2.0) * gate_bound
        free = _FACTOR * self.n_experts * (mean + gate + scale) / math.sqrt(self.n)
        many = 2.0 * math.log(2.0 * self.n_experts * self.p)
        return (slopes * self.alpha + gate_slopes * self.gate_alpha) / many + free


def lasso_alpha_bound(
    n: int,
    p: int,
    n_experts: int,
    *,
    mean_bound: float,
    scale_min: float,
    scale_max: float,
) -> LassoAlphaBound:
    r"""Strengths of the lasso from which on an :math:`\ell_1`-oracle inequality holds.

    For Gaussian experts under a softmax gate, with standardised columns and

    .. math::
        \alpha \ge 2\sqrt6\; \frac{2 A + \sigma_{\max}}{\sigma_{\min}^2}
            \sqrt{\frac{2 \ln(2 K p)}{n}},
        \qquad
        \alpha_{\text{gate}} \ge 4\sqrt3\; \sqrt{\frac{2 \ln(2 K p)}{n}},

    the lasso's expected Kullback-Leibler loss per row is at most the smallest value of loss
    plus penalty in the model, plus :meth:`LassoAlphaBound.remainder`. The proof is in the
    documentation ("What theory asks of the lasso"). The constants are this package's own, not
    those of Nguyen et al. (2020), whose theorem has another shape: :func:`lasso_alpha_shape`.

    It is no rule for choosing a penalty. Useful strengths are tens to hundreds of times smaller,
    and at the bound a fit has hardly any slopes. Choose by cross-validation or a criterion.

    Parameters
    ----------
    n : int
        Number of rows.
    p : int
        Number of penalised columns.
    n_experts : int
        Number of experts K, all rows of the gate penalised.
    mean_bound : float
        Bound A of all experts' means, of the model and of the truth, at all rows, in the unit of
        y from any fixed point: half of their range.
    scale_min, scale_max : float
        Bounds of the experts' standard deviations, in the unit of y.

    Returns
    -------
    LassoAlphaBound

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is no number.

    References
    ----------
    Nguyen, T. T., Nguyen, H. D., Chamroukhi, F. and McLachlan, G. J. (2020). Non-asymptotic
    oracle inequalities for the Lasso in high-dimensional mixture of experts. arXiv:2009.10622.

    Maurer, A. (2016). A vector-contraction inequality for Rademacher complexities. ALT 2016.

    Examples
    --------
    >>> from mixexperts.theory import lasso_alpha_bound
    >>> bound = lasso_alpha_bound(300, 6, 2, mean_bound=1.0, scale_min=1.0, scale_max=1.0)
    >>> print(f"{bound.alpha:.2f} {bound.gate_alpha:.2f}")
    2.14 1.01
    """
    n, p = _count(n, "n"), _count(p, "p")
    n_experts = _count(n_experts, "n_experts")
    mean_bound = _number(mean_bound, "mean_bound")
    scale_min = _number(scale_min, "scale_min")
    scale_max = _number(scale_max, "scale_max")
    if not 0.0 < scale_min <= scale_max:
        raise ValueError(
            f"scale_min must lie in (0, scale_max], got scale_min={scale_min!r} with "
            f"scale_max={scale_max!r}; without a positive one the likelihood is unbounded"
        )
    noise = math.sqrt(2.0 * math.log(2.0 * n_experts * p) / n)
    return LassoAlphaBound(
        alpha=_FACTOR * (2.0 * mean_bound + scale_max) / scale_min**2 * noise,
        # One expert has no gate: its scores do not move the density.
        gate_alpha=0.0 if n_experts == 1 else _FACTOR * math.sqrt(2.0) * noise,
        n=n,
        p=p,
        n_experts=n_experts,
        mean_bound=mean_bound,
        scale_min=scale_min,
        scale_max=scale_max,
    )


def lasso_alpha_shape(n: int, p: int, constant: float) -> float:
    r"""Shape of the published bound, :math:`c \ln(n) \sqrt{\ln(2p + 1)} / \sqrt n`.

    Nguyen et al. (2020) prove an :math:`\ell_1`-oracle inequality for the lasso under a lower
    bound of the penalty. Its constants, and how it depends on the number of experts and on the
    bounds of the parameters, were not checked against its text and are not reproduced here: only
    the dependence on n and p is, which the documentation derives. A proven bound with all
    constants is :func:`lasso_alpha_bound`. Neither is a rule for choosing a penalty.

    Parameters
    ----------
    n : int
        Number of rows, at least 2.
    p : int
        Number of penalised columns.
    constant : float
        The factor c, for instance such that the shape passes through a value found by
        cross-validation at another n and p.

    Returns
    -------
    float
        Strength per row.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is no number.

    References
    ----------
    Nguyen, T. T., Nguyen, H. D., Chamroukhi, F. and McLachlan, G. J. (2020). Non-asymptotic
    oracle inequalities for the Lasso in high-dimensional mixture of experts. arXiv:2009.10622.

    Examples
    --------
    >>> from mixexperts.theory import lasso_alpha_shape
    >>> c = 0.02 / lasso_alpha_shape(300, 6, constant=1.0)
    >>> print(f"{lasso_alpha_shape(1200, 6, constant=c):.4f}")
    0.0124
    """
    n, p, constant = _count(n, "n", least=2), _count(p, "p"), _number(constant, "constant")
    return constant * math.log(n) * math.sqrt(math.log(2 * p + 1)) / math.sqrt(n)


def _count(value: Any, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return number
