"""
Which gate
==========

**Question.** A gate says how probable each expert is where. Softmax, tree, sigmoid, cosine: what
can each of them draw, and does the choice show in real data?

Four gates are fitted to data whose regions are known, then their borders are drawn. After that a
temperature is estimated where it means something, and gates are compared on ethanol engines.
"""

# %%
# Regions that planes cannot offset
# ---------------------------------
# Two features, four experts with their own levels. The regions are those of a tree: first left or
# right, then up or down, at a height that depends on the side. Borders of a linear softmax gate are
# planes that must meet; these do not.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mixexperts as mx
from mixexperts.errors import SeparationWarning
from mixexperts.gates import Cosine, Softmax, Tree

rng = np.random.default_rng(0)


def draw(n):
    X = rng.uniform(-2.0, 2.0, (n, 2))
    right = rng.random(n) < 1.0 / (1.0 + np.exp(-6.0 * X[:, 0]))
    height = np.where(right, -0.9, 0.9)
    up = rng.random(n) < 1.0 / (1.0 + np.exp(-6.0 * (X[:, 1] - height)))
    label = 2 * right + up
    y = 3.0 * label + 0.5 * X[:, 0] + 0.4 * rng.standard_normal(n)
    return X, y, label


X, y, label = draw(1500)
X_new, y_new, _ = draw(4000)

# %%
# The same number of experts for all, and six starts each. The log density of new rows given their
# features compares gates fairly; so does BIC here, since all of them are fitted to y given x.

gates = {
    "softmax": Softmax(),
    "tree": Tree(((0, 1), (2, 3))),
    "sigmoid": "sigmoid",
    "cosine": Cosine(),
}
fits, rows = {}, {}
for name, gate in gates.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        est = mx.MoERegressor(4, gate=gate, n_init=6, random_state=0).fit(X, y)
    fits[name] = est
    rows[name] = {
        "parameters": est.n_parameters_,
        "log-likelihood": est.log_likelihood_,
        "BIC": est.bic(X, y),
        "new rows": est.score_samples(X_new, y_new).mean(),
    }
print(pd.DataFrame(rows).T.round(3).to_string())

# %%
# The most probable expert at each point, dark where the gate is sure. White lines are the true
# borders.

grid = np.linspace(-2.0, 2.0, 161)
mesh = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
colours = np.array([[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167]]) / 255.0


def borders(axis):
    axis.plot([0, 0], [-2, 2], "w-", lw=1.5)
    axis.plot([-2, 0], [0.9, 0.9], "w-", lw=1.5)
    axis.plot([0, 2], [-0.9, -0.9], "w-", lw=1.5)


figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), sharex=True, sharey=True, layout="constrained")
for axis, (name, est) in zip(axes, fits.items(), strict=True):
    weights = est.gate_proba(mesh)
    picture = (weights @ colours).reshape(len(grid), len(grid), 3)
    axis.imshow(picture, origin="lower", extent=(-2, 2, -2, 2))
    borders(axis)
    axis.set(title=f"{name}: {rows[name]['new rows']:.3f}", xlabel="$x_1$")
axes[0].set_ylabel("$x_2$")
plt.show()

# %%
# The tree has the two heights. The softmax gate has as many parameters and bends its cells around
# them as planes allow. The sigmoid gate has a softmax gate as its limit and found nothing better
# here (its fit warns of that). The cosine gate cuts wedges around a centre and is not made for
# this.
#
# The splits of the tree, branch by branch. A row is a coefficient of the branch that leads to an
# expert against the other branch of that split; experts outside the split have no entry.

frame = pd.DataFrame(X, columns=["x1", "x2"]).assign(y=y)
tree = mx.moe(
    "y ~ x1 | x1 + x2", data=frame, n_experts=4, gate_family=Tree(((0, 1), (2, 3))), n_init=3
)
print(tree.gate_table.round(2).to_string(na_rep=""))

# %%
# Few experts at a time
# ---------------------
# Where regions are clear most rows need one expert. Keeping the experts that hold 90 percent of
# the weight changes predictions little and saves the others.

est = fits["tree"]
dense = est.predict(X_new)
cuts = {
    "all": {},
    "top_p=0.99": {"top_p": 0.99},
    "top_p=0.9": {"top_p": 0.9},
    "top_k=1": {"top_k": 1},
}
table = {
    name: {
        "active experts": est.active_experts(X_new, **cut),
        "RMSE": np.sqrt(np.mean((y_new - est.predict(X_new, **cut)) ** 2)),
    }
    for name, cut in cuts.items()
}
print(pd.DataFrame(table).T.round(3).to_string())

