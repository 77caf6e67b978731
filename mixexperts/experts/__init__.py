"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.joint import Joint
from mixexperts.experts.multivariate import MultivariateGaussian
from mixexperts.experts.poisson import Poisson

__all__ = [
    "Binomial",
    "Expert",
    "Gamma",
    "Gaussian",
    "Joint",
    "MultivariateGaussian",
    "Poisson",
]
