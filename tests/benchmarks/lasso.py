"""Speed of penalised fits and paths, beside a plain EM with scikit-learn's Lasso as its M-step.

    python tests/benchmarks/lasso.py [fits,path,wide]

The design is that of ``datasets.make_sparse_moe``, with columns beyond its six that have no part.
Penalties are of the size that BIC takes there.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from common import best_of, table
from scipy.special import log_softmax
from sklearn.linear_model import Lasso
from threadpoolctl import threadpool_limits

from mixexperts import datasets, estimators

# lambda and gamma of the sums over rows grow with the root of n: 9 and 6 at n = 300.
ALPHA, GATE_ALPHA = 0.03, 0.02


def naive_em(X, y, coef, gate, scale, alpha, gate_alpha, *, tol=1e-8, most=2000):
    """EM of a careful person: exact lasso M-steps by scikit-learn, the gate's bound 1/4.

    Two Gaussian experts; the gate is that of the first against the second. X has standardised
    columns. Returns the penalised log-likelihood and the number of iterations.
    """
    n = len(y)
    experts = [Lasso(warm_start=True, tol=1e-5, max_iter=10_000) for _ in range(2)]
    logistic = Lasso(alpha=4.0 * gate_alpha, warm_start=True, tol=1e-5, max_iter=10_000)
    previous = -np.inf
    for iteration in range(1, most + 1):  # noqa: B007 (returned)
        eta = gate[0] + X @ gate[1:]
        log_gate = log_softmax(np.column_stack([eta, np.zeros(n)]), axis=1)
        residual = y[:, None] - coef[:, 0] - X @ coef[:, 1:].T
        log_f = -0.5 * (residual / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        joint = log_gate + log_f
        total = np.logaddexp.reduce(joint, axis=1)
        lost = alpha * np.abs(coef[:, 1:]).sum() + gate_alpha * np.abs(gate[1:]).sum()
        objective = total.sum() - n * lost
        if objective - previous <= tol * abs(objective):
            break
        previous = objective
        resp = np.exp(joint - total[:, None])
        for k, lasso in enumerate(experts):
            lasso.set_params(alpha=n * alpha * scale[k] ** 2 / resp[:, k].sum())
            lasso.fit(X, y, sample_weight=resp[:, k])
            coef[k] = np.append(lasso.intercept_, lasso.coef_)
            left = y - lasso.predict(X)
            scale[k] = np.sqrt(resp[:, k] @ left**2 / resp[:, k].sum())
        logistic.fit(X, eta + 4.0 * (resp[:, 0] - np.exp(log_gate[:, 0])))
        gate = np.append(logistic.intercept_, logistic.coef_)
    return objective, iteration


def fits():
    """Fits with ten starts, and one start of the naive EM from the true parameters."""
    rows = []
    for n, d, bar in ((300, 50, 0.15), (1000, 100, 0.5)):
        X, y, truth = datasets.make_sparse_moe(n, d, random_state=0)
        alpha, gate_alpha = (value * np.sqrt(300 / n) for value in (ALPHA, GATE_ALPHA))
        est = estimators.LassoMoERegressor(2, alpha, gate_alpha, random_state=0)
        one = estimators.LassoMoERegressor(
            2, alpha, gate_alpha, init=truth.labels, n_init=1, random_state=0
        )
        Z = (X - X.mean(axis=0)) / X.std(axis=0)
        coef = np.column_stack([truth.intercept, truth.coef])
        gate = np.append(truth.gate_intercept[0], truth.gate_coef[0])
        with threadpool_limits(1):
            est.fit(X, y)  # the kernels are compiled
            own, single = best_of(lambda: est.fit(X, y)), best_of(lambda: one.fit(X, y))  # noqa: B023
            start = time.perf_counter()
            objective, passes = naive_em(Z, y, coef, gate, truth.scale.copy(), alpha, gate_alpha)
            naive = time.perf_counter() - start
        name = f"n={n:,} d={d} K=2"
        best = max(est.objective_, objective)
        rows += [
            [name, "mixexperts, ten starts", f"{own:.3f}", f"{bar}", est.n_iter_,
             f"{est.objective_ - best:+.1e}", f"{est.kkt_violation_:.0e}"],
            [name, "mixexperts, one start", f"{single:.3f}", "", one.n_iter_,
             f"{one.objective_ - best:+.1e}", f"{one.kkt_violation_:.0e}"],
            [name, f"EM with scikit-learn, one start ({naive / single:.0f}x)", f"{naive:.2f}", "",
             passes, f"{objective - best:+.1e}", ""],
        ]  # fmt: skip
    table(
        "Penalised fits at one point, seconds, one thread",
        ["problem", "who", "seconds", "bar", "passes", "below the best objective", "KKT"],
        rows,
    )


def path_of(n, p, n_experts):
    """A path of 50 points in a process of its own: seconds, and peak memory in MB."""
    X, y, _ = datasets.make_wide_moe(n, p, n_experts=n_experts, random_state=0)
    start, start_cpu = time.perf_counter(), time.process_time()
    est = estimators.LassoMoERegressor(n_experts, random_state=0)
    path = est.path(X, y, n_alphas=50)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    status = path.table["status"].value_counts().to_dict()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "data": X.nbytes / 2**20,
                "points": len(path.table),
                "kkt": float(path.table["kkt_violation"].max()),
                "status": ", ".join(f"{name} {count}" for name, count in status.items()),
                "most": int(path.table["n_nonzero"].max()),
            }
        )
    )


def path():
    rows = []
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import lasso; "
    for n, p, n_experts in ((500, 5000, 3), (200, 2000, 2)):
        work = code + f"lasso.path_of({n}, {p}, {n_experts})"
        call = [sys.executable, "-W", "ignore", "-c", work]
        cells = []
        for _ in range(2):  # the first may compile
            done = subprocess.run(call, capture_output=True, check=True, text=True)
            cells.append(json.loads(done.stdout))
        found = min(cells, key=lambda cell: cell["seconds"])
        rows.append(
            [
                f"n={n} p={p:,} K={n_experts}", found["points"], f"{found['seconds']:.1f}",
                f"{found['cpu']:.1f}", f"{found['peak']:.0f}", f"{found['data']:.0f}",
                f"{found['kkt']:.0e}", found["status"], found["most"],
            ]
        )  # fmt: skip
    table(
        "Paths of 50 points, one core, kernels compiled (bar: 60 s on two, 600 MB)",
        ["problem", "points", "seconds", "CPU", "peak MB", "X, MB", "KKT", "status", "most slopes"],
        rows,
    )


def wide():
    """One fit with very many columns."""
    X, y, truth = datasets.make_wide_moe(100, 20_000, n_active=2, n_gate_active=1, random_state=0)
    true = (truth.coef != 0).any(axis=0) | (truth.gate_coef != 0).any(axis=0)
    rows = []
    for alpha in (0.3, 0.2, 0.12):
        est = estimators.LassoMoERegressor(2, alpha, alpha, random_state=0)
        start = time.perf_counter()
        est.fit(X, y)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        est.predict(X)
        predicting = time.perf_counter() - start
        rows.append(
            [
                alpha, f"{seconds:.2f}", f"{predicting:.2f}", est.status_, est.n_nonzero_,
                f"{(true & est.support_).sum()} of {true.sum()}", f"{est.kkt_violation_:.0e}",
            ]
        )  # fmt: skip
    table(
        "n = 100, p = 20,000, K = 2, ten starts, gate_alpha = alpha",
        ["alpha", "fit, s", "predict, s", "status", "slopes", "true columns", "KKT"],
        rows,
    )


PARTS = {"fits": fits, "path": path, "wide": wide}


def lasso(parts=tuple(PARTS)):
    """The tables of some parts."""
    for name in parts:
        PARTS[name]()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    lasso(sys.argv[1].split(",") if len(sys.argv) > 1 else tuple(PARTS))
