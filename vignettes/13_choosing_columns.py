"""
Which columns matter, and to whom?
==================================

**Question.** There are twenty measurements and two regimes, and most of the measurements matter to
neither. Which do matter, and to which of the experts, or to the gate?

The data follow the design by which Chamroukhi and Huynh (2019) compare lasso mixtures of experts,
with columns added that have no part. At the end there are two thousand columns for two hundred
rows.
"""

# %%
# The data
# --------
# 300 rows. The first expert has two slopes, the second three, the gate two: 7 of the 60 numbers
# that a full model would estimate.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import Lasso

import mixexperts as mx

X, y, truth = mx.datasets.make_sparse_moe(300, 20, random_state=0)
new_X, new_y, new_truth = mx.datasets.make_sparse_moe(5000, 20, random_state=100)

# %%
# All columns
# -----------
# Maximum likelihood gives every column a slope in each expert and in the gate. It fits the rows
# better than the truth does, and new rows much worse.

full = mx.MoERegressor(2, random_state=0).fit(X, y)


def per_row(model):
    return model.score_samples(X, y).mean(), model.score_samples(new_X, new_y).mean()


print("            these rows   new rows")
print("all columns  {:9.3f}  {:9.3f}".format(*per_row(full)))
true_rows = truth.log_likelihood(X, y) / 300, new_truth.log_likelihood(new_X, new_y) / 5000
print("the truth    {:9.3f}  {:9.3f}".format(*true_rows))

# %%
# A path of penalties
# -------------------
# The lasso takes ``alpha`` times the sum of the experts' absolute slopes and ``gate_alpha`` times
# those of the gate off the mean log-likelihood. From the strength at which all slopes are zero,
# a path goes down to a hundredth of it, for three ratios of the two strengths. BIC chooses.

bic = mx.LassoMoERegressorCV(2, criterion="bic", n_alphas=20, random_state=0).fit(X, y)
print(f"alpha {bic.alpha_:.4f}, gate_alpha {bic.gate_alpha_:.4f}, {bic.n_nonzero_} slopes")
axes = mx.plots.plot_path(bic)
plt.show()

# %%
# At each point the conditions of optimality were checked for every column:

print(f"largest violation: {bic.cv_results_['kkt_violation'].max():.1e}")

# %%
# Cross-validation
# ----------------
# BIC needs one path per ratio, cross-validation one per ratio and fold more. It judges by rows
# that were held out, and chooses a weaker penalty: for prediction a few slopes too many do little
# harm. The dotted line is the sparsest point within a standard error of the best.

cv = mx.LassoMoERegressorCV(2, gate_ratio=0.5, n_alphas=12, random_state=0).fit(X, y)
ax = mx.plots.plot_cv(cv)
plt.show()

# %%
# What shrinking costs
# --------------------
# The penalty that silences columns also shrinks those that matter. Two remedies: ``relax=True``
# fits what was selected once more without penalty, and ``penalty="adaptive"`` fits again with
# weights that spare slopes which were large. Both make BIC choose fewer columns.

kept = {"gate_ratio": 0.5, "criterion": "bic", "n_alphas": 20, "random_state": 0}
models = {
    "all columns": full,
    "lasso, CV": cv,
    "lasso, BIC": bic,
    "relaxed, BIC": mx.LassoMoERegressorCV(2, relax=True, **kept).fit(X, y),
    "adaptive, BIC": mx.LassoMoERegressorCV(2, penalty="adaptive", **kept).fit(X, y),
}


def numbered(model):
    """Slopes of the truth, experts in the order of the model's."""
    swap = np.abs(model.coef_ - truth.coef).sum() > np.abs(model.coef_ - truth.coef[::-1]).sum()
    order = [1, 0] if swap else [0, 1]
    gate = truth.gate_coef[0] * (-1 if swap else 1)
    return truth.coef[order], gate


rows = {}
for name, model in models.items():
    coef, gate = numbered(model)
    odds = model.gate_coef_[0] - model.gate_coef_[1]
    found = np.concatenate([model.coef_.ravel(), odds])
    true = np.concatenate([coef.ravel(), gate])
    rows[name] = {
        "right": int(((found != 0) & (true != 0)).sum()),
        "wrong": int(((found != 0) & (true == 0)).sum()),
        "error of slopes": np.sqrt(((found - true) ** 2).sum()),
        "new rows": per_row(model)[1],
    }
table = pd.DataFrame(rows).T.astype({"right": int, "wrong": int})
print(table.round(3).to_string())

# %%
# All four find the seven slopes. Chosen by cross-validation the lasso takes eleven too many.
# The relaxed and the adaptive fit come close to the truth on the new rows, which has -1.632, and
# the adaptive one has the fewest slopes too many.

