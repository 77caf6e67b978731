"""Sigmoid, cosine, top-k, DSelect-k and tree gates against what is known of them."""

import itertools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special
from sklearn.exceptions import ConvergenceWarning

import mixexperts as mx
from mixexperts._batch import Batch, Theta
from mixexperts._design import DesignMap
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.model import em_pass
from mixexperts.errors import DesignError, UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Cosine, DSelectK, Sigmoid, Softmax, TopK, Tree
from mixexperts.gates._codes import balanced, codes, pruned, splits
from mixexperts.penalties import NoPenalty


@pytest.fixture
def rng():
    return np.random.default_rng(20261122)


def design(rng, n=60):
    return np.column_stack([np.ones(n), rng.standard_normal((n, 2))])


def batch_of(Z, y=None):
    y = np.zeros(len(Z)) if y is None else y
    return Batch(y=y, designs={"mean": Z}, Z=Z, weight=np.ones(len(Z)))


def clusters(rng, n=400, n_experts=3, noise=0.4):
    """Two features, a softmax gate in the first, lines as experts."""
    X = rng.standard_normal((n, 2))
    logits = 2.0 * np.outer(X[:, 0], np.linspace(-1, 1, n_experts))
    label = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    slope = np.resize([1.0, -1.0, 0.5], n_experts)
    y = 3.0 * label + slope[label] * X[:, 1] + noise * rng.standard_normal(n)
    return X, y, label


# --- sigmoid -------------------------------------------------------------------------------------


def test_sigmoid_weights_are_shares_of_logistic_curves(rng):
    Z, coef = design(rng), rng.standard_normal((3, 3))
    affinity = special.expit(Z @ coef.T)
    prob = np.exp(Sigmoid().log_prob({"coef": coef}, batch_of(Z)))
    assert_allclose(prob, affinity / affinity.sum(axis=1, keepdims=True), rtol=1e-12)


def test_sigmoid_far_down_is_a_softmax_gate(rng):
    Z, coef = design(rng), rng.standard_normal((3, 3))
    low = coef - [40.0, 0.0, 0.0]
    softmax = Softmax().log_prob({"coef": coef - coef[-1]}, batch_of(Z))
    assert_allclose(Sigmoid().log_prob({"coef": low}, batch_of(Z)), softmax, atol=1e-12)
    huge = Sigmoid().log_prob({"coef": 1e8 * coef}, batch_of(Z))
    assert np.isfinite(huge).all()


def test_sigmoid_keeps_an_even_share(rng):
    """Two experts that share a region evenly: the sigmoid gate can, a plane cannot."""
    n = 3000
    x = rng.uniform(-3.0, 3.0, n)
    affinity = special.expit(np.column_stack([4.0 * (x + 1.0), 4.0 * (1.0 - x)]))
    first = rng.random(n) < affinity[:, 0] / affinity.sum(axis=1)
    y = np.where(first, 4.0, 0.0) + 0.3 * rng.standard_normal(n)
    label = np.where(first, 1, 0)
    X = x[:, None]
    sigmoid = mx.MoERegressor(2, gate="sigmoid", init=label).fit(X, y)
    softmax = mx.MoERegressor(2, gate="softmax", init=label).fit(X, y)
    assert sigmoid.log_likelihood_ > softmax.log_likelihood_ + 20.0
    assert sigmoid.n_parameters_ == softmax.n_parameters_ + 2
    assert sigmoid.gate_coef_[1, 0] == pytest.approx(4.0, abs=1.5)
    assert sigmoid.gate_coef_[0, 0] == pytest.approx(-4.0, abs=1.5)
    inside = np.abs(x) < 0.4
    assert_allclose(sigmoid.gate_proba(X)[inside], 0.5, atol=0.06)


