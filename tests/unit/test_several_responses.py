"""Several responses: recovery, invariance, what is refused, sources, predictions, formulas."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import mixexperts as mx
from mixexperts.em.information import observed_information
from mixexperts.errors import (
    DegenerateFitWarning,
    InvalidResponseError,
    UnsupportedCombinationError,
)
from mixexperts.experts import Gaussian, Joint, MultivariateGaussian, Poisson
from mixexperts.sources import IteratorSource

COEF = np.array([[[1.0, 0.0], [-0.5, 0.8]], [[-1.0, 0.5], [0.5, 0.0]]])
INTERCEPT = np.array([[0.0, 1.0], [2.0, -1.0]])
COVARIANCE = np.array([[[0.5, 0.3], [0.3, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]])
GATE = np.array([0.4, 1.0, -0.5])  # log odds of the first expert


def draw(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    odds = GATE[0] + X @ GATE[1:]
    label = (rng.random(n) >= 1.0 / (1.0 + np.exp(-odds))).astype(int)
    noise = np.einsum(
        "nij,nj->ni", np.linalg.cholesky(COVARIANCE)[label], rng.standard_normal((n, 2))
    )
    Y = INTERCEPT[label] + np.einsum("ndp,np->nd", COEF[label], X) + noise
    return X, Y, label


def regressor(**options):
    return mx.MoERegressor(2, **{"n_init": 3, "random_state": 0, **options})


@pytest.fixture(scope="module")
def rows():
    return draw(600, 20261122)


@pytest.fixture(scope="module")
def fitted(rows):
    return regressor().fit(rows[0], rows[1])


# --- estimation -----------------------------------------------------------------------------------


def test_a_fit_recovers_the_truth_within_four_standard_errors():
    """Errors by the observed information; of 21 parameters none beyond four but for 1e-3."""
    X, Y, _ = draw(5000, 1)
    est = regressor(n_init=2).fit(X, Y)
    assert est.status_ == "converged"
    assert (np.diff(est.history_) >= 0.0).all()
    raw = {
        "intercept": INTERCEPT, "coef": COEF, "covariance": COVARIANCE,
        "gate_intercept": np.array([GATE[0], 0.0]),
        "gate_coef": np.array([GATE[1:], [0.0, 0.0]]),
    }  # fmt: skip
    model, frame = est.model_, est.frame_
    truth = model.pack(frame.engine(model, raw))
    batch = frame.batch(X, Y, None, None)
    information = observed_information(model, est.theta_, batch)["information"]
    error = np.sqrt(np.diagonal(np.linalg.inv(information)))
    z = (model.pack(est.theta_) - truth) / error
    assert len(z) == est.n_parameters_ == 21
    assert np.abs(z).max() < 4.0


def test_the_covariance_beats_independence_where_there_is_one(rows):
    X, Y, _ = rows
    full, diag, tied = (
        regressor(expert=Gaussian(covariance=kind)).fit(X, Y) for kind in ("full", "diag", "tied")
    )
    assert full.log_likelihood_ > diag.log_likelihood_ + 50.0
    assert full.log_likelihood_ > tied.log_likelihood_ + 20.0
    assert_array_equal(diag.covariance_[:, 0, 1], 0.0)
    assert_array_equal(tied.covariance_[0], tied.covariance_[1])
    assert full.n_parameters_ - diag.n_parameters_ == 2
    assert full.n_parameters_ - tied.n_parameters_ == 3


def test_shapes(fitted, rows):
    X, Y, _ = rows
    assert fitted.coef_.shape == (2, 2, 2)
    assert fitted.intercept_.shape == (2, 2)
    assert fitted.covariance_.shape == (2, 2, 2)
    assert fitted.predict(X).shape == Y.shape
    assert fitted.predict_experts(X[:7]).shape == (7, 2, 2)
    assert fitted.sample(X, random_state=0).shape == Y.shape
    assert fitted.score_samples(X, Y).sum() == pytest.approx(fitted.log_likelihood_, rel=1e-12)
    assert not hasattr(fitted, "scale_")
    by_hand = np.einsum("ndk,nk->nd", fitted.predict_experts(X).transpose(0, 2, 1),
                        fitted.gate_proba(X))  # fmt: skip
    assert_allclose(fitted.predict(X), by_hand)
    ss = ((Y - fitted.predict(X)) ** 2).sum(axis=0) / ((Y - Y.mean(axis=0)) ** 2).sum(axis=0)
    assert fitted.score(X, Y) == pytest.approx(1.0 - ss.mean(), rel=1e-12)


def test_weight_two_is_the_row_twice(rows):
    X, Y, _ = rows
    X, Y = X[:200], Y[:200].copy()
    Y[::5, 0] = np.nan
    twice = np.arange(200) % 3 == 0
    weighted = regressor().fit(X, Y, np.where(twice, 2.0, 1.0))
    doubled = regressor().fit(np.vstack([X, X[twice]]), np.vstack([Y, Y[twice]]))
    assert weighted.log_likelihood_ == pytest.approx(doubled.log_likelihood_, abs=1e-7)
    assert_allclose(weighted.coef_, doubled.coef_, atol=1e-6)
    assert_allclose(weighted.covariance_, doubled.covariance_, atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_units_of_the_responses_do_not_matter(rows, missing):
    X, Y, label = rows
    Y = Y.copy()
    if missing:
        Y[::4, 1] = np.nan
    shift, factor = np.array([1e6, -3.0]), np.array([1e-4, 250.0])
    one = regressor(init=label).fit(X, Y)
    other = regressor(init=label).fit(X, Y * factor + shift)
    assert_allclose(other.coef_, one.coef_ * factor[:, None], rtol=1e-5, atol=1e-9)
    assert_allclose(other.intercept_, one.intercept_ * factor + shift, rtol=1e-5)
    assert_allclose(
        other.covariance_, one.covariance_ * np.outer(factor, factor), rtol=1e-5, atol=1e-12
    )
    counts = (~np.isnan(Y)).sum(axis=0)
    moved = one.log_likelihood_ - counts @ np.log(factor)
    assert other.log_likelihood_ == pytest.approx(moved, abs=1e-4)


def test_the_order_of_the_responses_does_not_matter(rows):
    X, Y, label = rows
    one = regressor(init=label).fit(X, Y)
    other = regressor(init=label).fit(X, Y[:, ::-1])
    assert other.log_likelihood_ == pytest.approx(one.log_likelihood_, abs=1e-7)
    # the experts stand in the order of the first response, which now is the other one
    order = np.argsort(other.intercept_[:, 1])
    assert_allclose(other.coef_[order][:, ::-1], one.coef_, atol=1e-5)


@pytest.mark.parametrize("kind", ["kmeans", "residual", "random", "elemental", "small_em", "split"])
@pytest.mark.parametrize("family", ["gaussian", "joint"])
def test_every_kind_of_start_works(rows, kind, family):
    X, Y, _ = rows
    expert, Y = "gaussian", Y.copy()
    if family == "joint":
        expert = Joint(["gaussian", "poisson"])
        Y[:, 1] = np.floor(np.exp(0.3 * Y[:, 1]))
    Y[::6, 0] = np.nan
    est = regressor(init=kind, n_init=2, expert=expert).fit(X, Y)
    assert est.status_ == "converged"


@pytest.mark.parametrize("gate", ["softmax", "gaussian", "constant"])
def test_every_gate_works(rows, gate):
    X, Y, _ = rows
    est = regressor(gate=gate, n_init=2).fit(X, Y)
    assert est.status_ == "converged"
    llf = est.score_samples(X, Y).sum()
    if gate == "gaussian":
        assert est.log_likelihood_ < llf  # that of x and y
        assert est.aic(X, Y) == pytest.approx(-2 * est.log_likelihood_ + 2 * est.n_parameters_)
    else:
        assert est.log_likelihood_ == pytest.approx(llf)


def test_penalties_shrink(rows):
    X, Y, label = rows
    for expert in (Gaussian(), Joint(["gaussian", "gaussian"])):
        free = regressor(init=label, expert=expert).fit(X, Y)
        ridge = regressor(
            init=label, expert=expert, expert_penalty=mx.penalties.Ridge(0.3)
        ).fit(X, Y)  # fmt: skip
        assert ridge.status_ == "converged"
        assert (np.diff(ridge.history_) >= 0.0).all()
        assert np.square(ridge.coef_).sum() < 0.8 * np.square(free.coef_).sum()
        assert ridge.objective_ < ridge.log_likelihood_ < free.log_likelihood_


def test_polynomials_offsets_and_no_intercept(rows):
    X, Y, label = rows
    quadratic = regressor(init=label, expert=Gaussian(degree=2)).fit(X, Y)
    assert quadratic.coef_.shape == (2, 2, 5)
    offset = np.column_stack([X[:, 0], np.full(len(X), 2.0)])
    plain = regressor(init=label).fit(X, Y)
    moved = regressor(init=label).fit(X, Y + offset, offset=offset)
    assert_allclose(moved.coef_, plain.coef_, atol=1e-6)
    assert_allclose(moved.predict(X, offset=offset), plain.predict(X) + offset, atol=1e-6)
    assert moved.has_offset_
    assert moved.gate_proba(X[:3]).shape == (3, 2)
    through = regressor(init=label, expert=Gaussian(fit_intercept=False)).fit(X, Y)
    assert_array_equal(through.intercept_, 0.0)


def test_a_fit_goes_on_from_parameters_labels_and_models(rows, fitted, tmp_path):
    X, Y, label = rows
    raw = {name: getattr(fitted, f"{name}_") for name in (
        "coef", "intercept", "covariance", "gate_coef", "gate_intercept")}  # fmt: skip
    for init in (raw, fitted, label):
        est = regressor(init=init).fit(X, Y)
        assert est.log_likelihood_ == pytest.approx(fitted.log_likelihood_, abs=1e-6)
    three = mx.MoERegressor(3, init=fitted, random_state=0).fit(X, Y)
    assert three.log_likelihood_ > fitted.log_likelihood_
    fitted.save(tmp_path / "several.mxp")
    again = mx.load(tmp_path / "several.mxp")
    assert_array_equal(again.predict(X), fitted.predict(X))
    assert again.score_samples(X, Y).sum() == fitted.score_samples(X, Y).sum()
    with pytest.raises(ValueError, match="a model of 2 responses, but y has 3"):
        regressor(init=fitted).fit(X, np.column_stack([Y, Y[:, 0] + X[:, 0] ** 3]))
    with pytest.raises(ValueError, match="positive definite"):
        regressor(init=raw | {"covariance": -raw["covariance"]}).fit(X, Y)


@pytest.mark.parametrize("family", ["gaussian", "joint"])
def test_rows_of_a_group_share_an_expert(family):
    X, _, label = draw(60, 11)
    subject = np.repeat(np.arange(60), 4)
    rng = np.random.default_rng(12)
    x = X[subject] + rng.standard_normal((240, 2)) * [0.0, 1.0]  # the gate's column is constant
    noise = 0.4 * rng.standard_normal((240, 2))
    y = INTERCEPT[label[subject]] + np.einsum("ndp,np->nd", COEF[label[subject]], x) + noise
    y[rng.random((240, 2)) < 0.15] = np.nan
    y[np.isnan(y).all(axis=1)] = 0.5
    expert = Joint(["gaussian", "gaussian"]) if family == "joint" else "gaussian"
    est = regressor(gate_features=[0], expert=expert).fit(x, y, groups=subject)
    resp = est.responsibilities(x, y, groups=subject)
    assert (resp.argmax(axis=1) == label[subject]).mean() > 0.95
    total = est.score_samples(x, y, groups=subject).sum()
    assert total == pytest.approx(est.log_likelihood_, rel=1e-9)
    assert est.aic(x, y, groups=subject) == pytest.approx(-2 * total + 2 * est.n_parameters_)


def test_blocks_are_learnt_one_after_the_other():
    X, Y, label = draw(6000, 13)
    Y[::4, 0] = np.nan
    est = regressor(init=label[:1000], n_init=1)
    for i in range(0, 6000, 1000):
        est.partial_fit(X[i : i + 1000], Y[i : i + 1000])
    whole = regressor(init=label).fit(X, Y)
    assert_allclose(est.coef_, whole.coef_, atol=0.1)
    assert_allclose(est.covariance_, whole.covariance_, atol=0.1)
    first = est.score_samples(X[:1000], Y[:1000]).sum() / 1000
    assert est.history_[0] == pytest.approx(first, abs=0.1)


# --- data -----------------------------------------------------------------------------------------


def test_sources_and_chunks_give_the_same_fit(rows):
    X, Y, _ = rows
    Y = Y.copy()
    Y[::7, 0] = np.nan
    whole = regressor(n_init=1, init="kmeans").fit(X, Y)
    source = IteratorSource(lambda: ((X[i : i + 100], Y[i : i + 100]) for i in range(0, 600, 100)))
    for est in (
        regressor(n_init=1, init="kmeans", chunk_rows=77).fit(X, Y),
        regressor(n_init=1, init="kmeans").fit(source),
    ):
        assert est.log_likelihood_ == pytest.approx(whole.log_likelihood_, abs=1e-6)
        assert_allclose(est.covariance_, whole.covariance_, atol=1e-5)
        assert_allclose(est.frame_.observed, whole.frame_.observed)


def test_many_rows_are_centred_block_by_block():
    X, Y, _ = draw(40_000, 3)
    Y[::3, 1] = np.nan
    est = mx.MoERegressor(1, n_init=1).fit(X, Y)
    seen = ~np.isnan(Y[:, 1])
    assert est.frame_.loc[1] == pytest.approx(Y[seen, 1].mean(), rel=1e-10)
    assert est.frame_.scale[1] == pytest.approx(Y[seen, 1].std(), rel=1e-10)
    assert est.frame_.observed[1] == pytest.approx(seen.mean())


def test_responses_come_as_data_frames(rows):
    X, Y, label = rows
    frame = pd.DataFrame(Y, columns=["a", "b"]).astype({"b": "Float64"})
    frame.loc[3, "b"] = pd.NA
    est = regressor(init=label).fit(X, frame)
    same = Y.copy()
    same[3, 1] = np.nan
    assert est.log_likelihood_ == regressor(init=label).fit(X, same).log_likelihood_


BAD = {
    "infinite": (lambda Y: Y.__setitem__((4, 0), np.inf), "y contains infinity"),
    "all missing in a row": (lambda Y: Y.__setitem__(5, np.nan), "missing .NaN. in row 5"),
    "all missing in a column": (
        lambda Y: Y.__setitem__((slice(None), 1), np.nan), "column 1 of y holds no value"
    ),
    "constant": (lambda Y: Y.__setitem__((slice(None), 1), 7.0), "column 1 of y is constant .= 7"),
    "collinear": (
        lambda Y: Y.__setitem__((slice(None), 1), 3.0 - 2.0 * Y[:, 0]),
        "column 1 of y is a linear combination",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_responses_that_cannot_be_used_are_refused(rows, spoil):
    X, Y = rows[0], rows[1].copy()
    spoil[0](Y)
    with pytest.raises(ValueError, match=spoil[1]):
        regressor().fit(X, Y)


def test_what_new_rows_lack_is_said(fitted, rows):
    X, Y, _ = rows
    with pytest.raises(ValueError, match="y has 1 columns, but the model was fitted to 2"):
        fitted.score_samples(X, Y[:, :1])
    with pytest.raises(ValueError, match="y has 4 columns, but the model was fitted to 2"):
        fitted.responsibilities(X, np.column_stack([Y, Y]))
    with pytest.raises(ValueError, match=r"offset must have shape \(600, 2\)"):
        regressor().fit(X, Y, offset=np.zeros(600))
    with pytest.raises(ValueError, match="trials"):
        fitted.predictive(X, trials=3)


def test_collinear_responses_of_a_source_end_at_the_floor(rows):
    X, Y, _ = rows
    Y = np.column_stack([Y[:, 0], 2.0 * Y[:, 0] + 1.0])
    with pytest.warns(DegenerateFitWarning, match="covariance at the floor"):
        est = regressor(n_init=1, chunk_rows=200).fit(X, Y)
    assert est.status_ == "degenerate"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(covariance="round"), "covariance='round' is not known"),
        (lambda: MultivariateGaussian(covariance="round"), "covariance='round' is not known"),
        (lambda: MultivariateGaussian(covariance_floor=0.0), "covariance_floor must lie in"),
        (lambda: Gaussian(covariance="diag", shared_scale=True), "choose one of the two"),
        (lambda: Joint([]), "members is empty"),
        (lambda: Joint([Poisson(degree=2)]), "degree is common to all"),
        (lambda: Joint([Gaussian(fit_intercept=False)]), "common to all responses"),
        (lambda: Joint(["gausian"]), "did you mean 'gaussian'"),
    ],
)
def test_families_refuse_what_they_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_joint_refuses_members_of_several_responses():
    with pytest.raises(UnsupportedCombinationError, match=r"members\[1\].*several columns"):
        Joint(["gaussian", MultivariateGaussian()])
    with pytest.raises(TypeError, match="list of families"):
        Joint("gaussian")


def test_joint_names_column_and_row_of_a_bad_value(rows):
    X, Y = rows[0], np.round(np.abs(rows[1]))
    expert = Joint(["poisson", "poisson"])
    Y[:4, 1] = np.nan
    Y[9, 1] = 0.5
    with pytest.raises(InvalidResponseError, match=r"column 1 of y: .*row 9 holds 0\.5"):
        regressor(expert=expert).fit(X, Y)
    with pytest.raises(InvalidResponseError, match="2 families take a response of 2 columns"):
        regressor(expert=expert).fit(X, Y[:, :1])


# --- families -------------------------------------------------------------------------------------


def test_joint_recovers_a_gaussian_a_count_and_a_choice():
    rng = np.random.default_rng(7)
    n = 4000
    X = rng.standard_normal((n, 1))
    label = (rng.random(n) < 0.4).astype(int)
    eta = np.array([[[0.0, 1.0], [0.5, 0.3], [-1.0, 0.5]], [[1.0, -0.5], [1.5, -0.2], [1.0, 0.0]]])
    each = eta[label, :, 0] + eta[label, :, 1] * X
    Y = np.column_stack([
        each[:, 0] + 0.6 * rng.standard_normal(n),
        rng.poisson(np.exp(each[:, 1])),
        rng.random(n) < 1.0 / (1.0 + np.exp(-each[:, 2])),
    ]).astype(float)  # fmt: skip
    Y[rng.random(n) < 0.2, 0] = np.nan
    est = regressor(
        gate="constant", expert=Joint(["gaussian", "poisson", "binomial"]), n_init=2
    ).fit(X, Y)
    assert est.status_ == "converged"
    raw = {
        "intercept": eta[:, :, 0], "coef": eta[:, :, 1:], "scale": np.full((2, 3), 0.6),
        "gate_intercept": np.array([np.log(0.6 / 0.4), 0.0]), "gate_coef": np.zeros((2, 0)),
    }  # fmt: skip
    model, frame = est.model_, est.frame_
    truth = model.pack(frame.engine(model, raw))
    information = observed_information(model, est.theta_, frame.batch(X, Y, None, None))
    error = np.sqrt(np.diagonal(np.linalg.inv(information["information"])))
    assert np.abs((model.pack(est.theta_) - truth) / error).max() < 4.0
    assert np.isnan(est.scale_[:, 1:]).all()
    assert est.n_parameters_ == 2 * (2 + 2 + 2) + 2 + 1


def test_joint_goes_on_from_its_own_attributes():
    X, Y, label = draw(200, 9)
    Y = np.column_stack([Y[:, 0], np.floor(np.exp(0.5 * Y[:, 1]))])
    expert = Joint(["gaussian", "poisson"])
    est = regressor(expert=expert, init=label).fit(X, Y)
    names = ("coef", "intercept", "scale", "gate_coef", "gate_intercept")
    init = {name: getattr(est, f"{name}_") for name in names}
    again = regressor(expert=expert, init=init).fit(X, Y)
    assert again.log_likelihood_ == pytest.approx(est.log_likelihood_, abs=1e-7)
    assert again.n_iter_ <= est.n_iter_
    text = dataclasses.replace(expert, members=("gaussian", "poisson"))
    assert text == expert


# --- predictions ----------------------------------------------------------------------------------


def test_predictive_density_is_the_mixture_of_normals(fitted, rows):
    X, Y, _ = rows
    found = fitted.predictive(X[:5])
    means, weight = fitted.predict_experts(X[:5]), fitted.gate_proba(X[:5])
    for i in range(5):
        density = sum(
            weight[i, k] * stats.multivariate_normal(means[i, k], fitted.covariance_[k]).pdf(Y[i])
            for k in range(2)
        )
        assert found.pdf(Y[:5])[i] == pytest.approx(density, rel=1e-9)
        assert found.pdf(Y[i])[i] == pytest.approx(density, rel=1e-9)
        assert found.logpdf(Y[:5][:, None])[i, 0] == pytest.approx(np.log(density), rel=1e-9)
    assert_allclose(found.logpdf(Y[:5]), fitted.score_samples(X[:5], Y[:5]), rtol=1e-9)
    assert_allclose(found.mean(), fitted.predict(X[:5]), rtol=1e-12)
    assert_allclose(found.expert_means(), means, rtol=1e-12)


def test_predictive_moments_are_those_of_its_draws(fitted, rows):
    found = fitted.predictive(rows[0][:3])
    drawn = found.sample(20_000, random_state=1)
    assert drawn.shape == (20_000, 3, 2)
    cov, mean = found.cov(), found.mean()
    for i in range(3):
        error = np.sqrt(np.diagonal(cov[i]) / 20_000)
        assert (np.abs(drawn[:, i].mean(axis=0) - mean[i]) < 4.5 * error).all()
        away = drawn[:, i] - mean[i]
        product = away[:, 0] * away[:, 1]
        assert abs(product.mean() - cov[i, 0, 1]) < 4.5 * product.std() / np.sqrt(20_000)
    assert_allclose(found.std() ** 2, np.diagonal(cov, axis1=1, axis2=2))
    assert_allclose(np.diagonal(found.corr(), axis1=1, axis2=2), 1.0)
    assert_array_equal(found.sample(4, random_state=2), found.sample(4, random_state=2))


def test_marginals_of_the_predictive_are_univariate(fitted, rows):
    X, Y, _ = rows
    found = fitted.predictive(X[:4])
    for j in (0, 1, -1):
        one = found.marginal(j)
        assert_allclose(one.mean(), found.mean()[:, j], rtol=1e-12)
        assert_allclose(one.var(), found.var()[:, j], rtol=1e-10)
        lost = np.full((4, 2), np.nan)
        lost[:, j] = Y[:4, j]
        assert_allclose(found.logpdf(lost), one.logpdf(Y[:4, j]), rtol=1e-10)
        lower, upper = one.interval(0.8)
        assert_allclose(one.cdf(upper) - one.cdf(lower), 0.8, rtol=1e-9)
    table = found.to_frame(0.8, names=["a", "b"])
    assert_allclose(table["b", "upper"], found.marginal(1).interval(0.8)[1])
    for name in ("cdf", "sf", "ppf", "median", "interval", "hdr", "mode"):
        with pytest.raises(UnsupportedCombinationError, match="marginal"):
            getattr(found, name)(0.5)
    with pytest.raises(ValueError, match="not among 2 responses"):
        found.marginal(2)
    with pytest.raises(ValueError, match="y must have shape"):
        found.logpdf(np.zeros((3, 3)))


def test_counts_have_no_density_between_integers():
    X, Y, label = draw(200, 9)
    Y = np.column_stack([Y[:, 0], np.floor(np.exp(0.5 * Y[:, 1]))])
    est = regressor(expert=Joint(["gaussian", "poisson"]), init=label).fit(X, Y)
    found = est.predictive(X[:2])
    grid = np.array([[0.0, 0.5], [0.0, 1.0], [0.0, np.nan], [0.0, -1.0]])
    density = found.pdf(np.broadcast_to(grid, (2, 4, 2)))
    assert_array_equal(density[:, [0, 3]], 0.0)
    assert (density[:, 1] > 0.0).all()
    counts = np.column_stack([np.zeros(200), np.arange(200.0)])
    total = found.pdf(np.broadcast_to(counts, (2, 200, 2))).sum(axis=1)
    assert_allclose(total, density[:, 2], rtol=1e-9)
    with pytest.raises(ValueError, match="y is missing"):
        est.score_samples(X)


# --- formulas -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(rows):
    X, Y, _ = rows
    frame = pd.DataFrame({"a": Y[:, 0], "b": Y[:, 1], "u": X[:, 0], "v": X[:, 1]})
    frame.loc[:9, "a"] = np.nan
    frame.loc[5:19, "b"] = np.nan
    frame.loc[30, "v"] = np.nan
    return frame


@pytest.fixture(scope="module")
def results(table):
    return mx.moe("a + b ~ u + v | u + v", data=table, n_experts=2, n_init=3)


def test_formula_fits_several_responses(results, table):
    assert results.nobs == 600 - 5 - 1  # five rows lack both, one a feature
    assert results.n_dropped == 6
    X, Y = table[["u", "v"]].to_numpy(), table[["a", "b"]].to_numpy()
    kept = ~(np.isnan(Y).all(axis=1) | np.isnan(X).any(axis=1))
    est = regressor().fit(X[kept], Y[kept])
    assert results.llf == pytest.approx(est.log_likelihood_, abs=1e-5)
    assert results.spec.y_names == ("a", "b")


def test_tables_name_response_and_term(results):
    rows = list(results.expert_table.index)
    assert rows == [
        "a: Intercept", "a: u", "a: v", "b: Intercept", "b: u", "b: v",
        "var(a)", "cov(a, b)", "var(b)",
    ]  # fmt: skip
    assert len(results.params) == results.df_model
    assert results.params["expert", 2, "b: v"] == results.estimator.coef_[1, 1, 1]
    assert results.params["expert", 1, "cov(a, b)"] == results.estimator.covariance_[0, 0, 1]
    text = str(results.summary())
    assert "cov(a, b)" in text
    assert "Some rows lack a (0.842%), b (1.68%)" in text
    assert "fitted first response" in text


def test_predictions_have_the_names_of_the_responses(results, table):
    predicted = results.predict(table)
    assert list(predicted.columns) == ["a", "b"]
    assert predicted.index.equals(table.index)
    assert predicted.loc[30].isna().all()
    assert predicted.loc[7].notna().all()
    means = results.predict_experts(table)
    assert means.columns.tolist() == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    posterior = results.posterior(table)
    assert posterior.loc[12].notna().all()  # from the response that it has
    assert posterior.loc[7].isna().all()  # both are missing
    assert_array_equal(results.posterior().notna().all(axis=1), True)


def test_missing_raise_and_transformed_responses(table):
    with pytest.raises(ValueError, match="missing values in 20 of 600 rows"):
        mx.moe("a + b ~ u | u", data=table, missing="raise")
    moved = table.assign(b=np.exp(table["b"]))
    one = mx.moe("a + np.log(b) ~ u + v | u + v", data=moved, n_experts=2, n_init=3)
    assert one.spec.y_names == ("a", "np.log(b)")
    again = mx.moe("a + b ~ u + v | u + v", data=table, n_experts=2, n_init=3)
    assert one.llf == pytest.approx(again.llf, abs=1e-6)


def test_results_of_several_responses_are_saved(results, table, tmp_path):
    results.save(tmp_path / "results.mxp")
    again = mx.load(tmp_path / "results.mxp")
    assert again.predict(table).equals(results.predict(table))
    assert again.posterior(table).equals(results.posterior(table))


def test_joint_in_a_formula(table):
    counts = table.assign(n=np.floor(np.exp(0.5 * table["b"].fillna(0.0))))
    res = mx.moe(
        "a + n ~ u | u", data=counts, family=Joint(["gaussian", "poisson"]), n_experts=2, n_init=2
    )
    assert list(res.expert_table.index)[-1] == "scale(a)"
    assert res.nobs == 600
    with pytest.raises(ValueError, match=r"has 3 columns.*take another number"):
        mx.moe("a + n + b ~ u | u", data=counts, family=Joint(["gaussian", "poisson"]))


def test_number_of_experts_is_chosen(table):
    res = mx.moe("a + b ~ u + v | u + v", data=table, n_experts=[1, 2, 3], n_init=2)
    assert res.n_experts == 2


def test_plots_draw_one_response(results, rows):
    ax = results.plot("fit", response="b")
    assert ax.get_ylabel() == "b"
    with pytest.raises(ValueError, match="several responses, 'a', 'b'; name the one"):
        results.plot("fit")
    with pytest.raises(ValueError, match="not a response; available: 'a', 'b'"):
        results.plot("fit", response="c")
    for kind in ("gate", "history", "restarts", "posterior"):
        results.plot(kind)
    X, Y, label = rows
    est = regressor(init=label).fit(X, Y)
    frame = mx.plots.fit_frame(est, X, response=1)
    mixture = frame[frame["component"] == "mixture"]
    assert mixture["lower"].notna().all()
    assert mx.plots.plot_fit(est, X, Y, response="y0").get_ylabel() == "y0"


def test_command_line_predicts_each_response(results, table):
    from mixexperts.cli import predictions

    found = predictions(results, table)
    assert {"a_mean", "a_lower", "b_std", "b_upper"} <= set(found.columns)
    assert_allclose(found["b_mean"], results.predict(table)["b"])
