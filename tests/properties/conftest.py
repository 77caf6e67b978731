"""Random regression data, and the likelihood of a fit written down a second time."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import norm

import mixexperts as mx
from mixexperts.errors import DegenerateFitWarning, RankDeficientWarning, SeparationWarning


def draw(seed, n=80, n_features=2, n_experts=2, gap=3.0, noise=0.5):
    """Features, response and true labels of a mixture whose experts can be told apart."""
    rng = np.random.default_rng([20260901, seed])
    X = rng.standard_normal((n, n_features))
    direction = rng.standard_normal((n_features, n_experts))
    label = (X @ direction + rng.gumbel(size=(n, n_experts))).argmax(axis=1)
    label[: 2 * n_experts] = np.repeat(np.arange(n_experts), 2)  # each expert has rows
    coef = rng.standard_normal((n_experts, n_features))
    level = gap * np.arange(n_experts)
    y = level[label] + np.einsum("ij,ij->i", X, coef[label]) + noise * rng.standard_normal(n)
    return X, y, label


def fit(X, y, n_experts=2, *, sample_weight=None, offset=None, quiet=False, **options):
    """A fit to far below the default tolerance, so that two fits can be compared."""
    settings_ = {"random_state": 0, "n_init": 2, "tol": 1e-12, **options}
    est = mx.MoERegressor(n_experts, **settings_)
    with warnings.catch_warnings():
        if quiet:
            from sklearn.exceptions import ConvergenceWarning

            for category in (
                ConvergenceWarning,
                DegenerateFitWarning,
                RankDeficientWarning,
                SeparationWarning,
            ):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", "sample_weight sums", UserWarning)
        return est.fit(X, y, sample_weight, offset=offset)


def raw_log_density(raw, X, y, gate_X=None):
    """log p(y | x) from intercepts, coefficients, scales and gate on the user's scale."""
    gate_X = X if gate_X is None else gate_X
    logits = raw["gate_intercept"] + gate_X @ raw["gate_coef"].T
    mean = raw["intercept"] + X @ raw["coef"].T
    joint = log_softmax(logits, axis=1) + norm.logpdf(y[:, None], mean, raw["scale"])
    return np.logaddexp.reduce(joint, axis=1)


NAMES = ("intercept", "coef", "scale", "gate_intercept", "gate_coef")


def raw_parameters(est):
    return {name: getattr(est, f"{name}_") for name in NAMES}


def flatten(raw):
    """Free raw parameters as a vector (log scales; the last gate row is zero), and the way back."""
    shapes = {name: value.shape for name, value in raw.items()}
    free = {
        "intercept": raw["intercept"],
        "coef": raw["coef"],
        "log_scale": np.log(raw["scale"]),
        "gate_intercept": raw["gate_intercept"][:-1],
        "gate_coef": raw["gate_coef"][:-1],
    }
    cuts = np.cumsum([value.size for value in free.values()])[:-1]

    def back(vector):
        parts = dict(zip(free, np.split(vector, cuts), strict=True))
        return {
            "intercept": parts["intercept"],
            "coef": parts["coef"].reshape(shapes["coef"]),
            "scale": np.exp(parts["log_scale"]),
            "gate_intercept": np.append(parts["gate_intercept"], 0.0),
            "gate_coef": np.vstack(
                [parts["gate_coef"].reshape(raw["gate_coef"][:-1].shape), raw["gate_coef"][-1:]]
            ),
        }

    return np.concatenate([value.ravel() for value in free.values()]), back


def derivatives(function, at, size):
    """Gradient and Hessian by central differences with one step per coordinate."""
    steps = np.diag(size)
    n = len(at)
    gradient, hessian = np.empty(n), np.empty((n, n))
    middle = function(at)
    for i in range(n):
        up, down = function(at + steps[i]), function(at - steps[i])
        gradient[i] = (up - down) / (2 * size[i])
        hessian[i, i] = (up - 2 * middle + down) / size[i] ** 2
        for j in range(i):
            mixed = [function(at + a * steps[i] + b * steps[j]) for a in (1, -1) for b in (1, -1)]
            hessian[i, j] = (mixed[0] - mixed[1] - mixed[2] + mixed[3]) / (4 * size[i] * size[j])
            hessian[j, i] = hessian[i, j]
    return gradient, hessian


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        draw=draw,
        fit=fit,
        raw_log_density=raw_log_density,
        raw_parameters=raw_parameters,
        flatten=flatten,
        derivatives=derivatives,
    )
