"""Peak memory of one fit above that of its data: rows, chunk_rows (0: the default)."""

import json
import resource
import sys
from pathlib import Path

import numpy as np

import mixexperts as mx


def resident():
    """Resident memory now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


n, chunk_rows = int(sys.argv[1]), int(sys.argv[2]) or None
rng = np.random.default_rng(0)
X, y = np.empty((n, 10)), np.empty(n)
for i in range(0, n, 10_000):  # nothing large is made on the way
    block = rng.standard_normal((min(10_000, n - i), 10))
    label = block[:, 0] + rng.logistic(size=len(block)) > 0
    X[i : i + len(block)] = block
    y[i : i + len(block)] = np.where(label, block[:, 1], 2 - block[:, 2]) + rng.standard_normal(
        len(block)
    )
est = mx.MoERegressor(2, n_init=3, random_state=0, chunk_rows=chunk_rows)
est.fit(X[:40_000], y[:40_000])  # code is loaded and compiled
before = resident()
est.fit(X, y)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"data": X.nbytes / 1e6, "above": max(peak - before, 0.0)}))