# --- cosine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_experts", [2, 3, 7])
def test_cosine_form_has_the_weights_and_the_bound(rng, n_experts):
    """Scores of the form as stated are bounded by 1 / T and give the gate's weights."""
    gate, t = Cosine(perturbation=0.2), 0.2
    Z = design(rng, 200) * [1.0, 3.0, 0.1]
    coef = np.vstack([rng.normal(size=(n_experts - 1, 3)), np.zeros(3)])
    directions, temperature = gate.cosine_form(coef[:, 1:])
    length = np.linalg.norm(directions, axis=1)
    assert length.max() == pytest.approx(1.0)
    z = Z[:, 1:]
    cosine = z @ directions.T / np.outer(np.linalg.norm(z, axis=1) + t, length + t)
    score = cosine / temperature
    assert np.abs(score).max() < 1.0 / temperature
    log_prob = gate.log_prob({"coef": coef}, batch_of(Z))
    assert_allclose(special.log_softmax(score + coef[:, 0], axis=1), log_prob, atol=1e-12)


def test_cosine_weights_settle_far_away(rng):
    gate, coef = Cosine(), np.vstack([rng.normal(size=(2, 3)), np.zeros(3)])
    Z = design(rng)
    with np.errstate(all="raise"):
        far, farther = (
            gate.log_prob({"coef": coef}, batch_of(Z * [1.0, s, s])) for s in (1e9, 1e300)
        )
    assert_allclose(far, farther, atol=1e-6)
    assert Cosine().cosine_form(np.zeros((3, 2)))[1] == np.inf


def test_cosine_fit_climbs_and_reports(rng):
    X, y, label = clusters(rng)
    est = mx.MoERegressor(3, gate=Cosine(0.5), init=label).fit(X, y)
    assert (np.diff(est.history_) >= -1e-9).all()
    assert est.n_parameters_ == 3 * 4 + 2 * 3
    assert est.gate_terms_ == ("cosine(x0)", "cosine(x1)")
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    u = z / (np.linalg.norm(z, axis=1, keepdims=True) + 0.5)
    logits = u @ est.gate_coef_.T + est.gate_intercept_
    assert_allclose(est.gate_proba(X), special.softmax(logits, axis=1), atol=1e-10)
    with pytest.raises(UnsupportedCombinationError, match="'cosine' has no odds ratios"):
        _ = est.gate_odds_ratios_
    with pytest.raises(DesignError, match="linear combinations"):
        mx.MoERegressor(3, gate="cosine", init=label).fit(np.column_stack([X, X[:, 0]]), y)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_cosine_needs_a_perturbation(value):
    with pytest.raises(ValueError, match="perturbation must be a positive"):
        Cosine(value)


# --- top-k ---------------------------------------------------------------------------------------


def test_top_k_is_the_softmax_of_the_largest(rng):
    Z, coef = design(rng), np.vstack([rng.normal(size=(4, 3)), np.zeros(3)])
    logits = Z @ coef.T
    for k in (2, 3, 4):
        log_prob = TopK(k).log_prob({"coef": coef}, batch_of(Z))
        order = np.argsort(-logits, axis=1)
        for i, row in enumerate(order):
            assert_allclose(log_prob[i, row[:k]], special.log_softmax(logits[i, row[:k]]))
            assert np.isneginf(log_prob[i, row[k:]]).all()
    for k in (5, 9):
        dense = Softmax().log_prob({"coef": coef}, batch_of(Z))
        assert_allclose(TopK(k).log_prob({"coef": coef}, batch_of(Z)), dense)
    tied = TopK(2).log_prob({"coef": np.zeros((3, 3))}, batch_of(Z))
    assert_allclose(tied, -np.log(3.0))


