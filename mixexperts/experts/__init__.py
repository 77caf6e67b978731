"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.censored import Censored
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.poisson import Poisson

__all__ = ["Binomial", "Censored", "Expert", "Gamma", "Gaussian", "Poisson"]
