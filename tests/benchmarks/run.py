"""Speed of the engine against a yardstick and against the machine, side by side in one run.

    python tests/benchmarks/run.py [--quick]

Prints Markdown tables. Ratios are what counts: both sides of each are measured in this run.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
import warnings

import numpy as np
from naive_em import naive_em, naive_pass
from threadpoolctl import threadpool_limits

from mixexperts import datasets, estimators
from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.executors import SerialExecutor, ThreadExecutor
from mixexperts.em.passes import fused_pass
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax


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


def passes(n, rates):
    rows = []
    for d, n_experts in ((10, 3), (10, 5), (30, 3)):
        _, y, design, coef, scale, gate = problem(n, d, n_experts)
        batch = Batch(y, {"mean": design}, design, np.ones(n))
        theta = Theta({"coef": gate}, {"coef": coef, "scale": scale})
        work = functools.partial(fused_pass, Model(Softmax(), Gaussian()), theta)
        blocks = batch.split(32768)
        for threads in (1, 2):
            executor = SerialExecutor() if threads == 1 else ThreadExecutor(threads)
            with threadpool_limits(threads):
                naive = best_of(lambda: naive_pass(y, design, coef, scale, gate), 2)  # noqa: B023
            with threadpool_limits(1):
                executor.map_reduce(work, blocks[:1])
                fused = best_of(lambda: executor.map_reduce(work, blocks))  # noqa: B023
            executor.close()
            floor = floor_seconds(n, d + 1, n_experts, rates) / threads
            rows.append(
                [
                    f"n={n:,} d={d} K={n_experts}", threads, f"{naive:.3f}", f"{fused:.4f}",
                    f"{naive / fused:.1f}x", f"{floor:.4f}", f"{fused / floor:.2f}",
                ]
            )  # fmt: skip
    table(
        "One pass (E-step, log-likelihood, all statistics), seconds",
        ["problem", "threads", "naive NumPy", "mixexperts", "ratio", "floor", "times the floor"],
        rows,
    )


def optimum(n):
    """Time from one start to the optimum, CPU seconds, against the naive EM."""
    rows = []
    for d, n_experts in ((10, 3), (2, 3)):
        _, y, design, coef, scale, gate = problem(n, d, n_experts, seed=1)
        with threadpool_limits(1):
            start = time.process_time()
            naive_ll, naive_passes, _ = naive_em(y, design, coef, scale, gate)
            naive_cpu = time.process_time() - start
            batch = Batch(y, {"mean": design}, design, np.ones(n))
            theta = Theta({"coef": gate}, {"coef": coef, "scale": scale})
            start = time.process_time()
            result = fit_em(
                Model(Softmax(), Gaussian()), batch.split(32768), theta, monitor=Monitor(5000)
            )
            own_cpu = time.process_time() - start
        rows.append(
            [
                f"n={n:,} d={d} K={n_experts}", f"{naive_cpu:.2f}", naive_passes, f"{own_cpu:.3f}",
                result.n_iter, f"{naive_cpu / own_cpu:.0f}x",
                f"{result.log_likelihood - naive_ll:+.2e}",
            ]
        )  # fmt: skip
    table(
        "To the optimum from the same start, one thread, CPU seconds",
        ["problem", "naive (to 1e-12)", "passes", "mixexperts", "passes", "ratio", "gain in ll"],
        rows,
    )


def slow_suite():
    """Passes on overlapping and near-collinear problems, plain EM against the accelerated one."""
    rows, ratios = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n, d, n_experts = 3000, 1 + seed % 3, 2 + seed % 2
        X = rng.normal(size=(n, d))
        if seed % 4 == 3:
            X = np.column_stack([X, X[:, 0] + 0.05 * rng.normal(size=n)])
        X, y, truth = datasets.make_moe_regression(
            X=X,
            n_experts=n_experts,
            noise=1.0,
            separation=1.0,
            gate_strength=0.7,
            random_state=seed,
        )
        design = np.column_stack([np.ones(n), X])
        coef = np.column_stack([truth.intercept, truth.coef])
        gate = np.column_stack([truth.gate_intercept, truth.gate_coef])
        theta = Theta({"coef": 0.5 * gate}, {"coef": coef, "scale": truth.scale})
        batch = Batch(y, {"mean": design}, design, np.ones(n))
        model = Model(Softmax(), Gaussian())
        plain = fit_em(model, batch, theta, monitor=Monitor(20000), accelerate=False)
        own = fit_em(model, batch, theta, monitor=Monitor(20000))
        ratios.append(plain.n_iter / own.n_iter)
        rows.append(
            [
                seed, f"d={X.shape[1]} K={n_experts}", plain.n_iter, own.n_iter,
                f"{ratios[-1]:.1f}x", f"{own.log_likelihood - plain.log_likelihood:+.1e}",
            ]
        )  # fmt: skip
    rows.append(["median", "", "", "", f"{np.median(ratios):.1f}x", ""])
    table(
        "Passes on overlapping and near-collinear problems (n = 3,000)",
        ["seed", "problem", "plain EM", "accelerated", "ratio", "gain in ll"],
        rows,
    )


def small():
    """Latency of small fits, and of the first fit of a process."""
    df = datasets.load_tonedata()
    X, y = df[["stretchratio"]].to_numpy(), df["tuned"].to_numpy()
    one = estimators.MoERegressor(n_experts=2, init="kmeans", n_init=1, random_state=0)
    one.fit(X, y)
    ten = estimators.MoERegressor(n_experts=2, random_state=0).fit(X, y)
    code = (
        "import time; t = time.perf_counter()\n"
        "import mixexperts as mx\n"
        "df = mx.datasets.load_tonedata()\n"
        "mx.MoERegressor(n_experts=2, n_init=1).fit(df[['stretchratio']], df['tuned'])\n"
        "print(time.perf_counter() - t)"
    )
    first = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    rows = [
        ["tonedata, K = 2, one start, warm", f"{1e3 * best_of(lambda: one.fit(X, y), 20):.1f} ms"],
        ["tonedata, K = 2, ten starts, warm", f"{1e3 * best_of(lambda: ten.fit(X, y)):.1f} ms"],
        ["first fit of a process, kernels cached", f"{min(first):.2f} s"],
    ]
    table("Small problems", ["what", "time"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    rates = machine_floor()
    passes(100_000 if quick else 1_000_000, rates)
    optimum(10_000 if quick else 100_000)
    slow_suite()
    small()


if __name__ == "__main__":
    main()
