"""What every expert family must satisfy, whatever it is."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

from mixexperts._archive import read_archive, write_archive
from mixexperts._registry import all_components, register, resolve
from mixexperts.errors import InvalidResponseError, UnsupportedCombinationError
from mixexperts.experts import Expert
from mixexperts.gates import Constant

# The trapezoid rule in t, with y = centre + width * sinh(t), converges geometrically for
# smooth densities; a density that jumps costs up to one panel.
PANELS = 20_001
SMOOTH_TOL = 1e-8
# 40000 draws: a mean lies within 4.5 standard errors but for 1e-5 of the cases.
DRAWS = 40_000
ERRORS = 4.5
HALVINGS = 40


def predictor(params, batch):
    return batch.X @ params["coef"].T + batch.offset[:, None]


def three_classes(params, batch):
    odds = np.exp(batch.X @ params["coef"].swapaxes(1, 2) + batch.offset[:, None]).swapaxes(0, 1)
    odds = np.concatenate([odds, np.ones_like(odds[:, :, :1])], axis=2)
    return odds / odds.sum(axis=2, keepdims=True)


def scipy_beta(expert, params, batch):
    mean = special.expit(predictor(params, batch))
    precision = params["precision"]
    return stats.beta.logpdf(batch.y[:, None], mean * precision, (1.0 - mean) * precision)


def scipy_inverse_gaussian(expert, params, batch):
    size = 1.0 / params["dispersion"]
    mean = np.exp(predictor(params, batch))
    return stats.invgauss.logpdf(batch.y[:, None], mean / size, scale=size)


SCIPY_LOG_PROB = {
    "gaussian": lambda expert, params, batch: stats.norm.logpdf(
        batch.y[:, None], expert.mean(params, batch), params["scale"]
    ),
    "student_t": lambda expert, params, batch: stats.t.logpdf(
        batch.y[:, None], params["df"], predictor(params, batch), params["scale"]
    ),
    "skew_normal": lambda expert, params, batch: stats.skewnorm.logpdf(
        batch.y[:, None], params["skewness"], predictor(params, batch), params["scale"]
    ),
    "poisson": lambda expert, params, batch: stats.poisson.logpmf(
        batch.y[:, None], np.exp(predictor(params, batch))
    ),
    "multinomial": lambda expert, params, batch: stats.multinomial.logpmf(
        np.eye(3)[batch.y.astype(int)][:, None], 1, three_classes(params, batch)
    ),
    "ordinal": lambda expert, params, batch: np.log(
        np.diff(
            special.expit(
                np.pad(params["threshold"], ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
                - predictor(params, batch)[:, :, None]
            ),
            axis=2,
        )[np.arange(batch.n_rows), :, batch.y.astype(int)]
    ),
    "binomial": lambda expert, params, batch: stats.binom.logpmf(
        batch.y[:, :1], batch.y.sum(axis=1)[:, None], special.expit(predictor(params, batch))
    ),
    "beta": scipy_beta,
    "exponential": lambda expert, params, batch: stats.expon.logpdf(
        batch.y[:, None], scale=np.exp(predictor(params, batch))
    ),
    "gamma": lambda expert, params, batch: stats.gamma.logpdf(
        batch.y[:, None],
        params["shape"],
        scale=np.exp(predictor(params, batch)) / params["shape"],
    ),
    "inverse_gaussian": scipy_inverse_gaussian,
    "log_normal": lambda expert, params, batch: stats.lognorm.logpdf(
        batch.y[:, None], params["scale"], scale=np.exp(predictor(params, batch))
    ),
    "weibull": lambda expert, params, batch: stats.weibull_min.logpdf(
        batch.y[:, None], params["shape"], scale=np.exp(predictor(params, batch))
    ),
}


@pytest.fixture(params=[False, True], ids=["plain", "offset"])
def setting(request, expert, case):
    """Parameters, and a batch whose responses are values of the predictive distribution."""
    kind = "offset" if request.param else "plain"
    _, theta, batch = case(Constant(), expert, kind)
    label = np.arange(batch.n_rows) % len(next(iter(theta.expert.values())))
    rng = np.random.default_rng(1)
    value = expert.sample(theta.expert, batch, label, rng)
    while (out := ~expert.admits(expert.response_at(batch.y, value))).any():
        value[out] = expert.sample(theta.expert, batch, label, rng)[out]
    return expert, theta.expert, at(expert, batch, value)


def at(expert, batch, value):
    """The batch with other values of the response, such as successes out of the same trials."""
    return dataclasses.replace(batch, y=expert.response_at(batch.y, value))


def one_row(expert, batch, row, value):
    """The batch of ``len(value)`` copies of a row, with responses of their own."""
    rows = np.full(len(value), row)
    return dataclasses.replace(
        batch,
        y=expert.response_at(batch.y[rows], value),
        designs={name: design[rows] for name, design in batch.designs.items()},
        Z=batch.Z[rows],
        weight=np.ones(len(value)),
        offset=None if batch.offset is None else batch.offset[rows],
    )


def is_lattice(expert, params, batch, rng):
    drawn = expert.sample(params, batch, np.zeros(batch.n_rows, dtype=int), rng)
    return bool((drawn == np.round(drawn)).all())


def blank(expert, batch, n):
    """Placeholders of n values, (n,) or of a multivariate family (n, d)."""
    return np.zeros((n, batch.y.shape[1])) if expert.multivariate else np.zeros(n)


def several_nodes(expert, params, batch, row, k):
    """Points and weights that sum a density over all responses of a multivariate family."""
    mean, width = expert.mean(params, batch)[row, k], expert.variance(params, batch)[row, k] ** 0.5
    axes = []
    for j, lattice in enumerate(expert.discrete_columns(len(mean))):
        t = np.linspace(-6.0, 6.0, 481)
        y, weight = mean[j] + width[j] * np.sinh(t), (t[1] - t[0]) * width[j] * np.cosh(t)
        axes.append((np.arange(300.0), np.ones(300)) if lattice else (y, weight))
    points = np.stack([g.ravel() for g in np.meshgrid(*(y for y, _ in axes))], axis=1)
    weights = np.prod([g.ravel() for g in np.meshgrid(*(w for _, w in axes))], axis=0)
    return points, weights


def offers(expert, method):
    return getattr(type(expert), method) is not getattr(Expert, method)


def spread(expert, params, batch, rng):
    """Standard deviations (n, K), or what stands for them where the family has none.

    Where variances are infinite the widths of the middle of the distribution; for a family
    without variance the deviations of its samples.
    """
    if offers(expert, "variance"):
        variance = expert.variance(params, batch)
        if np.isfinite(variance).all():
            return np.sqrt(variance)
        ends = (expert.quantile(params, batch, p) for p in (0.75, 0.25))
        return np.where(np.isfinite(variance), np.sqrt(variance), np.subtract(*ends))
    labels = (np.full(batch.n_rows, k) for k in range(expert.mean(params, batch).shape[1]))
    deviations = [expert.sample(params, batch, k, rng).std() for k in labels]
    return np.tile(deviations, (batch.n_rows, 1))


def test_scipy_table_names_registered_families():
    assert SCIPY_LOG_PROB.keys() <= all_components("expert").keys()
    assert "gaussian" in all_components("expert")


@pytest.mark.parametrize("name", sorted(SCIPY_LOG_PROB))
def test_log_prob_is_that_of_scipy(name, case):
    expert = resolve("expert", name, "expert")
    _, theta, batch = case(Constant(), expert, "everything")
    known = SCIPY_LOG_PROB[name](expert, theta.expert, batch)
    assert_allclose(expert.log_prob(theta.expert, batch), known, rtol=1e-12, atol=1e-12)


def nodes(support, centre, width):
    """Values of y over the support, and the weights of the trapezoid rule at them."""
    if np.isinf(support).all():
        t = np.linspace(-30.0, 30.0, PANELS)
        return centre + width * np.sinh(t), width * np.cosh(t) * (t[1] - t[0])
    t = np.linspace(-7.0, 7.0, PANELS)  # of log y, or of log odds
    u, slope = np.sinh(t), np.cosh(t) * (t[1] - t[0])
    if np.isinf(support[1]):
        y = centre * np.exp(u)
        return support[0] + y, y * slope
    assert support == (0.0, 1.0)
    u = np.log(centre / (1.0 - centre)) + u
    inside = np.abs(u) < 36.0  # nearer to one there are no floats
    y = special.expit(u[inside])
    return y, y * special.expit(-u[inside]) * slope[inside]


def test_density_integrates_to_one(setting, rng):
    expert, params, batch = setting
    for row in range(3):
        mean = expert.mean(params, batch)[row]
        if expert.multivariate:
            mass = np.empty(len(mean))
            for k in range(len(mean)):
                y, node = several_nodes(expert, params, batch, row, k)
                density = np.exp(expert.log_prob(params, one_row(expert, batch, row, y))[:, k])
                mass[k] = density @ node
        elif is_lattice(expert, params, batch, rng):
            y = np.arange(0.0, 2000.0)
            mass = np.exp(expert.log_prob(params, one_row(expert, batch, row, y))).sum(axis=0)
        else:
            widths = spread(expert, params, batch, rng)[row]
            mass, allowed = np.empty(len(mean)), np.full(len(mean), SMOOTH_TOL)
            for k, centre in enumerate(mean):
                y, step = nodes(expert.support, centre, widths[k])
                density = np.exp(expert.log_prob(params, one_row(expert, batch, row, y))[:, k])
                mass[k] = np.sum(density * step)
                if expert.support == (0.0, 1.0):  # what lies nearer to the ends than floats do
                    ends = y[[0, -1]]
                    allowed[k] += 20.0 * np.sum(density[[0, -1]] * ends * (1.0 - ends))
                jumps = np.abs(np.diff(density)) > 0.5 * density.max()
                jumps |= (density[1:] > 0.0) != (density[:-1] > 0.0)  # the ends of a window
                if jumps.any():  # each costs up to a panel
                    panels = density * step
                    beside = np.maximum(panels[1:], panels[:-1])[jumps]
                    allowed[k] = max(SMOOTH_TOL, 2.0 * beside.sum())
            assert (np.abs(mass - 1.0) <= allowed).all(), mass
            continue
        assert_allclose(mass, 1.0, rtol=0, atol=SMOOTH_TOL)


def test_samples_have_the_mean_and_the_variance(setting, rng):
    expert, params, batch = setting
    for row, k in ((0, 0), (1, 2)):
        many = one_row(expert, batch, row, blank(expert, batch, DRAWS))
        drawn = expert.sample(params, many, np.full(DRAWS, k), rng)
        deviation = drawn - expert.mean(params, batch)[row, k]
        allowed = ERRORS * deviation.std(axis=0) / np.sqrt(DRAWS)
        assert (abs(deviation.mean(axis=0)) <= allowed).all()
        if offers(expert, "variance"):
            square = deviation**2
            variance = expert.variance(params, batch)[row, k]
            allowed = ERRORS * square.std(axis=0) / np.sqrt(DRAWS)
            # the variance of samples from an infinite one grows with their number
            near = abs(square.mean(axis=0) - variance) <= allowed
            assert (near | np.isinf(variance)).all()


def test_samples_come_from_the_expert_that_the_label_names(setting, rng):
    """Each row has its own label, and its own mean: standardised draws have mean zero."""
    expert, params, batch = setting
    if not offers(expert, "variance"):
        return
    n_experts = expert.mean(params, batch).shape[1]
    label = np.arange(batch.n_rows) % n_experts
    rows = np.arange(batch.n_rows)
    mean = expert.mean(params, batch)[rows, label]
    scale = np.sqrt(expert.variance(params, batch)[rows, label])
    assert np.isfinite(scale).all()
    scale = np.where(scale > 0.0, scale, 1.0)  # of a single value
    draws = np.stack([expert.sample(params, batch, label, rng) for _ in range(400)])
    z = ((draws - mean) / scale).mean(axis=0) * np.sqrt(400)
    # 80 standard normals or so: none beyond 5 (1e-6 each, doubled).
    assert np.abs(z).max() < 5.0


def test_cdf_and_quantile_are_inverse(setting, rng):
    expert, params, batch = setting
    if not offers(expert, "cdf"):
        with pytest.raises(UnsupportedCombinationError, match=expert.name):
            expert.cdf(params, batch)
        return
    lattice = is_lattice(expert, params, batch, rng)
    for probability in (1e-9, 0.025, 0.5, 0.7, 0.999):
        quantile = expert.quantile(params, batch, probability)
        for k in range(quantile.shape[1]):
            reached = expert.cdf(params, at(expert, batch, quantile[:, k]))[:, k]
            if lattice:
                below = at(expert, batch, quantile[:, k] - 1.0)
                assert (reached >= probability * (1 - 1e-9)).all()
                assert (expert.cdf(params, below)[:, k] < probability * (1 + 1e-9)).all()
            else:
                # as near as the quantile, a float, can come to its place
                density = np.exp(expert.log_prob(params, at(expert, batch, quantile[:, k]))[:, k])
                near = 1e-9 * probability + 4.0 * density * np.spacing(np.abs(quantile[:, k]))
                assert (np.abs(reached - probability) <= near).all()


def test_marginals_are_those_of_the_responses_together(setting, rng):
    """Means, variances, and the density of a response with the others summed out."""
    expert, params, batch = setting
    if not expert.multivariate:
        return
    d = batch.y.shape[1]
    covariance = expert.covariance_within(params, batch)
    assert_allclose(np.diagonal(covariance, axis1=2, axis2=3), expert.variance(params, batch))
    for j in range(d):
        family, own = expert.marginal(params, j)
        alone = dataclasses.replace(batch, y=batch.y[:, j])
        assert_allclose(family.mean(own, alone), expert.mean(params, batch)[:, :, j], rtol=1e-13)
        assert_allclose(family.variance(own, alone), covariance[:, :, j, j], rtol=1e-13)
        # a response that is missing is summed out
        lost = np.full_like(batch.y, np.nan)
        lost[:, j] = batch.y[:, j]
        left = expert.log_prob(params, dataclasses.replace(batch, y=lost))
        assert_allclose(left, family.log_prob(own, alone), rtol=1e-12, atol=1e-12)


def test_cdf_is_the_integral_of_the_density(setting, rng):
    expert, params, batch = setting
    if not offers(expert, "cdf") or is_lattice(expert, params, batch, rng):
        return
    # Densities bend within their spread, and within the distance to an end of the support.
    value = expert.point_response(batch.y)
    reach = np.abs(value[:, None] - np.array(expert.support)).min(axis=1)
    step = 2e-5 * np.minimum(spread(expert, params, batch, rng).min(), reach)
    up = expert.cdf(params, at(expert, batch, value + step))
    down = expert.cdf(params, at(expert, batch, value - step))
    density = np.exp(expert.log_prob(params, batch))
    # Second-order differences: error step^2 f'' / 6 < 1e-8 of the largest density, also where
    # that bends within a hundredth of the spread, and rounding 1e-16 / step.
    assert_allclose(
        (up - down) / (2 * step[:, None]), density, rtol=0, atol=1e-7 * max(1, density.max())
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refused_response_raises(setting, bad):
    expert, _, batch = setting
    y = np.array(batch.y)
    y[3] = bad
    expert.check_response(batch.y)
    with pytest.raises(InvalidResponseError, match="y"):
        expert.check_response(y)


@pytest.mark.parametrize("value", [-1.5, -1.0, 0.0, 0.25, 1.0, 2.0, 7.5, 1e6])
def test_accepted_response_has_a_density(setting, value):
    """Either the family refuses a value, or its log density there is finite.

    One that is partial may leave the value to other experts.
    """
    expert, params, batch = setting
    y = np.array(batch.y)
    y[3] = value
    try:
        expert.check_response(y)
    except InvalidResponseError:
        return
    log_prob = expert.log_prob(params, dataclasses.replace(batch, y=y))
    assert (np.isfinite(log_prob) | (expert.partial & np.isneginf(log_prob))).all()


def expected_log_likelihood(expert, params, batch, weight, penalty):
    pull = 0.0
    if "coef" in params:
        coef = expert.penalized_coef(params)
        pull = penalty.value(coef, expert.penalized(coef.shape[1]))
    return float(np.sum(weight * expert.log_prob(params, batch))) - pull


# Updates until the gradient has to be gone; and for penalties, which have kinks, a few.
MOST_UPDATES = 1500
FEW_UPDATES = 30


def test_updates_never_lower_the_expected_log_likelihood(expert, penalty, kind, case, rng):
    """Each update rises, or where the family promises no more, a halving of it does.

    Updates that rise by themselves end at the maximum. Those that are only directions of ascent
    may crawl where parameters are coupled, and leave the end to Newton's steps: as long as there
    is a gradient they must go uphill.
    """
    _, theta, batch = case(Constant(), expert, kind)
    penalty = penalty.scaled(1000.0)
    resp = rng.dirichlet(np.ones(3), batch.n_units)
    weight = batch.spread_units(resp * batch.weight[:, None])
    params = theta.expert
    here, values = expert.pack(params), []
    rounding = None
    to_the_end = penalty.is_null and expert.update_rises()
    for _ in range(MOST_UPDATES if to_the_end else FEW_UPDATES):
        value = expected_log_likelihood(expert, params, batch, weight, penalty)
        rounding = rounding or 1e-13 * batch.n_rows * max(1.0, abs(value))
        values.append(value)
        stats_ = expert.accumulate(params, batch, weight)
        score = expert.score(params, stats_)
        if penalty.is_null and np.abs(score).max(initial=0.0) < 1e-6 * weight.sum():
            break
        moved = expert.update(params, stats_, penalty)
        reached = expected_log_likelihood(expert, moved, batch, weight, penalty)
        step = expert.pack(moved) - here
        if not expert.update_rises():
            if penalty.is_null:
                assert score @ step > 0.0
            for _ in range(40):
                if reached >= value - rounding:
                    break
                step = 0.5 * step
                moved = expert.unpack(here + step, params)
                reached = expected_log_likelihood(expert, moved, batch, weight, penalty)
        params, here = moved, expert.pack(moved)
    if not expert.n_params(params):
        return
    assert np.diff(values).min() >= -rounding
    assert values[1] > values[0]
    # repeated updates stand at the maximum: the gradient with fixed weights is gone
    if to_the_end:
        assert np.abs(score).max() < 1e-6 * weight.sum()


def test_mass_is_the_sum_of_the_weights(expert, kind, case, rng):
    _, theta, batch = case(Constant(), expert, kind)
    weight = rng.uniform(size=(batch.n_rows, 3))
    stats_ = expert.accumulate(theta.expert, batch, weight)
    assert_allclose(stats_["mass"], weight.sum(axis=0), rtol=1e-13)


def test_start_gives_valid_parameters_whatever_the_responsibilities(expert, kind, case, rng):
    _, _, batch = case(Constant(), expert, kind)
    empty = np.zeros((batch.n_units, 3))
    empty[:, 0] = 1.0
    for resp in (
        np.full((batch.n_units, 3), 1 / 3),
        empty,
        np.eye(3)[np.arange(batch.n_units) % 3],
    ):
        params = expert.init_params(batch, resp, rng)
        assert all(len(values) == 3 for values in params.values())
        assert all(np.isfinite(values).all() for values in params.values())
        assert np.isfinite(expert.log_prob(params, batch)).all()


def test_number_of_parameters_of_one_expert(setting):
    """K experts hold their own parameters, and those they share once."""
    expert, params, _ = setting
    n_experts = len(next(iter(params.values())))
    each = np.broadcast_to(expert.n_params_each(params), (n_experts,))
    assert 0 <= expert.n_params(params) - each.sum() <= each.max() + 1
    assert set(params) == set(expert.param_names)


def test_saved_family_comes_back(expert, tmp_path):
    write_archive(tmp_path / "family.mxp", "test", expert)
    assert read_archive(tmp_path / "family.mxp")[1] == expert


def test_families_are_values(expert):
    """Frozen, comparable, and printed as they are made: what a checkpoint's key rests on."""
    again = type(expert)(**{f.name: getattr(expert, f.name) for f in dataclasses.fields(expert)})
    assert again == expert
    assert repr(again) == repr(expert)
    assert hash(again) == hash(expert)
    with pytest.raises(dataclasses.FrozenInstanceError):
        expert.degree = 3