adaptive = models["adaptive, BIC"]
coef, gate = numbered(adaptive)
terms = pd.DataFrame(
    {
        "expert 1": adaptive.coef_[0],
        "true 1": coef[0],
        "expert 2": adaptive.coef_[1],
        "true 2": coef[1],
        "gate": adaptive.gate_coef_[0] - adaptive.gate_coef_[1],
        "true gate": gate,
    },
    index=[f"x{j}" for j in range(20)],
)
print(terms[(terms != 0).any(axis=1)].round(2).to_string())

# %%
# How sure is the selection?
# --------------------------
# Standard errors do not hold after a choice of columns by the same rows, and are not given. What
# can be said is how often columns are selected on halves of the rows.

single = mx.LassoMoERegressor(2, alpha=0.02, penalty="adaptive", n_init=4, random_state=0)
stable = mx.stability_selection(single, X, y, n_subsamples=40, pairs=True, random_state=0)
print(stable)
ax = mx.plots.plot_stability(stable, n_terms=10)
plt.show()

# %%
# Four columns stand out. The fifth, x3, has a slope of 1 in the gate alone; half of the rows seldom
# show it.
#
# Intervals need rows that had no part in the choice. Half of the rows select, and the other half
# estimates without penalty.

halves = mx.sample_splitting(single, X, y, random_state=0)
columns = ["room", "expert", "term", "coef", "std_err", "lower", "upper"]
print(halves.table[columns].round(2).to_string(index=False))

# %%
# They are intervals for the model that was selected. The first half left x0 out of expert 1; its
# part went to the intercept and to x1, with which it is correlated, and the interval of x1 misses
# the true -1.5.
#
# Two thousand columns
# --------------------
# 200 rows, 2,000 columns, five slopes of size 2 for each expert and two of size 3 for the gate.
# With so many columns a Gaussian expert can pass through its rows, and the objective grows without
# bound as its scale shrinks. Therefore the penalty now sees slopes in units of their expert's
# scale: a small scale makes them dear. EBIC counts how many models there were to choose from.

wide_X, wide_y, wide_truth = mx.datasets.make_wide_moe(random_state=0)
wide = mx.LassoMoERegressorCV(
    2, penalty="adaptive", gate_ratio=1.0, n_alphas=15, criterion="ebic", random_state=0
).fit(wide_X, wide_y)
for k in range(2):
    found, true = np.flatnonzero(wide.coef_[k]), np.flatnonzero(wide_truth.coef[k])
    print(f"expert {k + 1}: true {true}, found {found}")
found, true = np.flatnonzero(wide.gate_coef_[0]), np.flatnonzero(wide_truth.gate_coef[0])
print(f"gate: true {true}, found {found}")

axes = mx.plots.plot_path(wide)
plt.show()

# %%
# Where the penalty is strong the experts have not parted yet, and x1485, which belongs to the gate,
# has a slope in one of them. Only the six largest columns have colours; the grey lines that leave
# zero beside them are the other true ones.
#
# The numbers to check
# --------------------
# With one expert the model is a linear regression with a penalty, and its slopes are those of
# scikit-learn's lasso: the scale is estimated too, and its square multiplies the penalty.

one = mx.LassoMoERegressor(1, alpha=0.2, tol=1e-10).fit(X, y)
standard = (X - X.mean(axis=0)) / X.std(axis=0)
peer = Lasso(alpha=0.2 * one.scale_[0] ** 2, tol=1e-12).fit(standard, y)
assert np.abs(one.coef_[0] * X.std(axis=0) - peer.coef_).max() < 1e-7
assert (table["right"] == 7).all()
assert table.loc["adaptive, BIC", "new rows"] > -1.66
assert bic.cv_results_["kkt_violation"].max() < 1e-6
for k in range(2):
    assert set(np.flatnonzero(wide_truth.coef[k])) <= set(np.flatnonzero(wide.coef_[k]))

# %%
# References
# ----------
# Chamroukhi, F. and Huynh, B.-T. (2019). Regularized maximum likelihood estimation and feature
# selection in mixtures-of-experts models. Journal de la Société Française de Statistique 160.
#
# Chen, J. and Chen, Z. (2008). Extended Bayesian information criteria for model selection with
# large model spaces. Biometrika 95, 759-771.
#
# Meinshausen, N. and Bühlmann, P. (2010). Stability selection. Journal of the Royal Statistical
# Society B 72, 417-473.
#
# Shah, R. D. and Samworth, R. J. (2013). Variable selection with error control: another look at
# stability selection. Journal of the Royal Statistical Society B 75, 55-80.
#
# Städler, N., Bühlmann, P. and van de Geer, S. (2010). l1-penalization for mixture regression
# models. TEST 19, 209-256.
#
# Zou, H. (2006). The adaptive lasso and its oracle properties. Journal of the American Statistical
# Association 101, 1418-1429.
