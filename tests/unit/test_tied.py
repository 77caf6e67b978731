"""Coefficients in common and known coefficients: constraints, ascent, counting, errors."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.base import clone

import mixexperts as mx
from mixexperts._design import DesignMap
from mixexperts.errors import DesignError, UnsupportedCombinationError
from mixexperts.experts import Binomial, Gamma, Gaussian, Mixed, Poisson, Tied
from mixexperts.penalties import Ridge

NAN = float("nan")
# Constraints hold to rounding of the way from the engine's columns to the user's.
EXACT = 1e-9


@pytest.fixture(scope="module")
def data():
    """Two lines far from the origin, x2 with one slope; counts of the same kind."""
    rng = np.random.default_rng(20261122)
    n = 400
    x1, x2 = 3.0 * rng.standard_normal(n) + 50.0, 0.5 * rng.standard_normal(n) + 7.0
    one = rng.random(n) < 1 / (1 + np.exp(-(x1 - 50.0)))
    y = np.where(one, 10.0 + 2.0 * x1, 100.0 - x1) + 1.5 * x2 + rng.standard_normal(n)
    eta = np.where(one, 0.2 * (x1 - 50.0), 2.0 - 0.1 * (x1 - 50.0)) + 0.3 * (x2 - 7.0)
    frame = pd.DataFrame({"x1": x1, "x2": x2, "y": y, "count": rng.poisson(np.exp(eta))})
    return frame.assign(group=np.where(rng.random(n) < 0.5, "a", "b"))


def fitted(data, expert, response="y", n_experts=2, **options):
    options = {"n_init": 4, "random_state": 0, "backend": "numpy"} | options
    est = mx.MoERegressor(n_experts, expert=expert, **options)
    return est.fit(data[["x1", "x2"]], data[response])


@pytest.mark.parametrize("family", [Gaussian(), Poisson(), Gamma()], ids=lambda f: f.name)
def test_common_slope_is_common_on_the_users_scale(data, family):
    data = data.assign(positive=np.exp(data["y"] / 100.0))
    response = {"gaussian": "y", "poisson": "count", "gamma": "positive"}[family.name]
    free = fitted(data, family, response)
    est = fitted(data, Tied(family, common=["x2"]), response)
    assert est.coef_[0, 1] == pytest.approx(est.coef_[1, 1], rel=EXACT)
    assert est.n_parameters_ == free.n_parameters_ - 1
    assert est.converged_
    assert est.log_likelihood_ <= free.log_likelihood_ + 1e-8
    assert (np.diff(est.history_) >= -1e-9).all()


def test_a_common_slope_is_the_best_of_all_fixed_ones(data):
    common = fitted(data, Tied(common=["x2"]))
    at = common.coef_[0, 1]
    likelihoods = [
        fitted(data, Tied(fixed={"x2": at + step}), init=common).log_likelihood_
        for step in (-0.05, 0.0, 0.05)
    ]
    assert likelihoods[1] == pytest.approx(common.log_likelihood_, abs=1e-7)
    assert max(likelihoods[0], likelihoods[2]) < common.log_likelihood_ - 1e-3


def test_intercepts_in_common_are_those_of_the_users_columns(data):
    est = fitted(data, Tied(common=["Intercept", "x2"]))
    assert est.intercept_[0] == pytest.approx(est.intercept_[1], rel=EXACT)
    assert est.coef_[0, 1] == pytest.approx(est.coef_[1, 1], rel=EXACT)
    assert est.coef_[0, 0] != pytest.approx(est.coef_[1, 0], rel=1e-3)
    # where the columns are centred already, nothing is left of the shift
    centred = data.assign(x1=data["x1"] - 50.0, x2=data["x2"] - 7.0)
    near = fitted(centred, Tied(common=["Intercept", "x2"]))
    assert near.intercept_[0] == pytest.approx(near.intercept_[1], rel=EXACT)


def test_known_coefficients_are_those_given(data):
    est = fitted(data, Tied(fixed={"x2": 1.5, "Intercept": [NAN, 10.0]}))
    assert_allclose(est.coef_[:, 1], 1.5, rtol=EXACT)
    assert est.intercept_[1] == pytest.approx(10.0, rel=1e-8)
    assert est.n_parameters_ == fitted(data, Gaussian()).n_parameters_ - 3


def test_a_fit_with_its_own_estimate_fixed_is_the_same_fit(data):
    free = fitted(data, Poisson(), "count")
    fixed = Tied(Poisson(), fixed={"x1": free.coef_[:, 0].tolist()})
    again = fitted(data, fixed, "count", init=free)
    assert again.log_likelihood_ == pytest.approx(free.log_likelihood_, abs=1e-7)
    assert_allclose(again.coef_, free.coef_, rtol=1e-4)
    assert again.n_parameters_ == free.n_parameters_ - 2


def test_groups_keep_their_experts(data):
    est = fitted(data, Tied(terms={"x2": [[0, 2]]}), n_experts=3, n_init=6)
    assert est.coef_[0, 1] == pytest.approx(est.coef_[2, 1], rel=EXACT)
    assert est.coef_[1, 1] != pytest.approx(est.coef_[0, 1], rel=1e-4)
    labels = est.model_.expert.interchangeable(3)
    assert labels.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="other constraints"):
        est.model_.expert.permute(est.theta_.expert, np.array([1, 0, 2]))


def test_scale_and_origin_of_the_columns_do_not_matter(data):
    family = Tied(common=["Intercept", "x2"])
    plain = fitted(data, family)
    # factors alone: another origin would make another model of equal intercepts
    stretched = data.assign(x1=100.0 * data["x1"], x2=0.01 * data["x2"], y=7.0 * data["y"])
    other = fitted(stretched, family)
    shift = len(data) * math.log(7.0)
    assert other.log_likelihood_ == pytest.approx(plain.log_likelihood_ - shift, abs=1e-5)
    assert_allclose(other.coef_ * [100.0, 0.01] / 7.0, plain.coef_, rtol=1e-4)


def test_a_factor_is_named_by_itself(data):
    res = mx.moe(
        "y ~ x1 + C(group)", data=data, n_experts=2, family=Tied(common="C(group)"), n_init=3
    )
    free = mx.moe("y ~ x1 + C(group)", data=data, n_experts=2, n_init=3)
    assert res.df_model == free.df_model - 1
    row = res.expert_table.loc["C(group)[T.b]"]
    assert row[1] == pytest.approx(row[2], rel=EXACT)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("family", [Poisson(), Gamma()], ids=lambda f: f.name)
def test_backends_and_chunks_agree(data, family, backend):
    data = data.assign(positive=np.exp(data["y"] / 100.0))
    response = "count" if family.name == "poisson" else "positive"
    expert = Tied(family, common=["x2"])
    known = fitted(data, expert, response)
    est = fitted(data, expert, response, backend=backend, chunk_rows=150)
    assert est.log_likelihood_ == pytest.approx(known.log_likelihood_, abs=1e-6)
    assert_allclose(est.coef_, known.coef_, rtol=1e-3)


def test_ridge_pulls_common_slopes_of_all_experts(data):
    penalty = Ridge(0.05)
    est = fitted(data, Tied(common=["x2"]), expert_penalty=penalty)
    free = fitted(data, Tied(common=["x2"]))
    assert (np.diff(est.history_) >= -1e-9).all()
    assert est.converged_
    assert abs(est.coef_[0, 1]) < abs(free.coef_[0, 1])


def test_saved_cloned_and_pickled_fits_come_back(data, tmp_path):
    est = fitted(data, Tied(Poisson(), {"x2": [[0, 1]]}, fixed={"x1": [0.2, NAN]}), "count")
    est.save(tmp_path / "tied.mxp")
    for back in (mx.load(tmp_path / "tied.mxp"), pickle.loads(pickle.dumps(est))):
        assert_allclose(back.predict(data[["x1", "x2"]]), est.predict(data[["x1", "x2"]]))
        assert back.model_.expert.terms == est.model_.expert.terms
    assert clone(est).expert.terms == est.expert.terms


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_free_coefficients_give_all_that_obey_the_constraints(draw):
    """Whatever the groups, known values, columns: as many free ones as there should be."""
    n_experts, d = draw.draw(st.integers(1, 4)), draw.draw(st.integers(1, 3))
    rng = np.random.default_rng(draw.draw(st.integers(0, 10**6)))
    names = tuple(f"x{j}" for j in range(d))
    terms, fixed, free = {}, {}, 0
    for name in ("Intercept", *names):
        labels = draw.draw(st.lists(st.integers(0, 3), min_size=n_experts, max_size=n_experts))
        kind = draw.draw(st.sampled_from(["free", "tied", "fixed"]))
        if kind == "tied":
            terms[name] = [[k for k in range(n_experts) if labels[k] == g] for g in set(labels)]
            free += len(set(labels))
        elif kind == "fixed":
            fixed[name] = [float(rng.normal()) if label else NAN for label in labels]
            if all(map(math.isnan, fixed[name])):
                fixed[name][0] = 1.0
            free += sum(map(math.isnan, fixed[name]))
        else:
            free += n_experts
    design = DesignMap(
        names,
        rng.normal(size=d) * 5.0,
        rng.uniform(0.1, 9.0, d),
        np.eye(d, dtype=np.int64),
        intercept=True,
    )
    loc, scale = 2.0, 3.0
    tied = Tied(Poisson(), terms, fixed=fixed).bound(design, loc, scale)
    like = {"coef": np.zeros((n_experts, d + 1))}
    assert tied.n_params(like) == free
    vector = rng.normal(size=free)
    params = tied.unpack(vector, like)
    assert_allclose(tied.pack(params), vector, atol=1e-8)
    intercept, coef = design.raw_coefficients(params["coef"])
    raw = dict(zip(names, (scale * coef).T, strict=True))
    raw["Intercept"] = scale * intercept + loc
    for name, groups in terms.items():
        for group in groups:
            assert np.ptp(raw[name][group]) < 1e-7
    for name, values in fixed.items():
        known = ~np.isnan(values)
        assert_allclose(raw[name][known], np.array(values)[known], atol=1e-7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Tied(terms={"x": "some"}), ValueError, "'all' or groups"),
        (lambda: Tied(terms={"x": 3}), TypeError, "'all' or groups"),
        (lambda: Tied(terms={"x": [[0, 1], [1, 2]]}), ValueError, "names expert 1 twice"),
        (lambda: Tied(terms=["x"]), TypeError, "terms must map"),
        (lambda: Tied(common="x", fixed={"x": 1.0}), ValueError, "both in common and fixed"),
        (lambda: Tied(fixed={"x": "a"}), TypeError, "must be a number"),
        (lambda: Tied(fixed={"x": [NAN, NAN]}), ValueError, "finite number"),
        (lambda: Tied(Tied()), UnsupportedCombinationError, "cannot be tied"),
        (lambda: Tied(Mixed([Gaussian()])), UnsupportedCombinationError, "cannot be tied"),
        (lambda: Tied("gausian"), ValueError, "did you mean"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_mistakes_of_a_fit_are_named(data):
    with pytest.raises(DesignError, match=r"'x9' of Tied is not among .*'x1', 'x2'"):
        fitted(data, Tied(common="x9"))
    with pytest.raises(ValueError, match="names expert 2, but n_experts=2"):
        fitted(data, Tied(terms={"x1": [[0, 2]]}))
    with pytest.raises(ValueError, match="has 3 values, but n_experts=2"):
        fitted(data, Tied(fixed={"x1": [0.0, 1.0, NAN]}))
    with pytest.raises(ValueError, match="does not know its columns"):
        Tied(Binomial(), common="x1").pack({"coef": np.zeros((2, 2))})
