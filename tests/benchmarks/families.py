"""Time of one pass of each regression family, over that of the Gaussian, in one run.

    python tests/benchmarks/families.py [n]

A softmax gate, d = 10, K = 3, one thread; passes of a family and of the Gaussian take turns. Times
are the smallest of each, the ratio is the median over the turns.
"""

from __future__ import annotations

import functools
import sys
import time

import numpy as np
from common import table
from threadpoolctl import threadpool_limits

from mixexperts._batch import Batch
from mixexperts._registry import all_components
from mixexperts.em import Model
from mixexperts.em.init import theta_from_responsibilities
from mixexperts.em.passes import choose_pass, is_compiled
from mixexperts.errors import InvalidResponseError
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

TURNS = 9
ROWS = 32768


def responses(mean, rng):
    """Responses from the most to the least general, for a family to choose from."""
    yield mean + rng.standard_normal(len(mean))
    yield rng.gamma(3.0, np.exp(mean) / 3.0)
    yield rng.poisson(np.exp(mean)).astype(float)
    yield rng.beta(2.0, 2.0 * np.exp(mean))
    successes = rng.binomial(9, 1.0 / (1.0 + np.exp(-mean)))
    yield np.column_stack([successes, 9 - successes]).astype(float)


def accepted(family, mean, rng):
    if family.takes_classes == "many":
        return np.digitize(mean + rng.logistic(size=len(mean)), [-1.0, 1.0]).astype(float)
    for y in responses(mean, rng):
        try:
            family.check_response(y)
        except (InvalidResponseError, TypeError, ValueError):
            continue
        return y
    return None


def work_of(family, X, mean, resp, rng):
    """A pass over all blocks of a family's rows, or None if no compiled pass serves it."""
    model = Model(Softmax(), family)
    y = accepted(family, mean, rng) if is_compiled(model) else None
    if y is None:
        return None
    # thresholds take the place of an intercept
    design = X if family.fit_intercept else X[:, 1:]
    batch = Batch(y, {"mean": design}, X, np.ones(len(y)))
    theta = theta_from_responsibilities(model, batch.take(0, 5000), resp[:5000], rng)
    blocks = batch.split(ROWS)
    one_pass = functools.partial(choose_pass(model, "numba"), model, theta)

    def work():
        for block in blocks:
            one_pass(block)

    return work


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def families(n):
    """The table of all registered families."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 10))])
    mean = 0.4 * X[:, 1] - 0.3 * X[:, 2]
    resp = rng.dirichlet(np.ones(3), n)
    gaussian = work_of(Gaussian(), X, mean, resp, rng)
    rows = []
    with threadpool_limits(1), np.errstate(all="ignore"):
        for name, cls in all_components("expert").items():
            if name in ("tied", "joint", "frozen", "mixed"):  # made of others
                continue
            work = work_of(cls.example(3), X, mean, resp, rng)
            if work is None:
                continue
            gaussian()
            work()
            pairs = [(seconds(work), seconds(gaussian)) for _ in range(TURNS)]
            own, base = (min(part) for part in zip(*pairs, strict=True))
            ratio = np.median([left / right for left, right in pairs])
            rows.append([name, f"{1e3 * own:.1f}", f"{1e3 * base:.1f}", f"{ratio:.2f}"])
    rows.sort(key=lambda row: float(row[-1]))
    table(
        f"One pass, milliseconds, n = {n:,}, d = 10, K = 3, softmax gate, one thread",
        ["family", "its pass", "the Gaussian's beside it", "ratio"],
        rows,
    )


if __name__ == "__main__":
    families(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
