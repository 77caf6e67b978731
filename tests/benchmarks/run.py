"""Speed of the engine against a yardstick and against the machine, side by side in one run.

    python tests/benchmarks/run.py [--quick] [--only PARTS]

Parts: passes, optimum, slow, gates, families, lasso, growth, memory, small.

Prints Markdown tables. Ratios are what counts: both sides of each are measured in this run. R's
flexmix and mclust are measured where Rscript finds them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import peers
from common import best_of, floor_seconds, init_of, machine_floor, problem, table
from families import families
from lasso import lasso
from naive_em import naive_em, naive_pass
from threadpoolctl import threadpool_limits

from mixexperts import datasets, estimators
from mixexperts._batch import Batch, Columns, Theta
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.executors import SerialExecutor, ThreadExecutor
from mixexperts.em.passes import fused_pass
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

HERE = Path(__file__).parent


def passes(n, rates):
    rows = []
    for d, n_experts in ((10, 3), (10, 5), (30, 3)):
        X, y, design, coef, scale, gate = problem(n, d, n_experts)
        # as the estimators hand it over: the columns are made by the pass
        columns = Columns(X, 0, n, np.arange(-1, d), np.zeros(d + 1), np.ones(d + 1))
        batch = Batch(y, {"mean": columns}, columns, np.ones(n))
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
    """CPU seconds from one start to the optimum, one thread, against the naive EM and flexmix."""
    rows = []
    for d, n_experts in ((10, 3), (2, 3)):
        X, y, design, coef, scale, gate = problem(n, d, n_experts, seed=1)
        est = estimators.MoERegressor(
            n_experts, init=init_of(coef, scale, gate), n_init=1, n_jobs=1, random_state=0
        )
        with threadpool_limits(1):
            est.fit(X[:50_000], y[:50_000])  # the kernels are compiled
            start = time.process_time()
            est.fit(X, y)
            own = time.process_time() - start
            start = time.process_time()
            naive_ll, naive_passes, _ = naive_em(y, design, coef, scale, gate)
            naive = time.process_time() - start
        others = [("naive NumPy (to 1e-12)", naive, naive_passes, naive_ll)]
        if d == 10:
            others += peers.flexmix(X, y, n_experts)
        name = f"n={n:,} d={d} K={n_experts}"
        best = max(est.log_likelihood_, *(other[3] for other in others))
        rows.append(
            [
                name,
                "mixexperts",
                f"{own:.3f}",
                est.n_iter_,
                "",
                f"{est.log_likelihood_ - best:+.2e}",
            ]
        )
        for other, cpu, n_passes, ll in others:
            rows.append(
                [name, other, f"{cpu:.2f}", n_passes, f"{cpu / own:.0f}x", f"{ll - best:+.2e}"]
            )
    table(
        "To the optimum from one start, one thread (mixexperts: the whole call of fit)",
        ["problem", "who", "CPU seconds", "passes", "mixexperts is faster", "ll below the best"],
        rows,
    )


def slow_suite():
    """Passes on overlapping and near-collinear problems, plain EM against the accelerated one."""
    rows, ratios = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n, d, n_experts = 3000, 1 + seed % 3, 2 + seed % 2
        X = rng.normal(size=(n, d))
        if seed % 4 == 3:
            X = np.column_stack([X, X[:, 0] + 0.05 * rng.normal(size=n)])
        X, y, truth = datasets.make_moe_regression(
            X=X,
            n_experts=n_experts,
            noise=1.0,
            separation=0.7,
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


def gaussian_gate(n):
    """The joint model with a Gaussian gate against scikit-learn's GaussianMixture, CPU seconds."""
    rows = peers.gaussian_mixture(n, n_features=5, n_experts=4)
    table(
        f"Gaussian gate, joint likelihood, n = {n:,}, 6 joint dimensions, K = 4, one thread",
        ["who", "CPU seconds", "passes", "mixexperts is faster", "log-likelihood"],
        rows,
    )


def growth(n):
    """How the time of a pass grows in n, d and K, with the slope of its logarithm."""
    rows = []
    base = {"n": n // 10, "d": 10, "K": 3}
    grids = {
        "n": (n // 100, n // 30, n // 10, n // 3, n),
        "d": (3, 6, 12, 24, 48),
        "K": (2, 4, 8, 16),
    }
    for name, grid in grids.items():
        seconds = []
        for value in grid:
            size = base | {name: value}
            _, y, design, coef, scale, gate = problem(size["n"], size["d"], size["K"])
            batch = Batch(y, {"mean": design}, design, np.ones(size["n"]))
            theta = Theta({"coef": gate}, {"coef": coef, "scale": scale})
            work = functools.partial(fused_pass, Model(Softmax(), Gaussian()), theta, batch)
            work()
            seconds.append(best_of(work, 3))
        slope = np.polyfit(np.log(grid), np.log(seconds), 1)[0]
        cells = ", ".join(f"{v:,}: {1e3 * s:.3g}" for v, s in zip(grid, seconds, strict=True))
        rows.append([name, cells, f"{slope:.2f}"])
    table("Growth of one pass, milliseconds, one thread", ["in", "milliseconds", "slope"], rows)


def memory(n):
    """Peak memory of a fit above that of the data, in a process of its own."""
    rows = []
    for chunk_rows in (None, 32768):
        code = (HERE / "memory.py").read_text()
        arguments = [sys.executable, "-c", code, str(n), str(chunk_rows or 0)]
        found = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
        rows.append(
            [
                f"n={n:,} d=10 chunk_rows={chunk_rows}",
                f"{found['data']:.0f} MB",
                f"{found['above']:.0f} MB",
            ]
        )
    table("Peak memory of a fit above the data", ["fit", "X", "above the data"], rows)


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

    def first(cache):
        environment = dict(os.environ, NUMBA_CACHE_DIR=cache)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env=environment
        )
        return float(done.stdout)

    with tempfile.TemporaryDirectory() as cache:
        cold = first(cache)
        warm = min(first(cache) for _ in range(3))
    rows = [
        ["tonedata, K = 2, one start, warm", f"{1e3 * best_of(lambda: one.fit(X, y), 20):.1f} ms"],
        ["tonedata, K = 2, ten starts, warm", f"{1e3 * best_of(lambda: ten.fit(X, y)):.1f} ms"],
        ["first fit of a process, kernels not compiled yet", f"{cold:.1f} s"],
        ["first fit of a process, kernels cached", f"{warm:.2f} s"],
    ]
    table("Small problems", ["what", "time"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--only", default="", help="names of the tables, separated by commas")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    n = 100_000 if arguments.quick else 1_000_000
    rates = machine_floor()
    parts = {
        "passes": lambda: passes(n, rates),
        "optimum": lambda: optimum(n // 10),
        "slow": slow_suite,
        "gates": lambda: gaussian_gate(n),
        "families": lambda: families(n // 10),
        "lasso": lambda: lasso(("fits",) if arguments.quick else ("fits", "path", "wide")),
        "growth": lambda: growth(n),
        "memory": lambda: memory(n),
        "small": small,
    }
    for name in arguments.only.split(",") if arguments.only else parts:
        parts[name]()


if __name__ == "__main__":
    main()
