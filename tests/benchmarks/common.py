"""What the benchmarks share: timing, tables, the machine's rates, problems."""

from __future__ import annotations

import time

import numpy as np
from threadpoolctl import threadpool_limits

from mixexperts import datasets


def best_of(function, repeats=5):
    """Smallest wall time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def table(title, header, rows):
    print(f"\n### {title}\n\n| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def machine_floor():
    """Rates of this machine: (gemm FLOP/s, read bytes/s, seconds per exp), single-threaded."""
    with threadpool_limits(1):
        square = np.random.default_rng(0).random((1500, 1500))
        gemm = 2 * 1500**3 / best_of(lambda: square @ square)
        block = -np.random.default_rng(0).random((4000, 256))
        out = np.empty_like(block)
        exp = best_of(lambda: np.exp(block, out=out)) / block.size
        large = np.ones(50_000_000)
        read = large.nbytes / best_of(lambda: large.sum(), 3)
    table(
        "The machine, one thread",
        ["dgemm", "read", "exp (NumPy)"],
        [[f"{gemm / 1e9:.1f} GFLOP/s", f"{read / 1e9:.1f} GB/s", f"{exp * 1e9:.2f} ns"]],
    )
    return gemm, read, exp


def floor_seconds(n, p, n_experts, rates):
    """Least time of one pass: multiply-adds at the gemm rate, exponentials, one read."""
    gemm, read, exp = rates
    pairs = p * (p + 1) // 2
    grams = n_experts + n_experts * (n_experts - 1) // 2
    flops = 2 * (grams * pairs + (4 * n_experts - 2) * p) + pairs
    work = n * (flops / gemm + 2 * n_experts * exp)
    return max(work, n * 8 * (p + 2) / read)


def problem(n, d, n_experts, seed=0):
    X, y, _ = datasets.make_moe_regression(
        n_samples=n, n_features=d, n_experts=n_experts, random_state=seed
    )
    design = np.column_stack([np.ones(n), X])
    rng = np.random.default_rng(seed)
    coef = rng.normal(size=(n_experts, d + 1))
    gate = 0.1 * rng.normal(size=(n_experts, d + 1))
    gate[-1] = 0.0
    return X, y, design, coef, np.full(n_experts, y.std()), gate


def init_of(coef, scale, gate):
    """The start of :func:`problem` as parameters of an estimator."""
    return {
        "intercept": coef[:, 0], "coef": coef[:, 1:], "scale": scale,
        "gate_intercept": gate[:, 0], "gate_coef": gate[:, 1:],
    }  # fmt: skip
