"""
Many rows, few passes
=====================

**Question.** A fit reads the data again and again. How many times must it, and what does it need
in memory?

EM is sure and slow: where experts overlap it takes hundreds of small steps. This vignette counts
them on a simulated problem, shows what the package does about it, and fits the same model to data
that are never in memory at once.
"""

# %%
# Experts that overlap
# --------------------
# Two features, three experts whose lines lie close together compared with the noise.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mixexperts as mx

X, y, truth = mx.datasets.make_moe_regression(
    n_samples=4000,
    n_features=2,
    n_experts=3,
    noise=1.0,
    separation=0.8,
    gate_strength=0.7,
    random_state=5,
)
start = {
    "intercept": truth.intercept,
    "coef": truth.coef,
    "scale": truth.scale,
    "gate_intercept": truth.gate_intercept,
    "gate_coef": truth.gate_coef,
}

# %%
# Plain EM and the default
# ------------------------
# Both begin at the truth, as no user can. ``accelerate=False`` is the EM of the textbooks. The
# default extrapolates its first steps (Anderson acceleration) and ends with Newton steps on the
# observed log-likelihood, each inside a region where its quadratic model has proved itself. A
# step that lowers the log-likelihood is never taken.

plain = mx.MoERegressor(3, init=start, max_iter=20_000, accelerate=False).fit(X, y)
default = mx.MoERegressor(3, init=start).fit(X, y)
pd.DataFrame(
    {
        "passes": [plain.n_iter_, default.n_iter_],
        "log_likelihood": [plain.log_likelihood_, default.log_likelihood_],
        "converged": [plain.converged_, default.converged_],
    },
    index=["plain EM", "default"],
)

# %%
# How far below the maximum each stands after its passes (those of the default that only read the
# information are not drawn):

best = max(plain.log_likelihood_, default.log_likelihood_)
fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for est, label, style in ((plain, "plain EM", "--"), (default, "default", "-")):
    gap = np.maximum(best - est.history_, 1e-9)
    ax.plot(np.arange(1, len(gap) + 1), gap, style, color="black", label=label)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="accepted passes over the rows",
    ylabel="log-likelihood below the maximum",
)
ax.legend(frameon=False)
plt.show()

# %%
# EM comes near in a few passes and then creeps: a stopping rule on the change of the
# log-likelihood would stop it there, far from the estimate. Here *converged* means that the
# gradient promises less than ``tol`` (1e-8) units of log-likelihood, by EM's step and by Newton's.
#
# Many starts on many rows
# ------------------------
# From 20,000 rows on, all starts run on a sample of the rows first. At most three go on to all of
# them; the others are marked ``screened``, and have no log-likelihood because none was computed.

X, y, _ = mx.datasets.make_moe_regression(
    n_samples=60_000, n_features=4, n_experts=3, random_state=1
)
est = mx.MoERegressor(3, n_init=6, random_state=0).fit(X, y)
est.restarts_[["init", "log_likelihood", "status", "n_iter", "reached_best"]]

# %%
# Data that are never in memory
# -----------------------------
# A *source* takes the place of X and y. This one reads a Parquet file; every pass reads it anew,
# some thousand rows at a time.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "rows.parquet")
names = [f"x{j}" for j in range(X.shape[1])]
pd.DataFrame(X, columns=names).assign(y=y).to_parquet(path)

source = mx.sources.ParquetSource(path, features=names, response="y")
streamed = mx.MoERegressor(3, n_init=6, random_state=0).fit(source)
print(
    f"log-likelihood in memory {est.log_likelihood_:.6f}, streamed {streamed.log_likelihood_:.6f}"
)
print(f"largest difference of coefficients {np.abs(est.coef_ - streamed.coef_).max():.1e}")

# %%
# The sums over rows are the same, and so is the fit. The memory that it takes does not depend on
# the number of rows.

folder.cleanup()
