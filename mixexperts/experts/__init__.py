"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.beta import Beta
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.exponential import Exponential
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.huber import Huber
from mixexperts.experts.inverse_gaussian import InverseGaussian
from mixexperts.experts.joint import Joint
from mixexperts.experts.laplace import Laplace
from mixexperts.experts.log_normal import LogNormal
from mixexperts.experts.multivariate import MultivariateGaussian
from mixexperts.experts.negative_binomial import NegativeBinomial
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.skew_normal import SkewNormal
from mixexperts.experts.skew_t import SkewT
from mixexperts.experts.student import StudentT
from mixexperts.experts.uniform import Uniform
from mixexperts.experts.weibull import Weibull

__all__ = [
    "Beta",
    "Binomial",
    "Expert",
    "Exponential",
    "Gamma",
    "Gaussian",
    "Huber",
    "InverseGaussian",
    "Joint",
    "Laplace",
    "LogNormal",
    "MultivariateGaussian",
    "NegativeBinomial",
    "Poisson",
    "SkewNormal",
    "SkewT",
    "StudentT",
    "Uniform",
    "Weibull",
]