# %%
# A temperature that can be estimated
# -----------------------------------
# With linear logits a temperature is only another unit of the coefficients, and asking for its
# estimate is refused.

try:
    Softmax(temperature="estimate")
except ValueError as error:
    print(error)

# %%
# With tanh logits it is a parameter: the logits saturate at plus or minus one, and the temperature
# says how far the weights go there. Two lines, and a gate that never gives more than 94 percent.

n = 4000
x = rng.uniform(-3.0, 3.0, (n, 1))
weight = 1.0 / (1.0 + np.exp(-(np.tanh(2.0 * x[:, 0]) + 0.1) / 0.4))
first = rng.random(n) < weight
response = np.where(first, 4.0 + x[:, 0], -x[:, 0]) + 0.5 * rng.standard_normal(n)
saturating = mx.MoERegressor(
    2, gate=Softmax(activation="tanh", temperature="estimate"), random_state=0
).fit(x, response)
linear = mx.MoERegressor(2, random_state=0).fit(x, response)
print(f"temperature {float(saturating.gate_temperature_):.3f}, true 0.4")
print(f"BIC: tanh {saturating.bic(x, response):.1f}, linear {linear.bic(x, response):.1f}")

# %%
line = np.linspace(-3, 3, 200)[:, None]
truth = 1.0 / (1.0 + np.exp(-(np.tanh(2.0 * line[:, 0]) + 0.1) / 0.4))
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(line, truth, color="black", lw=3, alpha=0.3, label="truth")
for est, style, name in (
    (saturating, "-", "tanh, temperature estimated"),
    (linear, "--", "linear"),
):
    upper = int(est.predict_experts([[0.0]])[0].argmax())
    axis.plot(line, est.gate_proba(line)[:, upper], style, label=name)
axis.set(xlabel="x", ylabel="weight of the upper line", ylim=(0, 1))
axis.legend()
plt.show()

# %%
# Real data: ethanol in an engine
# -------------------------------
# Nitric oxides from an engine run on ethanol rise and fall with the richness of the mixture. Two
# lines follow it, and the gate decides where one gives way to the other. Eighty-eight rows;
# ten-fold cross-validated log densities, the same folds for all.

ethanol = mx.datasets.load_ethanol()
features, nox = ethanol[["E", "C"]], ethanol["NOx"]
folds = np.random.default_rng(1).permutation(np.arange(len(nox)) % 10)
choices = {
    "constant": "constant",
    "softmax": "softmax",
    "softmax, tanh of x": Softmax(transform="tanh"),
    "sigmoid": "sigmoid",
    "cosine": "cosine",
    "gaussian": "gaussian",
}


def held_out(gate):
    """Mean log density of rows that the fit did not see."""
    found = np.empty(len(nox))
    for fold in range(10):
        train, test = folds != fold, folds == fold
        est = mx.MoERegressor(2, gate=gate, gate_features=["E"], n_init=5, random_state=0).fit(
            features[train], nox[train]
        )
        found[test] = est.score_samples(features[test], nox[test])
    return {"log density": found.mean(), "std err": found.std(ddof=1) / np.sqrt(len(nox))}


with warnings.catch_warnings():
    warnings.simplefilter("ignore", SeparationWarning)
    comparison = pd.DataFrame({name: held_out(gate) for name, gate in choices.items()}).T
print(comparison.round(3).to_string())

# %%
# A gate that sees the mixture is worth far more than none; between such gates the differences are
# smaller than their standard errors. With two experts and one feature all of them draw one border,
# and the plain softmax gate is the one to report.
#
# Odds ratios
# -----------
# The coefficients of a softmax gate read as odds ratios, here of athletes' body fat by body mass
# index: one unit more multiplies the odds of an expert against the last by this factor.

athletes = mx.moe("Bfat ~ LBM + C(sex) | BMI", data=mx.datasets.load_ais(), n_experts=2)
print(athletes.odds_ratios().round(3).to_string())

# %%
# References
# ----------
# Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM algorithm.
# Neural Computation 6, 181-214.
#
# Nguyen, H., Akbarian, P. and Ho, N. (2024). Is temperature sample efficient for softmax Gaussian
# mixture of experts? Proceedings of the 41st International Conference on Machine Learning.
#
# Brinkman, N. D. (1981). Ethanol fuel: a single-cylinder engine study of efficiency and exhaust
# emissions. SAE Transactions 90, 1410-1424.
