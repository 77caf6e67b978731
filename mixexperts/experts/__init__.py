"""Expert families: f_k(y | x)."""

from mixexperts.experts.base import Expert
from mixexperts.experts.binomial import Binomial
from mixexperts.experts.gamma import Gamma
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.multinomial import Multinomial
from mixexperts.experts.ordinal import Ordinal
from mixexperts.experts.poisson import Poisson

__all__ = ["Binomial", "Expert", "Gamma", "Gaussian", "Multinomial", "Ordinal", "Poisson"]
