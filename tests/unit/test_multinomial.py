"""Multinomial logistic experts: two classes, steps, gauge, flat sets, edges."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.information import observed_information
from mixexperts.em.model import em_pass
from mixexperts.em.passes import choose_pass
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts import Binomial, Multinomial
from mixexperts.gates import Softmax
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties import NoPenalty, Ridge

N = 90


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


def batch_of(y, X, **options):
    return Batch(np.asarray(y, dtype=float), {"mean": X}, X, np.ones(len(y)), **options)


def design(rng, n=N, p=2):
    return np.column_stack([np.ones(n), rng.standard_normal((n, p))])


def theta_of(rng, n_experts=2, free=2, p=3):
    gate = np.vstack([rng.standard_normal((n_experts - 1, p)), np.zeros((1, p))])
    return Theta({"coef": gate}, {"coef": rng.standard_normal((n_experts, free, p))})


def overlapping():
    """Rows of two experts and three classes that no features part."""
    return mx.datasets.make_moe_classification(
        1000,
        coef=[[[2.0, 0.5], [0.0, 1.5], [0, 0]], [[-2.0, 0.5], [0.5, -1.0], [0, 0]]],
        intercept=[[0.5, 0.0, 0.0], [-0.5, 0.5, 0.0]],
        gate_coef=[[0.5, 3.0], [0.0, 0.0]],
        random_state=0,
    )[:2]


# --- two classes ------------------------------------------------------------------------------


def test_two_classes_are_binomial_rows(rng):
    """Class 0 is the success: the coefficients are those of its log odds."""
    X, offset = design(rng), rng.standard_normal(N)
    y = rng.integers(0, 2, N).astype(float)
    two, plain = batch_of(y, X, offset=offset), batch_of(1.0 - y, X, offset=offset)
    coef = rng.standard_normal((3, 3))
    family, params = Multinomial(n_classes=2), {"coef": coef[:, None]}
    binomial = Binomial()
    assert_allclose(
        family.log_prob(params, two), binomial.log_prob({"coef": coef}, plain), rtol=1e-12
    )
    weight = rng.uniform(size=(N, 3))
    left = family.accumulate(params, two, weight)
    right = binomial.accumulate({"coef": coef}, plain, weight)
    assert_allclose(left["gram"][:, 0, 0], right["gram"], rtol=1e-11)
    assert_allclose(left["cross"][:, 0], right["cross"], rtol=1e-11, atol=1e-12)
    assert_allclose(left["mass"] - left["fitted"], right["fitted"], rtol=1e-11)
    moved = family.update(params, left, NoPenalty())["coef"][:, 0]
    assert_allclose(moved, binomial.update({"coef": coef}, right, NoPenalty())["coef"], rtol=1e-10)


@pytest.mark.parametrize("n_experts", [1, 2, 4])
def test_two_classes_go_through_the_compiled_pass(rng, n_experts):
    X = design(rng)
    batch = dataclasses.replace(
        batch_of(rng.integers(0, 2, N), X, offset=rng.standard_normal(N)),
        weight=rng.uniform(0.0, 2.0, N),
    )
    model, theta = Model(Softmax(), Multinomial(n_classes=2)), theta_of(rng, n_experts, free=1)
    plain, fused = (choose_pass(model, b)(model, theta, batch) for b in ("numpy", "numba"))
    assert plain.keys() == fused.keys()
    for name, value in plain.items():
        assert_allclose(
            fused[name], value, rtol=0, atol=1e-11 * np.abs(value).max(initial=1.0), err_msg=name
        )
    left, right = (
        observed_information(model, theta, batch, compiled=c)["information"] for c in (True, False)
    )
    assert_allclose(left, right, rtol=0, atol=1e-11 * np.abs(right).max())


# --- sums and steps -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p", "groups"), [(5, 3, 4), (5000, 4, 7), (1, 1, 1), (10, 0, 2)])
def test_many_grams_are_the_grams(rng, n, p, groups):
    X, weight = rng.standard_normal((n, p)), rng.standard_normal((n, groups))
    found = kernels.many_grams(X, weight)
    assert found.shape == (groups, p, p)
    assert_allclose(found, kernels.weighted_gram(X, weight), rtol=0, atol=1e-10)


def test_rows_in_blocks_add_up(rng, monkeypatch):
    family, batch = Multinomial(), batch_of(rng.integers(0, 4, N), design(rng))
    params, weight = theta_of(rng, 3, 3).expert, rng.uniform(size=(N, 3))
    whole = family.accumulate(params, batch, weight)
    monkeypatch.setattr("mixexperts.experts.multinomial._ROWS", 7)
    for name, value in family.accumulate(params, batch, weight).items():
        assert_allclose(value, whole[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_steps_from_afar_do_not_overshoot(rng, scale, alpha):
    """From coefficients that are far off, the expected log-likelihood never falls."""
    X = design(rng)
    family = Multinomial()
    batch = batch_of(rng.integers(0, 3, N), X)
    penalty = Ridge(alpha).scaled(N)
    params = {"coef": scale * rng.standard_normal((1, 2, 3))}
    weight = np.ones((N, 1))

    def value(params):
        pull = penalty.value(family.penalized_coef(params), family.penalized(3))
        return family.log_prob(params, batch).sum() - pull

    values = [value(params)]
    for _ in range(60):
        params = family.update(params, family.accumulate(params, batch, weight), penalty)
        values.append(value(params))
    assert np.diff(values).min() >= -1e-9 * abs(values[0])
    if scale > 10.0:  # so far off that all probabilities are 0 or 1 the way is long
        return
    free = {"coef": np.zeros((1, 2, 3))}
    for _ in range(30):
        free = family.update(free, family.accumulate(free, batch, weight), penalty)
    assert values[-1] == pytest.approx(value(free), abs=1e-8)


def test_the_penalty_knows_no_reference_class(rng):
    X, y = design(rng), rng.integers(0, 3, N)
    penalty = Ridge(2.0)
    fits = []
    for codes in (y, 2 - y):
        family, params = Multinomial(n_classes=3), {"coef": np.zeros((1, 2, 3))}
        batch = batch_of(codes, X)
        for _ in range(30):
            stats = family.accumulate(params, batch, np.ones((N, 1)))
            params = family.update(params, stats, penalty)
        fits.append(family.class_proba(params, batch)[:, 0])
    assert_allclose(fits[0], fits[1][:, ::-1], atol=1e-10)


# --- what the likelihood does not see -------------------------------------------------------------


def test_a_common_shift_changes_nothing(rng):
    """Of the gate's coefficients, and within an expert of those of all classes."""
    X, y = overlapping()
    est = mx.MoEClassifier(2, n_init=2, random_state=0).fit(X, y)
    raw = {
        name: getattr(est, f"{name}_")
        for name in ("coef", "intercept", "gate_coef", "gate_intercept")
    }
    shifted = {
        "coef": raw["coef"] + rng.standard_normal((2, 1, 2)),
        "intercept": raw["intercept"] + rng.standard_normal((2, 1)),
        "gate_coef": raw["gate_coef"] + rng.standard_normal(2),
        "gate_intercept": raw["gate_intercept"] + 1.7,
    }
    again = mx.MoEClassifier(2, init=shifted).fit(X, y)
    assert again.history_[0] == pytest.approx(est.log_likelihood_, abs=1e-8)
    assert not est.coef_[:, -1].any()
    assert not est.intercept_[:, -1].any()


