"""Hurdle experts: zero or not, and a family that has no zeros beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mixexperts.experts._zeros import WithZeros, checked
from mixexperts.experts.base import Expert
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.truncated import Truncated


@dataclass(frozen=True)
class Hurdle(WithZeros):
    r"""Experts with a probability of zero of their own, and a family without zeros.

    .. math::

        p_k(0 \mid x) = \pi_k, \qquad
        p_k(y \mid x) = (1 - \pi_k) \frac{f_k(y \mid x)}{1 - f_k(0 \mid x)}, \quad y > 0

    There may be fewer zeros than the family would have, as well as more. ``zero_probability_``
    holds :math:`\pi_k`.

    Parameters
    ----------
    expert : Expert, default=Poisson()
        A family of counts, truncated here at zero, or of positive numbers such as ``Gamma``.

    References
    ----------
    Mullahy, J. (1986). Specification and testing of some modified count data models. Journal of
    Econometrics 33, 341-365.
    """

    expert: Any = field(default_factory=Poisson)
    name: ClassVar[str] = "hurdle"
    share: ClassVar[str] = "zero_probability"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "zero_probability")

    def make_inner(self) -> Expert:
        """The family without zeros."""
        expert = checked(self.expert, "Hurdle")
        return Truncated(expert, lower=0.0, of="expert") if expert.discrete else expert
