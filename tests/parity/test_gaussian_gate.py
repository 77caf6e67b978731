"""With Gaussian gates and linear Gaussian experts (x, y) is a Gaussian mixture: scikit-learn's."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import mixexperts as mx
from mixexperts.experts import Gaussian as GaussianExpert
from mixexperts.gates import Gaussian

# Two programs that stop when little is gained; what is left is of second order.
LLF_TOL = 1e-6

FAITHFUL = (mx.datasets.load_faithful, ["waiting"], "eruptions")
SWAPPED = (mx.datasets.load_faithful, ["eruptions"], "waiting")
ATHLETES = (mx.datasets.load_ais, ["BMI", "LBM"], "Bfat")
every_data = pytest.mark.parametrize(
    "columns", [FAITHFUL, SWAPPED, ATHLETES], ids=["faithful", "swapped", "ais"]
)


def load(columns):
    loader, features, response = columns
    frame = loader()
    return frame[features].to_numpy(float), frame[response].to_numpy(float)


def groups(y, n_experts):
    """Rows by their response, as labels."""
    return np.searchsorted(np.quantile(y, np.arange(1, n_experts) / n_experts), y)


def theirs(joint, label, kind, **options):
    """scikit-learn's EM from the moments of the groups."""
    parts = [joint[label == k] for k in range(label.max() + 1)]
    square = [np.cov(part.T, bias=True) for part in parts]
    precision = [np.linalg.inv(s) if kind == "full" else 1.0 / np.diag(s) for s in square]
    mixture = GaussianMixture(
        len(parts),
        covariance_type=kind,
        weights_init=[len(part) / len(joint) for part in parts],
        means_init=[part.mean(axis=0) for part in parts],
        precisions_init=precision,
        reg_covar=0.0,
        **options,
    )
    return mixture.fit(joint)


def start_of(weights, means, covariances):
    """The same mixture of (x, y) as an init of ours."""
    d = means.shape[1] - 1
    slope = np.array([np.linalg.solve(s[:d, :d], s[:d, d]) for s in covariances])
    rest = covariances[:, d, d] - np.einsum("kd,kd->k", slope, covariances[:, :d, d])
    return {
        "intercept": means[:, d] - np.einsum("kd,kd->k", slope, means[:, :d]),
        "coef": slope,
        "scale": np.sqrt(rest),
        "gate_weights": weights,
        "gate_means": means[:, :d],
        "gate_covariances": covariances[:, :d, :d],
    }


def moments(est):
    """Means and covariances of (x, y) in each expert."""
    means, square = est.gate_means_, est.gate_covariances_
    cross = np.einsum("kij,kj->ki", square, est.coef_)
    last = est.scale_**2 + np.einsum("ki,ki->k", cross, est.coef_)
    y = est.intercept_ + np.einsum("ki,ki->k", est.coef_, means)
    lower = np.concatenate([cross, last[:, None]], axis=1)[:, None, :]
    upper = np.concatenate([square, cross[:, :, None]], axis=2)
    return np.column_stack([means, y]), np.concatenate([upper, lower], axis=1)


@every_data
@pytest.mark.parametrize("n_experts", [1, 2, 3])
def test_the_optimum_is_that_of_a_gaussian_mixture(columns, n_experts):
    X, y = load(columns)
    joint, label = np.column_stack([X, y]), groups(y, n_experts)
    mixture = theirs(joint, label, "full", tol=1e-13, max_iter=50_000)
    first = [np.cov(joint[label == k].T, bias=True) for k in range(n_experts)]
    middle = [joint[label == k].mean(axis=0) for k in range(n_experts)]
    share = np.bincount(label) / len(y)
    est = mx.MoERegressor(
        n_experts,
        gate="gaussian",
        init=start_of(share, np.array(middle), np.array(first)),
        tol=1e-12,
        max_iter=5000,
    ).fit(X, y)
    assert est.converged_
    reference = mixture.score(joint) * len(y)
    assert est.log_likelihood_ == pytest.approx(reference, abs=LLF_TOL)
    assert est.n_parameters_ == mixture._n_parameters()
    assert est.bic(X, y) == pytest.approx(mixture.bic(joint), abs=1e-5)
    # Parameters of a flat optimum move by about the square root of what is left.
    order = np.argsort(mixture.means_[:, -1])
    means, square = moments(est)
    same = np.argsort(means[:, -1])
    scale = joint.std(axis=0)
    assert_allclose(means[same] / scale, mixture.means_[order] / scale, atol=1e-3)
    area = np.outer(scale, scale)
    assert_allclose(square[same] / area, mixture.covariances_[order] / area, atol=1e-3)


