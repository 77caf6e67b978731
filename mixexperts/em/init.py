"""Starts of EM: from responsibilities, k-means, residuals, random cells, short runs, splits.

Every start is a function of weighted quantities and of the values of the rows, never of
their order or number: a row of weight 2 and the row twice start alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mixexperts._batch import Array, Batch, Theta, root_mean_square, weighted_mean
from mixexperts.em.engine import EMResult, Model, first_best, fit_em
from mixexperts.em.monitor import Monitor
from mixexperts.em.variants import AnnealedEM, ClassificationEM
from mixexperts.kernels.numpy_ import e_step

# Share of every row that a hard partition spreads over all experts, so that an expert begun on
# few rows does not begin on the boundary.
_SOFTNESS = 0.05
# Weight of rows without evidence in a start that is made from evidence.
_UNCERTAIN = 0.1
_SHORT_RUNS = 10
_SHORT_PASSES = 6
_SPLIT_PASSES = 30


def keyed_rng(seed: int, kind: str, index: int) -> np.random.Generator:
    """Random numbers that depend on what they are for, not on who drew before."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), index])


def theta_from_responsibilities(
    model: Model, batch: Batch, resp: Array, rng: np.random.Generator
) -> Theta:
    """Parameters fitted to responsibilities (u, K)."""
    return Theta(
        model.gate.init_params(batch, resp, rng), model.expert.init_params(batch, resp, rng)
    )


def initial_theta(
    model: Model, batch: Batch, n_experts: int, kind: str, rng: np.random.Generator
) -> Theta:
    """Starting parameters of one of the kinds in :data:`KINDS`.

    Raises
    ------
    ValueError
        If the kind is not known.
    """
    if n_experts == 1:
        return theta_from_responsibilities(model, batch, np.ones((batch.n_units, 1)), rng)
    if batch.log_prior is not None:
        if kind == "prior":
            return _from_evidence(model, batch, rng)
        bare = replace(batch, log_prior=None)
        return agreeing(model, batch, initial_theta(model, bare, n_experts, kind, rng), rng)
    if kind not in KINDS:
        known = ", ".join(repr(name) for name in KINDS)
        raise ValueError(f"start {kind!r} is not known; known starts: {known}")
    return KINDS[kind](model, batch, n_experts, rng)


# --- evidence about the experts of rows --------------------------------------------------------


def _from_evidence(model: Model, batch: Batch, rng: np.random.Generator) -> Theta:
    """Experts fitted to the rows that evidence speaks of; the others hold them together."""
    assert batch.log_prior is not None
    evidence, _ = e_step(batch.log_prior.copy())
    n_experts = evidence.shape[1]
    certainty = (evidence.max(axis=1) - 1.0 / n_experts) / (1.0 - 1.0 / n_experts)
    weight = batch.weight * (_UNCERTAIN + (1.0 - _UNCERTAIN) * certainty)
    return theta_from_responsibilities(model, replace(batch, weight=weight), evidence, rng)


def agreeing(model: Model, batch: Batch, theta: Theta, rng: np.random.Generator) -> Theta:
    """Parameters found without the evidence, numbered to agree with it, and fitted to both."""
    from scipy.optimize import linear_sum_assignment

    assert batch.log_prior is not None
    evidence, _ = e_step(batch.log_prior.copy())
    resp, _ = e_step(model.log_joint(theta, replace(batch, log_prior=None)))
    agreement = (resp * batch.weight[:, None]).T @ evidence
    labels = model.expert.interchangeable(len(agreement))
    agreement[labels[:, None] != labels] = -4.0 * batch.weight.sum()  # places of another kind
    experts, numbers = linear_sum_assignment(-agreement)
    order = experts[np.argsort(numbers)]
    resp, _ = e_step(model.log_joint(model.permute(theta, order), batch))
    resp = (1.0 - _SOFTNESS) * resp + _SOFTNESS * evidence
    return theta_from_responsibilities(model, batch, resp, rng)


# --- geometry --------------------------------------------------------------------------------


def _standardized(values: Array, weight: Array) -> Array:
    """Columns with weighted mean 0 and standard deviation 1; constant columns are dropped."""
    centred = values - weighted_mean(values, weight)
    spread = root_mean_square(centred, weight)
    keep = spread > 1e-12 * (np.abs(values[weight > 0]).max(axis=0, initial=0.0) + 1e-300)
    standard: Array = centred[:, keep] / spread[keep]
    return standard


