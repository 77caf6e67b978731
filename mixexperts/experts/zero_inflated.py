"""Zero-inflated experts: more zeros than a family of counts or positive numbers has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mixexperts.experts._zeros import WithZeros, checked
from mixexperts.experts.base import Expert
from mixexperts.experts.poisson import Poisson


@dataclass(frozen=True)
class ZeroInflated(WithZeros):
    r"""Experts with an additional point mass at zero.

    .. math:: p_k(y \mid x) = \pi_k\, 1\{y = 0\} + (1 - \pi_k)\, f_k(y \mid x)

    Around a family of counts a zero may come from either part. Around a family of positive
    numbers all zeros are those of the point mass: the two-part model of amounts that are often
    nothing. ``inflation_`` holds :math:`\pi_k`.

    Parameters
    ----------
    expert : Expert, default=Poisson()
        A family of counts, or of positive numbers such as ``Gamma``.

    Notes
    -----
    :math:`\pi_k` does not depend on x within an expert. Where it should, put the point mass
    beside the family as an expert of its own, ``Mixed([PointMass(), Poisson()])``: its weight is
    then the gate's, as in pscl's ``zeroinfl``.

    An expert without additional zeros has :math:`\pi_k` near zero, the boundary of its values.

    References
    ----------
    Lambert, D. (1992). Zero-inflated Poisson regression, with an application to defects in
    manufacturing. Technometrics 34, 1-14.
    """

    expert: Any = field(default_factory=Poisson)
    name: ClassVar[str] = "zero_inflated"
    share: ClassVar[str] = "inflation"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "inflation")

    def make_inner(self) -> Expert:
        """The family itself."""
        return checked(self.expert, "ZeroInflated")

    @property
    def inner_takes_zero(self) -> bool:
        """Of counts."""
        return self.inner.discrete
