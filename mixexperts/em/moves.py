"""Moves that re-place experts: merge two that share their rows, split one that fits badly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.engine import EMResult, Model, fit_em
from mixexperts.em.init import split_rows, theta_from_responsibilities, worst_explained
from mixexperts.em.monitor import Monitor
from mixexperts.kernels.numpy_ import e_step

# Candidates tried before the solution is left as it is, and moves in a row.
_CANDIDATES = 5
_MOVES = 20
# A run after a move: so many passes, to so much log-likelihood; and the gain that counts.
_PASSES = 200
_TOL = 1e-3
_GAIN = 0.05


def overlap(resp: Array, weight: Array) -> Array:
    """How much experts share their units, (K, K): cosines of their responsibilities."""
    product = resp.T @ (resp * weight[:, None])
    size = np.sqrt(np.maximum(np.diagonal(product), 1e-300))
    cosine: Array = product / np.outer(size, size)
    return cosine


def merged(resp: Array, i: int, j: int) -> Array:
    """Responsibilities (u, K - 1) where expert i < j has taken over the units of j."""
    pooled = np.delete(resp, j, axis=1)
    pooled[:, i] += resp[:, j]
    return pooled


def split_merge(
    model: Model,
    batch: Batch,
    theta: Theta,
    rng: np.random.Generator,
    *,
    candidates: int = _CANDIDATES,
) -> EMResult:
    """EM with split-and-merge moves: the number of experts stays, their places change.

    From a solution of EM, the two experts that share their units most are merged and a third
    that fits its units worst is split; EM goes on from there, and the move is kept if the
    objective has risen. The next pairs follow, until ``candidates`` in a row have brought
    nothing. (With two experts, both are merged and split anew.)

    Parameters
    ----------
    model, batch, theta
        As in :func:`mixexperts.em.fit_em`, in one block; evidence about experts is not looked
        at: number them by it afterwards.
    rng : Generator
        Draws the directions of the splits.
    candidates : int, default=5
        Moves tried from one solution.

    Returns
    -------
    EMResult
        Of the last run that was kept, to about 1e-3 of its maximum.

    References
    ----------
    Ueda, N., Nakano, R., Ghahramani, Z. and Hinton, G. E. (2000). SMEM algorithm for mixture
    models. Neural Computation 12, 2109-2128.
    """
    batch = replace(batch, log_prior=None)

    def run(start: Theta) -> EMResult:
        return fit_em(model, batch, start, monitor=Monitor(_PASSES, _TOL))

    best = run(theta)
    for _ in range(_MOVES):
        if not best.sound:
            return best
        for trial in map(run, _starts(model, batch, best.theta, rng, candidates)):
            if trial.sound and trial.objective > best.objective + _GAIN:
                best = trial
                break
        else:
            return best
    return best


def _starts(
    model: Model, batch: Batch, theta: Theta, rng: np.random.Generator, most: int
) -> Iterator[Theta]:
    """Starts after a merge and a split, the most promising first."""
    resp, _ = e_step(model.log_joint(theta, batch))
    n_experts = resp.shape[1]
    if n_experts < 2:
        return
    shared = overlap(resp, batch.weight)
    worst = worst_explained(model, batch, theta)
    pairs = sorted(combinations(range(n_experts), 2), key=lambda pair: -shared[pair])
    triples = [
        (i, j, int(k))
        for i, j in pairs
        for k in worst
        if k not in (i, j) or (n_experts == 2 and k == i)
    ]
    if n_experts == 2:
        triples *= most  # other directions of the split
    # Pairs and splits by the sum of their ranks, so that neither is stuck at its first.
    rank_pair = {pair: r for r, pair in enumerate(pairs)}
    rank_split = {int(k): r for r, k in enumerate(worst)}
    triples.sort(key=lambda t: rank_pair[t[0], t[1]] + rank_split[t[2]])
    for i, j, k in triples[:most]:
        pooled = merged(resp, i, j)
        fewer = theta_from_responsibilities(model, batch, pooled, rng)
        k = k - 1 if k > j else k
        grown = split_rows(model, batch, fewer, pooled, k, rng)
        yield theta_from_responsibilities(model, batch, grown, rng)