def test_top_k_refuses_what_has_no_gradient():
    with pytest.raises(ValueError, match="k=1 gives every row to one expert"):
        TopK(1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        TopK(0)
    with pytest.raises(TypeError, match="k must be an integer"):
        TopK(2.0)


def sparse_gates():
    return [TopK(2), DSelectK(1), DSelectK(2)]


@pytest.mark.parametrize("gate", sparse_gates(), ids=repr)
def test_e_step_copes_with_weights_of_zero(gate, rng):
    """Responsibilities are zero, not NaN, where the gate gives none; the objective is finite."""
    X, y, label = clusters(rng, n_experts=4)
    Z = np.column_stack([np.ones(len(X)), X])
    batch, model = batch_of(Z, y), Model(gate, Gaussian())
    resp = np.eye(4)[label]
    theta = Theta(gate.init_params(batch, resp, rng), Gaussian().init_params(batch, resp, rng))
    packed = gate.pack(theta.gate)
    theta = Theta(gate.unpack(4.0 * packed, theta.gate), theta.expert)
    log_prob = gate.log_prob(theta.gate, batch)
    assert np.isneginf(log_prob).any()
    assert_allclose(np.logaddexp.reduce(log_prob, axis=1), 0.0, atol=1e-14)
    found = em_pass(model, theta, batch)
    assert all(np.isfinite(value).all() for value in found.values())
    assert np.isfinite(model.pack(model.map_step(theta, found))).all()


@pytest.mark.parametrize("gate", sparse_gates(), ids=repr)
def test_sparse_fits_are_monotone_and_predict(gate, rng):
    X, y, label = clusters(rng, n_experts=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        est = mx.MoERegressor(4, gate=gate, n_init=3, random_state=0, backend="numpy").fit(X, y)
        est.set_params(init=label).fit(X, y)
    assert est.status_ == "converged"
    assert (np.diff(est.history_) >= -1e-9).all()
    assert est.active_experts(X) < 4.0
    assert (est.gate_proba(X) == 0.0).any()
    assert np.isfinite(est.predict(X)).all()
    resp = est.responsibilities(X, y)
    assert_allclose(resp.sum(axis=1), 1.0)
    predictive = est.predictive(X[:5])
    assert np.isfinite(predictive.ppf(0.3)).all()
    assert_allclose(predictive.mean(), est.predict(X[:5]), rtol=1e-10)
    assert np.isfinite(est.icl(X, y))
    with pytest.raises(UnsupportedCombinationError, match="has no odds ratios"):
        _ = est.gate_odds_ratios_


def test_top_k_run_ends_where_no_step_along_the_update_rises(rng):
    X, y, label = clusters(rng, n_experts=4)
    Z = np.column_stack([np.ones(len(X)), X])
    batch, model = batch_of(Z, y), Model(TopK(2), Gaussian())
    resp = np.eye(4)[label]
    theta = Theta(
        model.gate.init_params(batch, resp, rng), model.expert.init_params(batch, resp, rng)
    )
    result = fit_em(model, batch, theta, monitor=Monitor(max_iter=500))
    assert result.status == "converged"
    assert result.n_iter < 500
    # The experts are at their maximum given the gate: theirs is an ordinary EM.
    found = em_pass(model, result.theta, batch)
    step = model.expert.pack(model.map_step(result.theta, found).expert)
    cut = model.gate.n_params(result.theta.gate)
    score = model.score(result.theta, found)[cut:]
    assert abs(score @ (step - model.expert.pack(result.theta.expert))) < 1e-3


# --- DSelect-k -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_experts", [2, 3, 4, 5, 6, 7, 8, 11, 16])
def test_codes_leave_no_word_unused(n_experts):
    """Each of the 2^m words belongs to one expert."""
    table = codes(n_experts)
    depth = int(np.ceil(np.log2(n_experts)))
    assert table.shape == (n_experts, depth)
    for word in itertools.product((0, 1), repeat=depth):
        fits = ((table == -1) | (table == word)).all(axis=1)
        assert fits.sum() == 1


def selector_params(gate, n_experts, rng, size=1.0, columns=3):
    code = codes(n_experts)
    k, depth = min(gate.k, n_experts), code.shape[1]
    return gate._tiled(code, size * rng.standard_normal((k * (1 + depth) - 1, columns)))


@pytest.mark.parametrize("n_experts", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_selectors_sum_to_one_and_decide(n_experts, k, rng):
    gate, Z = DSelectK(k), design(rng, 300)
    params = selector_params(gate, n_experts, rng)
    weights = np.exp(gate.log_prob(params, batch_of(Z)))
    assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    decided = selector_params(gate, n_experts, rng, size=1e6)
    active = (np.exp(gate.log_prob(decided, batch_of(Z))) > 0.0).sum(axis=1)
    eta = Z @ gate.predictors(decided).T
    bits = np.abs(eta[:, min(k, n_experts) - 1 :])
    assert (bits >= 3.0).all()
    assert active.max() <= k


def test_smooth_step_is_the_published_one(rng):
    """S(t) = -2 t^3 / g^3 + 3 t / (2 g) + 1/2 within half the width g, flat beyond."""
    z = np.linspace(-4.0, 4.0, 81)
    Z = np.column_stack([np.ones(81), z])
    params = DSelectK(1)._tiled(codes(2), np.array([[0.0, 1.0]]))
    weight = np.exp(DSelectK(1).log_prob(params, batch_of(Z)))[:, 1]
    g = 6.0
    cubic = -2.0 * z**3 / g**3 + 3.0 * z / (2.0 * g) + 0.5
    right = np.where(z <= -g / 2, 0.0, np.where(z >= g / 2, 1.0, cubic))
    assert_allclose(weight, right, atol=1e-14)


@pytest.mark.parametrize("n_experts", [2, 3, 4, 5])
def test_weights_are_differentiable_also_at_the_joints(n_experts, rng):
    """Gradient of the weights against differences, with predictors on the joints of the steps."""
    gate = DSelectK(2)
    params = selector_params(gate, n_experts, rng, columns=1)
    rows = gate.predictors(params).copy()
    rows[1] = 3.0  # the first bit of the first selector stands on a joint
    params = gate.with_predictors(params, rows)
    batch, here = batch_of(np.ones((1, 1))), gate.pack(params)

    def weights(vector):
        return np.exp(gate.log_prob(gate.unpack(vector, params), batch))[0]

    h = 1e-6
    for k in range(n_experts):
        target = np.eye(n_experts)[[k]]
        prob = weights(here)[k]
        slope = [
            (weights(here + e)[k] - weights(here - e)[k]) / (2 * h) for e in h * np.eye(len(here))
        ]
        if prob > 0.0:  # the score is that of the log weight
            score = gate.score(params, gate.accumulate(params, batch, target))
            assert_allclose(prob * score, slope, atol=1e-6)
        else:
            assert_allclose(slope, 0.0, atol=1e-6)


@pytest.mark.parametrize("n_experts", [2, 3, 4, 6])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_selector_hessian_and_entropy(n_experts, entropy, rng):
    """Second derivatives of the expected log-likelihood less the entropies, by differences."""
    gate, Z = DSelectK(2, entropy), design(rng, 30)
    params = selector_params(gate, n_experts, rng, size=0.3)
    batch, weight = batch_of(Z), rng.dirichlet(np.ones(n_experts), 30)
    here = gate.pack(params)

    def value(vector):
        point = gate.unpack(vector, params)
        lost = gate.accumulate(point, batch, weight).get("penalty", 0.0)
        return np.sum(weight * gate.log_prob(point, batch)) - lost

    def score(vector):
        point = gate.unpack(vector, params)
        return gate.score(point, gate.accumulate(point, batch, weight))

    h = 1e-5
    each = h * np.eye(len(here))
    slope = [(value(here + e) - value(here - e)) / (2 * h) for e in each]
    assert_allclose(score(here), slope, rtol=1e-6, atol=1e-6)
    second = np.array([(score(here + e) - score(here - e)) / (2 * h) for e in each])
    assert_allclose(gate.accumulate(params, batch, weight)["curvature"], -second, atol=1e-5)


def test_entropy_is_that_of_the_selectors(rng):
    gate, Z = DSelectK(2, entropy=0.7), design(rng, 30)
    params = selector_params(gate, 4, rng, size=0.3)
    eta = Z @ gate.predictors(params).T
    t = eta[:, 1:].reshape(30, 2, 2) / 6.0 + 0.5
    step = 3.0 * t**2 - 2.0 * t**3
    bits = step * np.log(step) + (1.0 - step) * np.log(1.0 - step)
    lost = gate.accumulate(params, batch_of(Z), rng.dirichlet(np.ones(4), 30))["penalty"]
    assert lost == pytest.approx(-0.7 * bits.sum(), rel=1e-10)


def test_entropy_makes_selectors_decide(rng):
    """The penalised objective rises in every pass, and more rows have one expert per selector."""
    X, y, label = clusters(rng, n_experts=4)
    fits = [
        mx.MoERegressor(4, gate=DSelectK(2, entropy), init=label, backend="numpy").fit(X, y)
        for entropy in (0.0, 0.2)
    ]
    assert all((np.diff(est.history_) >= -1e-9).all() for est in fits)
    assert fits[1].active_experts(X) < fits[0].active_experts(X)
    assert fits[1].log_likelihood_ <= fits[0].log_likelihood_ + 1e-6
    assert fits[1].objective_ < fits[1].log_likelihood_


@pytest.mark.parametrize("n_experts", [3, 4, 5])
def test_as_many_selectors_as_experts_have_any_constant_weights(n_experts, rng):
    wanted = rng.dirichlet(np.ones(n_experts))
    gate, code = DSelectK(n_experts), codes(n_experts)
    shares = np.log(wanted[:-1] / wanted[-1])
    bits = np.where(code == 1, 4.0, -4.0).ravel()
    params = gate._tiled(code, np.append(shares, bits)[:, None])
    assert_allclose(np.exp(gate.log_prob(params, batch_of(np.ones((1, 1)))))[0], wanted)


@pytest.mark.parametrize("bad", [{"k": 0}, {"entropy": -1.0}, {"entropy": np.inf}])
def test_dselect_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DSelectK(**bad)


# --- trees ---------------------------------------------------------------------------------------


def test_shapes():
    assert balanced(range(4)) == ((0, 1), (2, 3))
    assert balanced(range(3)) == (0, (1, 2))
    assert pruned(((0, 3), (1, 2)), 3) == (0, (1, 2))
    assert pruned(((0, 3), (1, 2)), 2) == (0, 1)
    assert pruned(((0, 3), (1, 2)), 1) == 0
    found = splits((0, (1, 2, 3)), 4)
    assert found[0].tolist() == [[True, False, False, False], [False, True, True, True]]
    assert len(found) == 2
    assert found[1].shape == (3, 4)


@pytest.mark.parametrize(
    ("structure", "error", "match"),
    [
        ((0, 2), ValueError, "each of the leaves 0, 1, ... once"),
        ((0, (1, 1)), ValueError, "each of the leaves 0, 1, ... once"),
        ((0, (1,)), ValueError, "a split with 1 branches"),
        ((0, "1"), TypeError, "nested tuple of the leaves"),
        ((0, True), TypeError, "nested tuple of the leaves"),
    ],
)
def test_structures_are_checked(structure, error, match):
    with pytest.raises(error, match=match):
        Tree(structure)


def test_structure_must_have_a_leaf_for_each_expert(rng):
    X, y, _ = clusters(rng)
    with pytest.raises(ValueError, match="has 4 leaves, but n_experts=3"):
        mx.MoERegressor(3, gate=Tree(((0, 1), (2, 3)))).fit(X, y)


def test_weights_are_products_along_the_path(rng):
    Z, coef = design(rng), np.vstack([rng.normal(size=(3, 3)), np.zeros(3)])
    gate = Tree(((0, 1), (2, 3)))
    leaf = np.array([2, 0, 3, 1])
    prob = np.exp(gate.log_prob({"coef": coef, "leaf": leaf}, batch_of(Z)))
    top, left, right = special.expit(Z @ coef[:3].T).T
    by_leaf = np.column_stack(
        [top * left, top * (1 - left), (1 - top) * right, (1 - top) * (1 - right)]
    )
    assert_allclose(prob, by_leaf[:, leaf], rtol=1e-12)


def test_a_split_over_all_experts_is_a_softmax_gate(rng):
    X, y, label = clusters(rng)
    options = {"init": label, "backend": "numpy", "tol": 1e-10}
    star = mx.MoERegressor(3, gate=Tree((0, 1, 2)), **options).fit(X, y)
    softmax = mx.MoERegressor(3, **options).fit(X, y)
    assert star.log_likelihood_ == pytest.approx(softmax.log_likelihood_, abs=1e-7)
    assert star.n_parameters_ == softmax.n_parameters_
    assert star.bic(X, y) == pytest.approx(softmax.bic(X, y), abs=1e-6)
    two = label > 0
    pair = mx.MoERegressor(2, gate="tree", **(options | {"init": two})).fit(X, y)
    plain = mx.MoERegressor(2, **(options | {"init": two})).fit(X, y)
    assert pair.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-6)


def tree_data(rng, n=6000):
    """Leaves (0, 1) lie left of zero and part at x1 = 1, (2, 3) right of it and part at -1.

    Borders of a linear softmax gate cannot be offset like that.
    """
    X = rng.standard_normal((n, 2))
    right = rng.random(n) < special.expit(4.0 * X[:, 0])
    up = rng.random(n) < special.expit(4.0 * (X[:, 1] + np.where(right, 1.0, -1.0)))
    label = 2 * right + up
    y = 4.0 * label + 0.5 * rng.standard_normal(n)
    return X, y, label


def test_a_tree_recovers_a_tree(rng):
    X, y, label = tree_data(rng)
    options = {"init": label, "backend": "numpy"}
    tree = mx.MoERegressor(4, gate=Tree(((0, 1), (2, 3))), **options).fit(X, y)
    softmax = mx.MoERegressor(4, **options).fit(X, y)
    assert tree.n_parameters_ == softmax.n_parameters_ == 4 * 4 + 3 * 3
    # Here experts are 0, 1, 2, 3 in order, whatever leaves they took.
    leaf = tree.gate_leaf_.astype(int)
    assert {frozenset(leaf[:2]), frozenset(leaf[2:])} == {frozenset({0, 1}), frozenset({2, 3})}
    assert tree.log_likelihood_ > softmax.log_likelihood_ + 30.0
    sign = 1.0 if leaf[0] < 2 else -1.0  # log odds of the branch with leaves 0 and 1
    root = sign * np.append(tree.gate_split_intercept_[0], tree.gate_split_coef_[0])
    error = root - [0.0, -4.0, 0.0]
    # Standard errors from the information of a logistic regression.
    Z = np.column_stack([np.ones(len(X)), X])
    p = special.expit(4.0 * X[:, 0])
    spread = np.sqrt(np.diag(np.linalg.inv(Z.T @ (Z * (p * (1 - p))[:, None]))))
    assert (np.abs(error) < 4.5 * spread).all()


def test_tree_from_scratch_beats_its_truth(rng):
    """Ordinary starts find a solution at least as good as the fit from the true labels."""
    X, y, label = tree_data(rng, n=1500)
    truth = mx.MoERegressor(4, gate="tree", init=label, backend="numpy").fit(X, y)
    est = mx.MoERegressor(4, gate="tree", n_init=12, random_state=0, backend="numpy").fit(X, y)
    assert est.log_likelihood_ >= truth.log_likelihood_ - 1e-3


def test_tree_update_is_the_newton_step_of_each_split(rng):
    """From zero, each split moves as a logistic regression weighted by its rows would."""
    Z = design(rng, 200)
    gate, weight = Tree(((0, 1), (2, 3))), rng.dirichlet(np.ones(4), 200)
    params = {"coef": np.zeros((4, 3)), "leaf": np.arange(4)}
    batch = batch_of(Z)
    new = gate.update(params, gate.accumulate(params, batch, weight), NoPenalty())["coef"]
    for row, (own, other) in enumerate([((0, 1), (2, 3)), ((0,), (1,)), ((2,), (3,))]):
        up, down = weight[:, own].sum(axis=1), weight[:, other].sum(axis=1)
        total = up + down
        step = np.linalg.solve(Z.T @ (Z * (0.25 * total)[:, None]), Z.T @ (up - 0.5 * total))
        assert_allclose(new[row], step, rtol=1e-9)


def test_neutral_tree_weighs_all_the_same():
    design_map = DesignMap.fit(np.arange(6.0)[:, None], np.ones(6), ("x",))
    for gate, n_experts in ((Tree(), 3), (Tree(), 5), (Tree((0, (1, 2, 3))), 4)):
        params = gate.engine(gate.neutral_raw(n_experts, design_map), design_map)
        Z = design_map.transform(np.arange(6.0)[:, None])
        assert_allclose(gate.log_prob(params, batch_of(Z)), -np.log(n_experts), rtol=1e-12)