@every_data
def test_each_step_is_that_of_a_gaussian_mixture(columns):
    """Plain EM: the same log-likelihood after every pass."""
    X, y = load(columns)
    joint, label = np.column_stack([X, y]), groups(y, 3)
    history = []
    for passes in range(1, 9):
        with pytest.warns(ConvergenceWarning):
            mixture = theirs(joint, label, "full", tol=0.0, max_iter=passes)
        history.append(mixture.score(joint) * len(y))
    parts = [joint[label == k] for k in range(3)]
    est = mx.MoERegressor(
        3,
        gate="gaussian",
        init=start_of(
            np.bincount(label) / len(y),
            np.array([part.mean(axis=0) for part in parts]),
            np.array([np.cov(part.T, bias=True) for part in parts]),
        ),
        accelerate=False,
        max_iter=9,
    )
    with pytest.warns(ConvergenceWarning, match="max_iter=9"):
        est.fit(X, y)
    assert_allclose(est.history_[1:], history, rtol=1e-11)


def test_diagonal_covariances_with_constant_experts_are_a_diagonal_mixture():
    X, y = load(ATHLETES)
    joint, label = np.column_stack([X, y]), groups(y, 2)
    mixture = theirs(joint, label, "diag", tol=1e-13, max_iter=50_000)
    start = {
        "intercept": [y[label == k].mean() for k in range(2)],
        "coef": np.zeros((2, 0)),
        "scale": [y[label == k].std() for k in range(2)],
        "gate_weights": np.bincount(label) / len(y),
        "gate_means": [X[label == k].mean(axis=0) for k in range(2)],
        "gate_covariances": [X[label == k].var(axis=0) for k in range(2)],
    }
    est = mx.MoERegressor(
        2, gate=Gaussian("diag"), expert=GaussianExpert(degree=0), init=start, tol=1e-12
    ).fit(X, y)
    assert est.log_likelihood_ == pytest.approx(mixture.score(joint) * len(y), abs=LLF_TOL)
    assert est.n_parameters_ == mixture._n_parameters()
    order = np.argsort(mixture.means_[:, -1])
    assert_allclose(est.gate_means_, mixture.means_[order, :-1], rtol=1e-4)
    assert_allclose(est.gate_covariances_, mixture.covariances_[order, :-1], rtol=1e-4)


@pytest.mark.parametrize("n_experts", [1, 2, 4])
def test_the_starts_reach_what_scikit_learn_reaches(n_experts):
    X, y = load(FAITHFUL)
    joint = np.column_stack([X, y])
    options = {"n_init": 20, "tol": 1e-9, "max_iter": 5000, "random_state": 0, "reg_covar": 0.0}
    mixture = GaussianMixture(n_experts, **options).fit(joint)
    est = mx.MoERegressor(n_experts, gate="gaussian", random_state=0).fit(X, y)
    assert est.log_likelihood_ >= mixture.score(joint) * len(y) - 1e-4


@pytest.mark.parametrize("n_experts", [1, 2, 5])
def test_parameters_are_counted_as_in_the_literature(n_experts):
    """6 K - 1 with one feature and one response (GLLiM with full covariances)."""
    X, y = load(FAITHFUL)
    est = mx.MoERegressor(n_experts, gate="gaussian", init="kmeans", n_init=1, random_state=0)
    assert est.fit(X, y).n_parameters_ == 6 * n_experts - 1