def test_an_expert_without_features_fitted_twice_leaves_a_flat_set(rng):
    """Any two probability vectors that average to the expert's give the same likelihood, and the
    information has lost at least as many directions as there are free probabilities.

    The rows hold each class in proportion to its probability: the truth is the maximum.
    """
    x, free = np.linspace(-2.0, 2.0, 40), 2
    X = np.column_stack([np.ones(120), np.repeat(x, 3)])
    batch = batch_of(np.tile(np.arange(3), 40), X)
    model = Model(Softmax(), Multinomial(n_classes=3))
    share, steep = np.array([0.5, 0.3, 0.2]), np.array([[0.2, 2.0], [-0.4, -1.0]])

    def theta(weights, probabilities):
        """Expert one has slopes; the others are constant and share the gate's slope."""
        gate = np.array([[0.3, 1.5], *([np.log(w), 0.0] for w in weights)])
        coef = [np.column_stack([np.log(q[:2] / q[2]), [0, 0]]) for q in probabilities]
        return Theta({"coef": gate - gate[-1]}, {"coef": np.array([steep, *coef])})

    true = theta([1.0], [share])
    joint = model.log_joint(true, batch)
    batch = dataclasses.replace(batch, weight=10.0 * np.exp(joint).sum(axis=1))
    single = em_pass(model, true, batch)
    n = single["weight"]
    assert np.abs(model.score(true, single)).max() < 1e-10 * n
    tried = 0
    while tried < 100:
        w = rng.uniform(0.2, 0.8)
        first = share + 0.2 * (rng.dirichlet(np.ones(3)) - 1.0 / 3.0)
        second = (share - w * first) / (1.0 - w)
        if second.min() <= 0.01:
            continue
        tried += 1
        double = theta([w, 1.0 - w], [first, second])
        llf = em_pass(model, double, batch)["log_likelihood"]
        assert llf == pytest.approx(single["log_likelihood"], abs=1e-9 * n)
    values = np.linalg.eigvalsh(observed_information(model, double, batch)["information"])
    assert (np.abs(values) < 1e-9 * values[-1]).sum() >= free
    own = np.linalg.eigvalsh(observed_information(model, true, batch)["information"])
    assert own[0] > 1e-6 * own[-1]


