"""Peak memory of one fit above that of its data: rows, chunk_rows (0: the default)."""

import json
import sys
from pathlib import Path

import numpy as np

import mixexperts as mx


def memory(which):
    """Resident memory in MB: now (VmRSS), or its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 1e3
    raise RuntimeError(f"{which} is not in /proc/self/status")


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
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: compiling took some
est.fit(X, y)
peak = memory("VmHWM")
print(json.dumps({"data": X.nbytes / 1e6, "above": max(peak - before, 0.0)}))
