"""Links: maps, derivatives, chain rules, edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from statsmodels.genmod.families import links as known_links

import mixexperts as mx
from mixexperts._batch import Batch
from mixexperts.em import Model
from mixexperts.em.device import is_served
from mixexperts.em.passes import choose_pass
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Binomial, Gamma, InverseGaussian, Poisson
from mixexperts.experts._links import OF_LOG_MEAN, OF_LOG_ODDS, kept_positive
from mixexperts.gates import Softmax

KNOWN = {
    "identity": known_links.Identity(),
    "inverse": known_links.InversePower(),
    "inverse_squared": known_links.InverseSquared(),
    "sqrt": known_links.Sqrt(),
    "probit": known_links.Probit(),
    "cloglog": known_links.CLogLog(),
}
ALL = OF_LOG_MEAN | OF_LOG_ODDS


def places(name):
    return np.linspace(0.05, 8.0, 40) if name in OF_LOG_MEAN else np.linspace(-6.0, 2.5, 40)


@pytest.mark.parametrize("name", ALL)
def test_means_are_those_of_statsmodels(name):
    eta = places(name)
    own, first, _ = ALL[name].own(eta)
    mean = np.exp(own) if name in OF_LOG_MEAN else expit(own)
    slope = first * (mean if name in OF_LOG_MEAN else mean * expit(-own))
    assert_allclose(mean, KNOWN[name].inverse(eta), rtol=1e-12)
    assert_allclose(slope, KNOWN[name].inverse_deriv(eta), rtol=1e-10)
    assert_allclose(ALL[name].eta(own), eta, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_against_differences(name):
    eta, h = places(name), 1e-5
    up, mid, down = (ALL[name].own(eta + shift) for shift in (h, 0.0, -h))
    # Central differences: h^2 times third derivatives (up to 2 / 0.05^3), rounding 1e-15 / h.
    assert_allclose((up[0] - down[0]) / (2 * h), mid[1], rtol=1e-6, atol=1e-8)
    assert_allclose((up[1] - down[1]) / (2 * h), mid[2], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("eta", [-1e4, -40.0, -1e-3, 0.0, 1e-3, 40.0, 1e4])
@pytest.mark.parametrize("name", ALL)
def test_everywhere_they_are_numbers(name, eta):
    for part in ALL[name].own(np.array([eta])):
        assert np.isfinite(part).all()


@pytest.mark.parametrize("own", [-600.0, -50.0, 50.0])
@pytest.mark.parametrize("name", OF_LOG_ODDS)
def test_probabilities_next_to_nothing_have_their_eta(name, own):
    eta = OF_LOG_ODDS[name].eta(np.array([own]))
    assert_allclose(OF_LOG_ODDS[name].own(eta)[0], own, rtol=1e-9)


def test_starts_are_moved_back_to_where_means_exist():
    x = np.linspace(-1.0, 1.0, 21)
    batch = Batch(np.ones(21), {"mean": np.column_stack([np.ones(21), x])}, np.empty((21, 0)),
                  np.ones(21), offset=np.full(21, -3.0))  # fmt: skip
    link = OF_LOG_MEAN["identity"]
    first = kept_positive(link, None, np.array([[4.0, 5.0], [5.0, 0.5]]), batch, np.full(21, 2.0))
    assert (batch.X @ first.T - 3.0 > 0.0).all()
    assert_allclose(first[1], [5.0, 0.5])  # that one was inside
    after = kept_positive(link, first, first + np.array([[0.0, 50.0]]), batch, np.full(21, 2.0))
    assert (batch.X @ after.T - 3.0 > 0.0).all()
    assert (after[:, 1] > first[:, 1]).all()
    free = kept_positive(None, None, np.array([[-9.0, 0.0]]), batch, np.ones(21))
    assert_allclose(free, [[-9.0, 0.0]])


@pytest.mark.parametrize("family", [
    Gamma(link="inverse"), Gamma(link="identity"), InverseGaussian(link="inverse_squared"),
    Poisson(link="identity"), Poisson(link="sqrt"),
], ids=repr)  # fmt: skip
def test_two_experts_with_another_link(family):
    """Means that the link makes linear: the fit finds them, whatever the compiled passes serve."""
    rng = np.random.default_rng(3)
    n = 4000
    x = rng.uniform(0.0, 1.0, n)
    label = rng.integers(0, 2, n)
    eta = np.where(label == 0, 1.0 + 0.8 * x, 3.0 + 2.0 * x)
    own = eta[:, None] if family.link == "log" else OF_LOG_MEAN[family.link].own(eta)[0][:, None]
    mean = np.exp(own[:, 0])
    if family.name == "poisson":
        y = rng.poisson(mean).astype(float)
    elif family.name == "gamma":
        y = rng.gamma(20.0, mean / 20.0)
    else:
        y = rng.wald(mean, 20.0 * mean)
    est = mx.MoERegressor(2, expert=family, gate="constant", n_init=3, random_state=0)
    est.fit(x[:, None], y)
    assert est.status_ == "converged"
    order = np.argsort(est.intercept_)
    found = np.column_stack([est.intercept_, est.coef_[:, 0]])[order]
    if family.name != "inverse_gaussian":  # drawn with a variance of its own
        assert_allclose(found, [[1.0, 0.8], [3.0, 2.0]], atol=0.6)
    assert_allclose(
        est.predict(np.array([[0.5]])).item(), y[np.abs(x - 0.5) < 0.1].mean(), rtol=0.1
    )


def test_other_links_leave_the_fused_passes():
    for family in (Poisson(link="sqrt"), Binomial(link="probit")):
        model = Model(Softmax(), family)
        assert not is_served(model)
        with pytest.raises(UnsupportedCombinationError):
            choose_pass(model, "numba")
        with pytest.raises(UnsupportedCombinationError, match="default settings"):
            choose_pass(model, "cupy")
    assert is_served(Model(Softmax(), Poisson()))


@pytest.mark.parametrize("family", [
    Gamma(link="inverse"), Gamma(link="identity"), InverseGaussian(link="inverse_squared"),
], ids=repr)  # fmt: skip
def test_chain_rules_against_differences(family):
    rng = np.random.default_rng(0)
    y, eta, h = rng.gamma(3.0, 0.5, (50, 1)), rng.uniform(0.3, 3.0, (50, 2)), 1e-5
    name = family.shapes[0].name

    def terms(eta_shift, shape_shift):
        return family.terms(y, eta + eta_shift, **{name: np.full(2, 0.7 * np.exp(shape_shift))})

    curves = family.curves(y, eta, **{name: np.full(2, 0.7)})
    for t, shift in enumerate(((h, 0.0), (0.0, h))):
        up, mid, down = (terms(s * shift[0], s * shift[1]) for s in (1, 0, -1))
        slope = (up.log_f - down.log_f) / (2 * h)
        assert_allclose(mid.slopes[t], slope, rtol=1e-6, atol=1e-7)
        for s in range(2):
            curve = (down.slopes[s] - up.slopes[s]) / (2 * h)
            assert_allclose(curves[s][t], curve, rtol=1e-6, atol=1e-6)
    assert (mid.weights[0] > 0.0).all()


@pytest.mark.parametrize("make", [Gamma, InverseGaussian, Poisson, Binomial])
def test_unknown_links_are_refused(make):
    with pytest.raises(ValueError, match=r"link='loglog' is no link of .* known links: '"):
        make(link="loglog")