def _cloud(model: Model, batch: Batch) -> tuple[Array, Array]:
    """Features (u, d) and response (u, 1) of each unit, standardised; of several (u, m).

    The features are those in ``designs["features"]`` if the batch has them, and the columns of
    both designs otherwise. They come in an order and with signs that depend on their
    correlation with the (first) response alone, so that random directions mean the same whatever
    the order, the units and the signs of the user's columns.
    """
    per_unit = np.maximum(batch.sum_units(np.ones((batch.n_rows, 1))), 1.0)
    if "features" in batch.designs:
        features = batch.sum_units(batch.designs["features"]) / per_unit
    else:
        features = batch.sum_units(batch.X) / per_unit
        if batch.Z.shape[1] and not np.array_equal(batch.Z, features):
            features = np.hstack([features, batch.Z])
    working = model.expert.working_response(batch)
    response = batch.sum_units(working.reshape(len(working), -1)) / per_unit
    features = _standardized(features, batch.weight)
    response = _standardized(response, batch.weight)
    if response.size:
        correlation = (batch.weight * response[:, 0]) @ features / batch.weight.sum()
        correlation = np.round(correlation, 9)  # no order and no sign by rounding
        order = np.argsort(-np.abs(correlation), kind="stable")
        features = features[:, order] * np.where(correlation[order] < 0.0, -1.0, 1.0)
    return features, response


def _line(residual: Array, weight: Array, rng: np.random.Generator) -> Array:
    """Residuals (u, 1) of one response, or of several (u, 1, m) along a random direction.

    The direction is drawn from a normal distribution with the residuals' correlations, so that it
    is likely to be near the first principal ones.
    """
    if residual.ndim == 2:
        return residual
    values = _standardized(residual[:, 0], weight)
    if not values.size:
        return residual[:, 0, :1]
    spread, axes = np.linalg.eigh((values * weight[:, None]).T @ values / weight.sum())
    # The symmetric root does not hang on the signs of the eigenvectors, which rounding decides.
    drawn = axes.T @ rng.standard_normal(len(spread))
    direction = axes @ (np.sqrt(np.maximum(spread, 0.0)) * drawn)
    line: Array = (values @ direction)[:, None]
    return line


def _canonical_order(cloud: Array, rng: np.random.Generator) -> Array:
    """An order of the rows by value: along a random direction."""
    return np.argsort(cloud @ rng.standard_normal(cloud.shape[1]), kind="stable")


def _pick(chance: Array, order: Array, rng: np.random.Generator) -> int:
    """A row drawn with the given weights, counted along ``order``."""
    total = np.cumsum(chance[order])
    place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    return int(order[min(place, len(order) - 1)])


def _one_hot(label: Array, n_experts: int) -> Array:
    return np.eye(n_experts)[label]


def _from_clusters(model: Model, batch: Batch, hard: Array, rng: np.random.Generator) -> Theta:
    """Parameters fitted to clusters, which the experts may choose among."""
    hard = model.expert.arranged(batch, hard, rng)
    return theta_from_responsibilities(model, batch, _soften(hard), rng)


def _soften(resp: Array) -> Array:
    softened: Array = (1.0 - _SOFTNESS) * resp + _SOFTNESS / resp.shape[1]
    return softened


# --- the kinds -------------------------------------------------------------------------------


