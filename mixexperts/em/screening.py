"""Many starts on many rows: all run on a sample first, and the best few go on to all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mixexperts._batch import Batch, Theta
from mixexperts.em.engine import EMResult
from mixexperts.em.model import Model
from mixexperts.em.monitor import Monitor
from mixexperts.em.variants import Algorithm

# Runs on the sample stop this close to their optimum, in units of its own log-likelihood: as an
# estimate of the optimum of all rows it is off by about half a unit per parameter.
_CLOSE = 0.02
# Optima of the sample that lie this close are taken as one.
_SAME = 0.1
#: Most optima of the sample that go on to all rows.
FINALISTS = 3


def run_on_sample(
    model: Model,
    sample: Batch,
    theta: Theta,
    max_iter: int,
    accelerate: bool,
    backend: str,
    algorithm: Algorithm,
    seed: int,
) -> EMResult:
    """Run one start on the sample, whose weights stand for all rows."""
    unit = float(sample.weight.sum()) / sample.n_units
    return algorithm.run(
        model,
        sample,
        theta,
        seed=seed,
        monitor=Monitor(max_iter, _CLOSE * unit),
        accelerate=accelerate,
        backend=backend,
    )


def finalists(results: Mapping[int, EMResult], sample: Batch) -> list[int]:
    """Starts that go on: the first to reach each of the best distinct optima of the sample.

    Where no start is sound on the sample, all go on, each from where it began.
    """
    sound = [i for i, result in results.items() if result.sound]
    if not sound:
        return sorted(results)
    same = _SAME * float(sample.weight.sum()) / sample.n_units
    groups: list[list[int]] = []  # the best of each first
    for i in sorted(sound, key=lambda i: (-results[i].objective, i)):
        near = [g for g in groups if results[g[0]].objective - results[i].objective <= same]
        if near:
            near[0].append(i)
        elif len(groups) < FINALISTS:
            groups.append([i])
    # of those that reached one optimum the first start goes on, whichever rounds up
    return sorted(map(min, groups))


def screened(result: EMResult) -> EMResult:
    """What is kept of a start that did not go on: its likelihood on all rows is not known."""
    unknown = float("nan")
    return replace(
        result,
        log_likelihood=unknown,
        objective=unknown,
        history=np.empty(0),
        status="screened",
        n_iter=0,
        predicted_gain=unknown,
    )
