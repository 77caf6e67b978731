"""The same problems in scikit-learn and, where Rscript finds them, R's flexmix and mclust."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from mixexperts import estimators, gates

_FLEXMIX = """
suppressMessages(library(flexmix))
a <- commandArgs(TRUE); n <- as.integer(a[2]); p <- as.integer(a[3]); k <- as.integer(a[4])
m <- matrix(readBin(a[1], "double", n * (p + 2)), nrow = n)
df <- as.data.frame(m[, 1:p]); df$y <- m[, p + 1]; start <- as.integer(m[, p + 2])
f <- as.formula(paste("y ~", paste(names(df)[1:p], collapse = "+")))
g <- as.formula(paste("~", paste(names(df)[1:p], collapse = "+")))
t <- system.time(r <- flexmix(f, data = df, k = k, cluster = start, concomitant = FLXPmultinom(g)))
cat(t[["user.self"]] + t[["sys.self"]], r@iter, format(r@logLik, digits = 15))
"""
_MCLUST = """
suppressMessages(library(mclust))
a <- commandArgs(TRUE); n <- as.integer(a[2]); p <- as.integer(a[3]); k <- as.integer(a[4])
m <- matrix(readBin(a[1], "double", n * (p + 1)), nrow = n)
z <- unmap(as.integer(m[, p + 1]))
t <- system.time(r <- me(m[, 1:p], modelName = "VVV", z = z))
cpu <- t[["user.self"]] + t[["sys.self"]]
cat(cpu, attr(r, "info")[["iterations"]], format(r$loglik, digits = 15))
"""


def _run_r(script, columns, *arguments):
    """(CPU seconds, passes, log-likelihood) of a script of R, or None without R or its package."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        data, code = Path(folder, "data.bin"), Path(folder, "run.R")
        data.write_bytes(np.asfortranarray(columns, dtype=float).tobytes(order="F"))
        code.write_text(script)
        done = subprocess.run(
            [rscript, str(code), str(data), *map(str, arguments)], capture_output=True, text=True
        )
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:])
        return None
    cpu, passes, ll = done.stdout.split()
    return float(cpu), int(float(passes)), float(ll)


def _thirds(y, n_experts):
    return np.searchsorted(np.quantile(y, np.arange(1, n_experts) / n_experts), y) + 1


def flexmix(X, y, n_experts):
    """Rows (name, CPU seconds, passes, log-likelihood), empty without flexmix."""
    columns = np.column_stack([X, y, _thirds(y, n_experts)])
    found = _run_r(_FLEXMIX, columns, len(y), X.shape[1], n_experts)
    return [] if found is None else [("R flexmix (its default tolerance)", *found)]


def gaussian_mixture(n, n_features, n_experts):
    """Rows of the table: the same joint model from the same start."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=1.6, size=(n_experts, n_features + 1))
    label = rng.integers(n_experts, size=n)
    factors = rng.normal(scale=0.5, size=(n_experts, n_features + 1, n_features + 1)) + np.eye(
        n_features + 1
    )
    joint = np.empty((n, n_features + 1))
    for k in range(n_experts):
        rows = label == k
        joint[rows] = centres[k] + rng.standard_normal((rows.sum(), n_features + 1)) @ factors[k].T
    X, y = np.ascontiguousarray(joint[:, :-1]), joint[:, -1].copy()
    means = centres + 0.5 * rng.normal(size=centres.shape)
    spread = np.cov(joint[:5000].T)
    sklearn = GaussianMixture(
        n_experts, tol=1e-7, max_iter=500, means_init=means,
        weights_init=np.full(n_experts, 1 / n_experts),
        precisions_init=np.stack([np.linalg.inv(spread)] * n_experts),
    )  # fmt: skip
    slope = np.linalg.solve(spread[:-1, :-1], spread[:-1, -1])
    init = {
        "intercept": means[:, -1] - means[:, :-1] @ slope,
        "coef": np.tile(slope, (n_experts, 1)),
        "scale": np.full(n_experts, np.sqrt(spread[-1, -1] - slope @ spread[:-1, -1])),
        "gate_weights": np.full(n_experts, 1 / n_experts),
        "gate_means": means[:, :-1],
        "gate_covariances": np.stack([spread[:-1, :-1]] * n_experts),
    }
    est = estimators.MoERegressor(
        n_experts, gate=gates.Gaussian(), init=init, n_init=1, n_jobs=1, random_state=0
    )
    with threadpool_limits(1):
        est.fit(X[:50_000], y[:50_000])
        start = time.process_time()
        est.fit(X, y)
        own = time.process_time() - start
        start = time.process_time()
        sklearn.fit(joint)
        theirs = time.process_time() - start
    rows = [
        ["mixexperts", f"{own:.2f}", est.n_iter_, "", f"{est.log_likelihood_:.4f}"],
        [
            "scikit-learn GaussianMixture (tol=1e-7)", f"{theirs:.2f}", sklearn.n_iter_,
            f"{theirs / own:.1f}x", f"{sklearn.score(joint) * n:.4f}",
        ],
    ]  # fmt: skip
    nearest = ((joint[:, None, :] - means[None]) ** 2).sum(axis=2).argmin(axis=1) + 1
    found = _run_r(_MCLUST, np.column_stack([joint, nearest]), n, n_features + 1, n_experts)
    if found is not None:
        cpu, passes, ll = found
        rows.append(["R mclust (VVV)", f"{cpu:.2f}", passes, f"{cpu / own:.1f}x", f"{ll:.4f}"])
    return rows