def _kmeans(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Weighted k-means on (x, y), with a random balance between x and y."""
    features, response = _cloud(model, batch)
    cloud = np.hstack([features, response * 2.0 ** rng.uniform(-1.0, 2.0)])
    order = _canonical_order(cloud, rng)
    centres = cloud[[_pick(batch.weight, order, rng)]]
    for _ in range(n_experts - 1):  # k-means++ seeding
        distance = _distances(cloud, centres).min(axis=1)
        chance = batch.weight * distance
        if not chance.sum() > 0:
            chance = batch.weight
        centres = np.vstack([centres, cloud[_pick(chance, order, rng)]])
    label = _distances(cloud, centres).argmin(axis=1)
    for _ in range(25):
        share = _one_hot(label, n_experts) * batch.weight[:, None]
        mass = share.sum(axis=0)
        filled = mass > 0
        centres[filled] = (share.T @ cloud)[filled] / mass[filled, None]
        moved = _distances(cloud, centres).argmin(axis=1)
        if np.array_equal(moved, label):
            break
        label = moved
    return _from_clusters(model, batch, _one_hot(label, n_experts), rng)


def _distances(cloud: Array, centres: Array) -> Array:
    return np.stack([((cloud - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


def _weighted_groups(values: Array, weight: Array, share: Array) -> Array:
    """Labels 0, 1, ... by weighted quantiles of ``values`` at the cumulated shares."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    cuts = values[order][np.searchsorted(total, np.cumsum(share)[:-1] * total[-1])]
    return np.searchsorted(np.sort(cuts), values, side="right")


def _residual(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Weighted quantiles of the residuals of a single expert, tilted along a direction of x."""
    single = theta_from_responsibilities(model, batch, np.ones((batch.n_units, 1)), rng)
    residual = batch.sum_units(model.expert.residual(single.expert, batch))
    values = _standardized(_line(residual, batch.weight, rng), batch.weight)
    features, _ = _cloud(model, batch)
    tilt = features @ rng.standard_normal(features.shape[1])
    tilt *= rng.uniform(0.0, 1.0) / max(np.sqrt(features.shape[1]), 1.0)
    values = values[:, 0] + tilt if values.size else tilt
    share = rng.dirichlet(np.full(n_experts, 5.0))
    label = _weighted_groups(values, batch.weight, share)
    return _from_clusters(model, batch, _one_hot(label, n_experts), rng)


def _random(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """A random partition of the (x, y) space into cells around random centres."""
    cloud = np.hstack(_cloud(model, batch))
    stretch = 2.0 ** rng.uniform(-1.5, 1.5, size=cloud.shape[1])
    centres = rng.standard_normal((n_experts, cloud.shape[1])) * stretch
    label = _distances(cloud * stretch, centres).argmin(axis=1)
    return _from_clusters(model, batch, _one_hot(label, n_experts), rng)


def _elemental(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Each expert is fitted to a handful of rows; rows then go to the expert nearest to them."""
    cloud = np.hstack(_cloud(model, batch))
    order = _canonical_order(cloud, rng)
    resp = np.full((batch.n_units, n_experts), 1e-6)
    for k in range(n_experts):
        for _ in range(batch.X.shape[1] + 1):
            picked = cloud[_pick(batch.weight, order, rng)]
            resp[(cloud == picked).all(axis=1), k] = 1.0  # the row, however often it is there
    rough = model.expert.init_params(batch, resp, rng)
    label = batch.sum_units(model.expert.distance(rough, batch)).argmin(axis=1)
    return _from_clusters(model, batch, _one_hot(label, n_experts), rng)


def _small_em(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """The best of many short runs."""
    kinds = (_elemental, _random, _kmeans, _residual)
    results = []
    for i in range(_SHORT_RUNS):
        start = kinds[i % len(kinds)](model, batch, n_experts, rng)
        monitor = Monitor(max_iter=_SHORT_PASSES)
        results.append(fit_em(model, batch, start, monitor=monitor, accelerate=False))
    return results[first_best(results)].theta


def _split(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Grow from one expert, splitting the worst-explained expert and running EM briefly."""
    theta = initial_theta(model, batch, 1, "split", rng)
    for _ in range(n_experts - 1):
        theta = split_worst(model, batch, theta, rng)
        monitor = Monitor(max_iter=_SPLIT_PASSES, tol=1e-3)
        grown = fit_em(model, batch, theta, monitor=monitor)
        if grown.sound:
            theta = grown.theta
    return theta


def split_worst(model: Model, batch: Batch, theta: Theta, rng: np.random.Generator) -> Theta:
    """A start with one expert more: the worst-explained expert is split in two."""
    return split_expert(model, batch, theta, int(worst_explained(model, batch, theta)[0]), rng)


def worst_explained(model: Model, batch: Batch, theta: Theta) -> Array:
    """The experts in the order in which to split them (K,).

    Those first whose rows have the lowest mean log density under them.
    """
    log_expert = batch.sum_units(model.expert.log_prob(theta.expert, batch))
    resp, log_density = e_step(model.log_joint(theta, batch))
    # Rows that none of the experts so far can have produced belong to all alike.
    resp[np.isneginf(log_density)] = 1.0 / resp.shape[1]
    weighted = resp * batch.weight[:, None]
    mass = weighted.sum(axis=0)
    with np.errstate(invalid="ignore"):  # no weight times a density of zero
        terms = np.where(weighted > 0.0, weighted * log_expert, 0.0)
    mean_log = terms.sum(axis=0) / np.maximum(mass, 1e-300)
    # Splitting an expert too small to feed two only makes a degenerate start.
    splittable = mass >= 2 * (model.expert.n_params_each(theta.expert) + 1)
    if not splittable.any():
        splittable[mass.argmax()] = True
    return np.argsort(np.where(splittable, mean_log, np.inf), kind="stable")


def split_expert(
    model: Model, batch: Batch, theta: Theta, worst: int, rng: np.random.Generator
) -> Theta:
    """A start with one expert more, the last.

    The expert ``worst`` gives half of its rows to it, cut along its residual and a random
    direction of the features.
    """
    resp, _ = e_step(model.log_joint(theta, batch))
    return theta_from_responsibilities(
        model, batch, split_rows(model, batch, theta, resp, worst, rng), rng
    )


def split_rows(
    model: Model,
    batch: Batch,
    theta: Theta,
    resp: Array,
    worst: int,
    rng: np.random.Generator,
) -> Array:
    """Responsibilities (u, K + 1) after the split of an expert of those given."""
    weighted = resp * batch.weight[:, None]
    mass = weighted.sum(axis=0)
    residual = batch.sum_units(model.expert.residual(theta.expert, batch)[:, [worst]])
    residual = _line(residual, weighted[:, worst], rng)
    residual = residual / np.sqrt(weighted[:, worst] @ residual**2 / mass[worst] + 1e-300)
    features, _ = _cloud(model, batch)
    direction = rng.standard_normal(features.shape[1])
    balance = rng.uniform(0.0, np.pi / 2)
    place = np.cos(balance) * residual[:, 0] + np.sin(balance) * (features @ direction)
    # Not exactly one half: with equal weights the cut would hang on the rounding of a sum.
    share = rng.uniform(0.35, 0.65)
    upper = _weighted_groups(place, weighted[:, worst], np.array([share, 1.0 - share])) == 1
    moved = resp[:, worst] * np.where(upper, 1.0 - _SOFTNESS, _SOFTNESS)
    grown = np.column_stack([resp, moved])
    grown[:, worst] -= moved
    return grown


def _best_short(model: Model, starts: list[Theta], run: Callable[[Theta], EMResult]) -> Theta:
    results = [run(theta) for theta in starts]
    return results[first_best(results)].theta


def _cem(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """The best of several runs of classification EM."""
    kinds = (_elemental, _random, _kmeans, _residual)
    starts = [kinds[i % 4](model, batch, n_experts, rng) for i in range(_SHORT_RUNS)]
    monitor = Monitor(max_iter=_SPLIT_PASSES, tol=1e-3)
    return _best_short(
        model, starts, lambda theta: ClassificationEM().run(model, batch, theta, monitor=monitor)
    )


def _anneal(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Annealing from experts fitted to a few rows each."""
    theta = _elemental(model, batch, n_experts, rng)
    return AnnealedEM().anneal(model, batch, theta, 1000)[0]


def _evolve(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Grow from one expert, splitting the worst-explained expert and annealing each time."""
    theta = initial_theta(model, batch, 1, "evolve", rng)
    for _ in range(n_experts - 1):
        theta = split_worst(model, batch, theta, rng)
        theta, _ = AnnealedEM().anneal(model, batch, theta, 1000)
        monitor = Monitor(max_iter=_SPLIT_PASSES, tol=1e-3)
        grown = fit_em(model, batch, theta, monitor=monitor)
        theta = grown.theta if grown.sound else theta
    return theta


def _split_merge(model: Model, batch: Batch, n_experts: int, rng: np.random.Generator) -> Theta:
    """Split-and-merge moves from experts fitted to a few rows each."""
    from mixexperts.em.moves import split_merge

    return split_merge(model, batch, _elemental(model, batch, n_experts, rng), rng).theta


KINDS: dict[str, Callable[[Model, Batch, int, np.random.Generator], Theta]] = {
    "kmeans": _kmeans,
    "residual": _residual,
    "random": _random,
    "elemental": _elemental,
    "small_em": _small_em,
    "split": _split,
    "cem": _cem,
    "anneal": _anneal,
    "evolve": _evolve,
    "split_merge": _split_merge,
}
#: The kinds that ``init="auto"`` runs through, in turn.
AUTO = ("kmeans", "residual", "split", "small_em", "elemental", "random")
