"""The EM engine: statuses, acceleration, safeguards, and what it hands back."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._batch import Batch, Theta, tree_sum
from mixexperts.em import EMResult, Model, Monitor, fit_em
from mixexperts.em.accelerate import Anderson
from mixexperts.em.engine import em_pass
from mixexperts.em.monitor import STATUSES
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax
from mixexperts.penalties import Ridge


def make_batch(rng, n=400, gap=2.5, noise=0.6):
    """Two lines, apart by ``gap`` at x = 0, mixed at random."""
    x = rng.standard_normal(n)
    second = rng.random(n) < 0.4
    y = np.where(second, gap + x, -0.5 * x) + noise * rng.standard_normal(n)
    design = np.column_stack([np.ones(n), x])
    return Batch(y=y, designs={"mean": design}, Z=design, weight=np.ones(n))


def start(gate="softmax", scale=1.0):
    expert = {"coef": np.array([[-0.5, 0.1], [1.0, 0.2]]), "scale": np.full(2, scale)}
    if gate == "constant":
        return Theta({"log_weight": np.log([0.5, 0.5])}, expert)
    return Theta({"coef": np.zeros((2, 2))}, expert)


@pytest.fixture
def rng():
    return np.random.default_rng(20260901)


@pytest.fixture
def batch(rng):
    return make_batch(rng)


MODEL = Model(Softmax(), Gaussian())


# --- acceleration -------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["softmax", "constant"])
def test_acceleration_reaches_the_same_optimum_in_fewer_passes(rng, gate):
    """Experts that overlap: plain EM crawls there."""
    batch = make_batch(rng, gap=1.5, noise=0.7)
    model = Model(Softmax() if gate == "softmax" else Constant(), Gaussian())
    runs = [
        fit_em(model, batch, start(gate), monitor=Monitor(20_000, 1e-10), accelerate=accelerate)
        for accelerate in (True, False)
    ]
    fast, plain = runs
    assert [run.status for run in runs] == ["converged"] * 2
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
    assert_allclose(model.pack(fast.theta), model.pack(plain.theta), atol=1e-2)
    assert plain.n_iter > 50, "not a case where acceleration matters"
    assert fast.n_iter < plain.n_iter / 3


def test_a_proposal_that_falls_is_replaced_by_the_plain_step(batch):
    """An accelerator that always points away costs passes, never the result."""

    class Wild:
        def __init__(self):
            self.resets = 0

        def propose(self, point, image):
            return point + 10.0

        def reset(self):
            self.resets += 1

    wild = Wild()
    plain = fit_em(MODEL, batch, start(), accelerate=False)
    led = fit_em(MODEL, batch, start(), accelerate=wild)
    assert led.history.tolist() == plain.history.tolist()
    assert wild.resets == led.n_backtracks == len(led.history) - 1
    assert led.n_iter == 2 * plain.n_iter - 1
    assert plain.n_backtracks == 0


def test_anderson_solves_a_linear_map_in_as_many_steps_as_dimensions(rng):
    """On x -> A x + b it is GMRES: exact once the memory spans the space."""
    root = rng.standard_normal((4, 4))
    matrix = 0.9 * root / np.linalg.norm(root, 2)
    shift = rng.standard_normal(4)
    accelerator, x = Anderson(memory=10), np.zeros(4)
    for _ in range(6):
        image = matrix @ x + shift
        proposal = accelerator.propose(x, image)
        x = image if proposal is None else proposal
    assert_allclose(x, np.linalg.solve(np.eye(4) - matrix, shift), rtol=1e-8)
    accelerator.reset()
    assert accelerator.propose(x, matrix @ x + shift) is None


# --- the five words -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Descending(Gaussian):
    """Goes far down the slope instead of up: no shorter step helps."""

    def update(self, params, stats, penalty):
        good = super().update(params, stats, penalty)
        return {
            "coef": params["coef"] - 1e6 * (good["coef"] - params["coef"]),
            "scale": params["scale"],
        }


@dataclasses.dataclass(frozen=True)
class Breaking(Gaussian):
    """Its M-step ends in NaN."""

    def update(self, params, stats, penalty):
        return {"coef": params["coef"] * np.nan, "scale": params["scale"]}


@dataclasses.dataclass(frozen=True)
class Overshooting(Gaussian):
    """Its M-step is right in direction and thirty times too long."""

    def update(self, params, stats, penalty):
        good = super().update(params, stats, penalty)
        return {
            "coef": params["coef"] + 30 * (good["coef"] - params["coef"]),
            "scale": good["scale"],
        }


def test_converged(batch):
    result = fit_em(MODEL, batch, start())
    assert result.status == "converged"
    assert result.sound
    assert abs(result.predicted_gain) <= 1e-8
    assert result.flags == ()


@pytest.mark.parametrize("accelerate", [True, False])
def test_max_iter_counts_every_pass(batch, rng, accelerate):
    """``max_iter`` is the largest number of passes, refused ones included."""
    batch = make_batch(rng, gap=1.2, noise=0.7)
    for max_iter in range(1, 12):
        result = fit_em(
            MODEL, batch, start(), monitor=Monitor(max_iter, tol=0.0), accelerate=accelerate
        )
        assert result.status == "max_iter"
        assert result.n_iter <= max_iter
        assert result.sound


def test_degenerate_by_a_collapsed_scale(batch):
    y = batch.X @ [1.0, 2.0]
    y[:150] = 5.0 - batch.X[:150, 1]
    exact = dataclasses.replace(batch, y=y)
    result = fit_em(MODEL, exact, start())
    assert result.status == "degenerate"
    assert not result.sound
    assert any("scale at the floor" in flag for flag in result.flags)


def test_degenerate_by_a_starved_expert(batch):
    theta = start()
    theta.expert["coef"][1] = [200.0, 0.0]  # nobody is near
    result = fit_em(MODEL, batch, theta)
    assert result.status == "degenerate"
    assert any("effective rows, fewer than its parameters + 1 = 4" in f for f in result.flags)


def test_degenerate_when_the_passes_run_out_on_a_starved_expert(batch):
    theta = start()
    theta.expert["coef"][1] = [200.0, 0.0]
    result = fit_em(MODEL, batch, theta, monitor=Monitor(max_iter=1))
    assert result.status == "degenerate"


@pytest.mark.parametrize("n_rows", [3, 4, 5])
def test_effective_rows_decide_at_parameters_plus_one(rng, n_rows):
    """Four rows for three parameters are enough, three are not."""
    x = np.concatenate([rng.uniform(-1, 1, 60), [-1.0, 0.0, 1.0, 0.5, -0.5][:n_rows]])
    y = np.concatenate([0.3 * rng.standard_normal(60), 100 + rng.standard_normal(n_rows)])
    design = np.column_stack([np.ones(len(x)), x])
    batch = Batch(y, {"mean": design}, np.ones((len(x), 1)), np.ones(len(x)))
    theta = Theta(
        {"log_weight": np.log([0.9, 0.1])},
        {"coef": np.array([[0.0, 0.0], [100.0, 0.0]]), "scale": np.ones(2)},
    )
    result = fit_em(Model(Constant(), Gaussian()), batch, theta)
    assert_allclose(result.mass, [60, n_rows], atol=1e-6)
    assert result.status == ("degenerate" if n_rows < 4 else "converged")


def test_diverged_at_the_start(batch):
    theta = start()
    theta.expert["coef"][:] = np.nan
    result = fit_em(MODEL, batch, theta)
    assert result.status == "diverged"
    assert not result.sound


def test_diverged_on_the_way(batch):
    result = fit_em(Model(Softmax(), Breaking()), batch, start())
    assert result.status == "diverged"
    assert np.isfinite(result.objective)
    assert np.isfinite(MODEL.pack(result.theta)).all()  # the last accepted point


@pytest.mark.parametrize("accelerate", [True, False])
def test_monotonicity_lost(batch, accelerate):
    model = Model(Softmax(), Descending())
    result = fit_em(model, batch, start(), accelerate=accelerate, newton=False)
    assert result.status == "monotonicity_lost"
    assert not result.sound
    assert result.n_backtracks >= 40
    assert len(result.history) >= 1


def test_a_step_too_long_is_halved(batch):
    result = fit_em(Model(Softmax(), Overshooting()), batch, start(), accelerate=False)
    plain = fit_em(MODEL, batch, start())
    assert result.n_backtracks > 0
    assert np.diff(result.history).min() >= -1e-10
    assert result.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-3)


def test_there_are_five_words_and_one_for_starts_that_did_not_go_on():
    ends = ("converged", "max_iter", "degenerate", "diverged", "monotonicity_lost")
    assert (*ends, "screened") == STATUSES


# --- what is handed back --------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [None, Ridge(20.0)])
def test_result_describes_its_own_parameters(batch, penalty):
    model = MODEL if penalty is None else Model(Softmax(), Gaussian(), penalty, penalty)
    result = fit_em(model, batch, start())
    stats = em_pass(model, result.theta, batch)
    assert isinstance(result, EMResult)
    assert result.log_likelihood == pytest.approx(stats["log_likelihood"], rel=1e-14)
    assert result.objective == pytest.approx(
        stats["log_likelihood"] - model.penalty_value(result.theta), rel=1e-14
    )
    assert result.history[-1] == result.objective
    assert_allclose(result.mass, stats["expert.mass"], rtol=1e-12)
    assert result.mass.sum() == pytest.approx(400)


def test_start_is_not_changed(batch):
    theta = start()
    before = MODEL.pack(theta).copy()
    fit_em(MODEL, batch, theta)
    assert (MODEL.pack(theta) == before).all()


def test_blocks_and_a_single_batch_agree(batch):
    whole = fit_em(MODEL, batch, start())
    cut = fit_em(MODEL, batch.split(37), start())
    assert cut.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    assert_allclose(MODEL.pack(cut.theta), MODEL.pack(whole.theta), atol=1e-10)


def test_callback_sees_every_accepted_pass(batch):
    seen = []
    monitor = Monitor(callback=lambda theta, objective, n_iter: seen.append((objective, n_iter)))
    result = fit_em(MODEL, batch, start(), monitor=monitor)
    assert [objective for objective, _ in seen] == result.history.tolist()
    passes = [n_iter for _, n_iter in seen]
    assert passes == sorted(set(passes))
    assert result.n_iter - 1 <= passes[-1] <= result.n_iter  # the last may be of the information


def test_executor_decides_where_the_sums_are_made(batch):
    """An executor that turns the order of blocks round, and counts."""

    class Backwards:
        passes = 0

        def scatter(self, blocks):
            return list(reversed(blocks))

        def map_reduce(self, function, handle):
            self.passes += 1
            return tree_sum([function(block) for block in handle])

        def close(self):
            pass

    executor = Backwards()
    result = fit_em(MODEL, batch.split(100), start(), executor=executor)
    plain = fit_em(MODEL, batch, start())
    assert executor.passes == result.n_iter
    assert result.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)


def test_an_interrupt_inside_a_pass_is_passed_on(batch):
    class Interrupted:
        def scatter(self, blocks):
            return blocks

        def map_reduce(self, function, handle):
            raise KeyboardInterrupt

        def close(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        fit_em(MODEL, batch, start(), executor=Interrupted())


def test_unknown_backend_lists_the_known(batch):
    with pytest.raises(ValueError, match="backend='nunpy' is not known; known backends: 'auto'"):
        fit_em(MODEL, batch, start(), backend="nunpy")


def test_joint_gate_takes_no_penalty(batch):
    @dataclasses.dataclass(frozen=True)
    class Joint(Softmax):
        objective = "joint"

    with pytest.raises(UnsupportedCombinationError, match="joint objective"):
        fit_em(Model(Joint(), Gaussian(), Ridge()), batch, start())


def test_repeated_measures_share_their_expert(rng):
    """Units of six rows: the likelihood is that of units, and labels come back sharply."""
    u, m = 60, 6
    unit = np.repeat(np.arange(u), m)
    label = rng.integers(0, 2, u)
    x = rng.standard_normal(u * m)
    y = np.where(label[unit] == 1, 1.0 + x, -0.5 * x) + 0.7 * rng.standard_normal(u * m)
    design = np.column_stack([np.ones(u * m), x])
    batch = Batch(y, {"mean": design}, np.ones((u, 1)), np.ones(u), unit=unit)
    theta = start("constant")
    result = fit_em(Model(Constant(), Gaussian()), batch.split(7), theta)
    assert result.status == "converged"
    log_prob = Gaussian().log_prob(result.theta.expert, batch)
    joint = np.add.reduceat(log_prob, np.arange(0, u * m, m)) + result.theta.gate["log_weight"]
    expected = np.logaddexp.reduce(joint, axis=1).sum()
    assert result.log_likelihood == pytest.approx(expected, rel=1e-12)
    assert (joint.argmax(axis=1) == label).mean() > 0.95
    assert result.mass.sum() == pytest.approx(u)  # effective units


# --- the end of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_separated_gate_leaves_newton_to_em(seed):
    """The information fades along a direction: steps that promise nothing must not be taken."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(4000, 3))
    y = np.where(X[:, 0] > 0, 5 + X[:, 1], -5 + X[:, 2]) + 0.1 * rng.normal(size=4000)
    design = np.column_stack([np.ones(4000), X])
    batch = Batch(y, {"mean": design}, design, np.ones(4000))
    theta = Theta(
        {"coef": np.array([[0.0, -1.0, 0, 0], [0, 0, 0, 0]])},
        {"coef": np.array([[-5.0, 0, 0, 1], [5, 0, 1, 0]]), "scale": np.array([1.0, 1.0])},
    )
    plain = fit_em(MODEL, batch, theta, accelerate=False)
    result = fit_em(MODEL, batch, theta)
    assert plain.separated
    assert result.status == "converged"
    assert result.n_iter < 200
    assert result.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-5)


def test_the_better_of_two_starts_is_taken(batch):
    good = fit_em(MODEL, batch, start())
    for pair in ((start(), good.theta), (good.theta, start())):
        result = fit_em(MODEL, batch, pair[0], alternative=pair[1])
        assert result.history[0] == pytest.approx(good.objective, abs=1e-9)


def test_fits_in_threads_give_back_the_threads_of_blas():
    from threadpoolctl import ThreadpoolController

    from mixexperts.em.executors import one_blas_thread

    def threads():
        pools = ThreadpoolController().info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    before = threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == [1] * len(before)
    second.__exit__(None, None, None)
    assert threads() == before