# --- the registry itself ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["expert", "gate", "penalty"])
def test_registry_knows_each_class_by_its_name(family):
    known = all_components(family)
    assert list(known) == sorted(known)
    for name, cls in known.items():
        assert cls.name == name
        made = cls.example(2) if hasattr(cls, "example") else cls()
        assert resolve(family, made, "argument") == made
        try:
            cls()
        except (TypeError, ValueError) as error:  # what has no use without arguments says so
            with pytest.raises(type(error), match="give"):
                resolve(family, name, "argument")
            continue
        assert isinstance(resolve(family, name, "argument"), cls)
        with pytest.raises(TypeError, match=f"argument is the class {cls.__name__}"):
            resolve(family, cls, "argument")


def test_registry_refuses_a_name_twice():
    class Other:
        name = "gaussian"

    with pytest.raises(ValueError, match="'gaussian' is taken by"):
        register("expert", Other)
    assert all_components("expert")["gaussian"].__name__ == "Gaussian"


def test_registry_lists_known_names_and_suggests_near_ones():
    with pytest.raises(ValueError, match=r"did you mean 'gaussian'.*known names: .*'gaussian'"):
        resolve("expert", "gausian", "expert")
    with pytest.raises(TypeError, match="gate must be a name or an instance of a gate"):
        resolve("gate", 3, "gate")
