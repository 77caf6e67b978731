"""Expert families: f_k(y | x)."""

from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts.base import Expert
from mixexperts.experts.beta import Beta
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.censored import Censored
from mixexperts.experts.exponential import Exponential
from mixexperts.experts.frozen import FrozenExperts
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.huber import Huber
from mixexperts.experts.hurdle import Hurdle
from mixexperts.experts.inverse_gaussian import InverseGaussian
from mixexperts.experts.joint import Joint
from mixexperts.experts.laplace import Laplace
from mixexperts.experts.log_normal import LogNormal
from mixexperts.experts.mixed import Mixed
from mixexperts.experts.multinomial import Multinomial
from mixexperts.experts.multivariate import MultivariateGaussian
from mixexperts.experts.negative_binomial import NegativeBinomial
from mixexperts.experts.ordinal import Ordinal
from mixexperts.experts.point_mass import PointMass
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.skew_normal import SkewNormal
from mixexperts.experts.skew_t import SkewT
from mixexperts.experts.student import StudentT
from mixexperts.experts.tied import Tied
from mixexperts.experts.truncated import Truncated
from mixexperts.experts.uniform import Uniform
from mixexperts.experts.weibull import Weibull
from mixexperts.experts.zero_inflated import ZeroInflated

__all__ = [
    "Beta",
    "Binomial",
    "Censored",
    "Expert",
    "Exponential",
    "FrozenExperts",
    "Gamma",
    "Gaussian",
    "Huber",
    "Hurdle",
    "InverseGaussian",
    "Joint",
    "Laplace",
    "LinearExpert",
    "LogNormal",
    "Mixed",
    "Multinomial",
    "MultivariateGaussian",
    "NegativeBinomial",
    "Ordinal",
    "PointMass",
    "Poisson",
    "Shape",
    "SkewNormal",
    "SkewT",
    "StudentT",
    "Terms",
    "Tied",
    "Truncated",
    "Uniform",
    "Weibull",
    "ZeroInflated",
]
