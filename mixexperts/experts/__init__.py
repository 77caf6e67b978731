"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.censored import Censored
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.hurdle import Hurdle
from mixexperts.experts.point_mass import PointMass
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.truncated import Truncated
from mixexperts.experts.zero_inflated import ZeroInflated

__all__ = [
    "Binomial",
    "Censored",
    "Expert",
    "Gamma",
    "Gaussian",
    "Hurdle",
    "PointMass",
    "Poisson",
    "Truncated",
    "ZeroInflated",
]