def test_counts_of_equal_rows_are_the_rows(rng):
    """Rows with the same features and class, added up as weights."""
    x = np.linspace(-2.0, 2.0, 9)
    label = rng.integers(0, 9, 600)
    y = rng.integers(0, 3, 600)
    rows = batch_of(y, np.column_stack([np.ones(600), x[label]]))
    cells = np.bincount(3 * label + y, minlength=27).astype(float)
    X = np.column_stack([np.ones(27), np.repeat(x, 3)])
    counts = dataclasses.replace(batch_of(np.tile(np.arange(3), 9), X), weight=cells)
    model, theta = Model(Softmax(), Multinomial(n_classes=3)), theta_of(rng, 2, 2, 2)
    left, right = (em_pass(model, theta, b) for b in (rows, counts))
    for name, value in left.items():
        assert_allclose(right[name], value, rtol=0, atol=1e-10 * np.abs(value).max())


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40.0, 800.0, 1e5])
def test_far_out_everything_stays_a_number(size):
    family = Multinomial()
    batch = batch_of([0, 1, 2, 2], np.eye(4))
    for sign in (1.0, -1.0):
        params = {"coef": sign * size * np.stack([np.ones((2, 4)), np.eye(4)[:2]])}
        with np.errstate(all="raise", under="ignore"):
            log_prob = family.log_prob(params, batch)
            stats = family.accumulate(params, batch, np.ones((4, 2)))
        assert np.isfinite(log_prob).all()
        assert (log_prob <= 0.0).all()
        assert all(np.isfinite(value).all() for value in stats.values())
        moved = family.update(params, stats, NoPenalty())
        assert np.isfinite(moved["coef"]).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.5, 2.0], "row 1 holds 1.5"),
        ([0.0, 1.0, -1.0], "row 2 holds -1"),
        ([0.0, np.nan, 1.0], "row 1 holds nan"),
        ([0.0, 1.0, 3.0], "codes 0 to 2 .* row 2 holds 3"),
    ],
)
def test_what_is_no_code_is_refused(y, message):
    with pytest.raises(InvalidResponseError, match=message):
        Multinomial(n_classes=3).check_response(np.array(y))


