"""Expert families: f_k(y | x)."""

from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.frozen import FrozenExperts
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.huber import Huber
from mixexperts.experts.joint import Joint
from mixexperts.experts.laplace import Laplace
from mixexperts.experts.mixed import Mixed
from mixexperts.experts.multivariate import MultivariateGaussian
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.skew_normal import SkewNormal
from mixexperts.experts.skew_t import SkewT
from mixexperts.experts.student import StudentT
from mixexperts.experts.tied import Tied
from mixexperts.experts.uniform import Uniform

__all__ = [
    "Binomial",
    "Expert",
    "FrozenExperts",
    "Gamma",
    "Gaussian",
    "Huber",
    "Joint",
    "Laplace",
    "LinearExpert",
    "Mixed",
    "MultivariateGaussian",
    "Poisson",
    "Shape",
    "SkewNormal",
    "SkewT",
    "StudentT",
    "Terms",
    "Tied",
    "Uniform",
]
