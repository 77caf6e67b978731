"""Expert families: f_k(y | x)."""

from mixexperts.experts._linear import LinearExpert, Shape, Terms
from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.frozen import FrozenExperts
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.mixed import Mixed
from mixexperts.experts.poisson import Poisson
from mixexperts.experts.tied import Tied

__all__ = [
    "Binomial",
    "Expert",
    "FrozenExperts",
    "Gamma",
    "Gaussian",
    "LinearExpert",
    "Mixed",
    "Poisson",
    "Shape",
    "Terms",
    "Tied",
]