def test_the_number_of_classes_is_checked():
    for bad in (1, 0, -3):
        with pytest.raises(ValueError, match="n_classes must be an integer >= 2"):
            Multinomial(n_classes=bad)
    for bad in (2.0, True, "3"):
        with pytest.raises(TypeError, match="n_classes"):
            Multinomial(n_classes=bad)
    with pytest.raises(ValueError, match="made for n_classes=3, but y holds 4"):
        Multinomial(n_classes=3).with_classes(4)
    with pytest.raises(InvalidResponseError, match="state n_classes"):
        Multinomial().check_response(np.array([0.0, 150.0]))
    Multinomial(n_classes=200).check_response(np.array([0.0, 150.0]))


def test_a_start_knows_classes_that_its_rows_lack(rng):
    batch = batch_of(rng.integers(0, 2, N), design(rng))
    resp = rng.dirichlet(np.ones(2), N)
    params = Multinomial(n_classes=4).init_params(batch, resp, rng)
    assert params["coef"].shape == (2, 3, 3)
    proba = Multinomial(n_classes=4).class_proba(params, batch)
    assert_allclose(proba.sum(axis=2), 1.0)
    assert proba[:, :, 2:].max() < 0.2


def test_a_class_beyond_the_parameters_has_no_probability(rng):
    family = Multinomial()
    params = theta_of(rng).expert
    batch = batch_of([0.0, 7.0, np.nan, 0.5], design(rng, 4))
    log_prob = family.log_prob(params, batch)
    assert np.isfinite(log_prob[0]).all()
    assert np.isneginf(log_prob[[1, 3]]).all()
    assert np.isnan(log_prob[2]).all()


def test_an_expert_that_lacks_a_class_is_separated(rng):
    X = design(rng, 200)
    y = np.where(X[:, 1] > 0.0, rng.integers(0, 2, 200), rng.integers(1, 3, 200))
    model = Model(Softmax(), Multinomial(n_classes=3))
    theta = Theta(
        model.gate.init_params(batch_of(y, X), np.eye(2)[(X[:, 1] > 0.0).astype(int)], rng),
        model.expert.init_params(batch_of(y, X), np.eye(2)[(X[:, 1] > 0.0).astype(int)], rng),
    )
    result = fit_em(model, batch_of(y, X), theta, monitor=Monitor(max_iter=3000))
    assert result.status == "converged"
    assert result.separated_experts


def test_predictive_of_classes_without_an_order(rng):
    X, y = overlapping()
    est = mx.MoEClassifier(2, n_init=2, random_state=0).fit(X, y)
    predictive = est.predictive(X[:6])
    proba = est.predict_proba(X[:6])
    assert_allclose(predictive.pdf(np.arange(3.0)[None]), proba, rtol=1e-12)
    assert_array_equal(predictive.mode(), proba.argmax(axis=1))
    for row, runs in enumerate(predictive.hdr(0.7)):
        codes = [c for low, high in runs for c in range(int(low), int(high) + 1)]
        assert proba[row, codes].sum() >= 0.7 - 1e-12
    for method in ("mean", "std", "var", "median", "interval", "expert_means", "to_frame"):
        with pytest.raises(UnsupportedCombinationError, match="no order"):
            getattr(predictive, method)()
    with pytest.raises(UnsupportedCombinationError, match="no order"):
        predictive.cdf(1.0)
    drawn = est.predictive(np.tile(X[:1], (20_000, 1))).sample(random_state=0)
    share = np.bincount(drawn.astype(int), minlength=3) / 20_000
    # binomial standard errors below 0.0036: none beyond 4.5 of them
    assert np.abs(share - proba[0]).max() < 4.5 * 0.0036
