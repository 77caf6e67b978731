"""
Two measures of an athlete at once
==================================

**Question.** Body fat and lean body mass depend on height, and differently for women and men. Can
a model that sees height and the two measures, but not the sex, find the two groups? What happens
when a part of the measures is missing?

The data are 202 athletes of the Australian Institute of Sport (Telford and Cunningham 1991). The
response has two columns, so each expert is a multivariate regression with a covariance matrix of
its own.
"""

# %%
# Two responses, two experts
# --------------------------
# The left side of the formula joins the responses by ``+``. The gate looks at height, too.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Ellipse

import mixexperts as mx

athletes = mx.datasets.load_ais()
formula = "Bfat + LBM ~ Ht | Ht"
res = mx.moe(formula, data=athletes, n_experts=2)
print(res.summary())

# %%
# Experts are numbered by the first response: expert 1 has the lower body fat. The model was not
# told the sex, yet its experts are the men and the women, but for a few men.

probable = res.posterior().to_numpy().argmax(axis=1) + 1
print(pd.crosstab(probable, athletes["sex"], rownames=["expert"]))

# %%
# A regression for one response at a time cannot tell them apart as well:

for alone in ("Bfat ~ Ht | Ht", "LBM ~ Ht | Ht"):
    one = mx.moe(alone, data=athletes, n_experts=2, n_init=5)
    groups = pd.crosstab(one.posterior().to_numpy().argmax(axis=1), athletes["sex"]).to_numpy()
    wrong = len(athletes) - max(np.trace(groups), np.trace(groups[::-1]))
    print(f"{alone:16} {wrong:3d} of {len(athletes)} athletes in the wrong group")

# %%
# Ellipses of the experts
# -----------------------
# Each expert's distribution of the two measures moves with height. The ellipses hold 80 percent
# of an expert at three heights; those that the gate hardly uses at a height are left out.


def ellipse(mean, covariance, mass=0.8, **style):
    """The smallest region of a bivariate normal distribution that holds ``mass``."""
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2.0 * np.sqrt(-2.0 * np.log(1.0 - mass) * values)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    return Ellipse(mean, width, height, angle=angle, fill=False, **style)


heights = pd.DataFrame({"Ht": [165.0, 180.0, 195.0]})
means = res.predict_experts(heights).to_numpy().reshape(3, 2, 2)
weights = res.gate_proba(heights).to_numpy()
covariance = res.estimator.covariance_
colors = ["#0072B2", "#D55E00"]
lines = [":", "-", "--"]

figure, axis = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
for sex, marker in (("male", "s"), ("female", "o")):
    rows = (athletes["sex"] == sex).to_numpy()
    shade = [colors[k - 1] for k in probable[rows]]
    style = {"facecolor": "none", "edgecolor": shade, "alpha": 0.55, "s": 16, "marker": marker}
    axis.scatter(athletes["Bfat"][rows], athletes["LBM"][rows], **style)
    axis.scatter([], [], marker=marker, facecolor="none", edgecolor="0.4", s=16, label=sex)
for i, height in enumerate(heights["Ht"]):
    axis.plot([], [], color="0.3", linestyle=lines[i], label=f"{height:.0f} cm")
    for k in range(2):
        if weights[i, k] > 0.02:
            axis.add_patch(
                ellipse(means[i, k], covariance[k], color=colors[k], linestyle=lines[i], lw=1.6)
            )
for k in range(2):
    axis.plot([], [], color=colors[k], lw=1.6, label=f"expert {k + 1}")
axis.set(xlabel="body fat, percent", ylabel="lean body mass, kg", xlim=(2, 38), ylim=(30, 110))
axis.legend(frameon=False, fontsize=8, loc="upper right")
plt.show()

# %%
# Correlation within and between
# ------------------------------
# Given height, body fat and lean mass go together among the men and do not hang together among the
# women. Between the experts they go against each other: who belongs to the expert of the men has
# less fat and more lean mass. Where both experts have weight the sum of the two is negative.

for k in range(2):
    within = covariance[k, 0, 1] / np.sqrt(covariance[k, 0, 0] * covariance[k, 1, 1])
    print(f"correlation within expert {k + 1}: {within:+.2f}")
middle = pd.DataFrame({"Ht": np.arange(160.0, 201.0, 10.0)})
predictive = res.predictive(middle)
table = middle.assign(expert_1=res.gate_proba(middle)[1], correlation=predictive.corr()[:, 0, 1])
print(table.round(2).to_string(index=False))

# %%
# The predictive density at 178 cm has a hill for each expert. Intervals and quantiles are those
# of one response: ``marginal`` gives its distribution.

at = pd.DataFrame({"Ht": [178.0]})
both = res.predictive(at)
fat, lean = np.meshgrid(np.linspace(0, 38, 191), np.linspace(38, 100, 187))
density = both.pdf(np.stack([fat.ravel(), lean.ravel()], axis=1)[None])[0].reshape(fat.shape)

figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
left.contourf(fat, lean, density, levels=10, cmap="Blues")
near = athletes[(athletes["Ht"] - 178.0).abs() < 2.5]
left.plot(near["Bfat"], near["LBM"], "o", color="black", markersize=3)
left.set(xlabel="body fat, percent", ylabel="lean body mass, kg", title="178 cm, and athletes near")
marginal = both.marginal(0)
(lower,), (upper,) = marginal.interval(0.8)
grid = np.linspace(0, 38, 300)
right.plot(grid, marginal.pdf(grid[None])[0], color="#08519c")
right.axvspan(lower, upper, alpha=0.15, color="#08519c", lw=0)
right.set(xlabel="body fat, percent", ylabel="density", title="80 percent interval of one response")
right.set_ylim(bottom=0.0)
plt.show()

# %%
# What if measures are missing?
# -----------------------------
# Suppose body fat is expensive, and measured mostly on athletes with a low lean mass. Whether it is
# missing depends on what was observed; the likelihood of the observed values is then all that is
# needed. Dropping incomplete rows would drop the heavy athletes.

rng = np.random.default_rng(1)
heavy = 1.0 / (1.0 + np.exp(-(athletes["LBM"] - 62.0) / 3.0))
holes = athletes.assign(Bfat=athletes["Bfat"].where(rng.random(len(athletes)) > 0.7 * heavy))
print(f"body fat is missing for {holes['Bfat'].isna().sum()} of {len(holes)} athletes")

start = res.posterior().to_numpy()
complete = holes.dropna()
by_likelihood = mx.moe(formula, data=holes, n_experts=2, init=start)
by_dropping = mx.moe(
    formula, data=complete, n_experts=2, init=start[holes["Bfat"].notna().to_numpy()]
)
fits = {"all values": res, "some missing": by_likelihood, "rows dropped": by_dropping}
at_175 = {
    name: fit.predict(pd.DataFrame({"Ht": [175.0, 190.0]})).to_numpy().ravel()
    for name, fit in fits.items()
}
columns = [f"{name}, {height} cm" for height in (175, 190) for name in ("Bfat", "LBM")]
print(pd.DataFrame(at_175, index=columns).T.round(2).to_string())

# %%
# The fit to all rows, missing values included, stays near that to the complete data. What the
# heavy athletes were not asked it cannot know: their body fat at 190 cm is the least certain. The
# fit to complete rows takes athletes of that height for three kilograms lighter than they are.
#
# A third response of another type
# --------------------------------
# :class:`mixexperts.experts.Joint` has a family for each response. Let the third be whether the
# athlete plays a ball sport: zeros and ones, so binomial.

sports = athletes.assign(ball=athletes["sport"].isin(["B_Ball", "Netball", "Tennis", "W_Polo"]))
family = mx.experts.Joint(["gaussian", "gaussian", "binomial"])
three = mx.moe("Bfat + LBM + ball ~ Ht | Ht", data=sports, n_experts=2, family=family, n_init=5)
print(three.expert_table.round(2).to_string())
chance = three.predictive(heights).marginal(2).mean()
print("chance of a ball sport at 165, 180 and 195 cm:", chance.round(2))

# %%
# The number to check
# -------------------
# No fit of this mixture has been published. One expert must be multivariate least squares.

one = mx.moe(formula, data=athletes, n_experts=1)
design = np.column_stack([np.ones(len(athletes)), athletes["Ht"]])
Y = athletes[["Bfat", "LBM"]].to_numpy()
beta = np.linalg.lstsq(design, Y, rcond=None)[0]
print(one.estimator.covariance_[0].round(4))
np.testing.assert_allclose(one.estimator.intercept_[0], beta[0], rtol=1e-8)
np.testing.assert_allclose(one.estimator.coef_[0, :, 0], beta[1], rtol=1e-8)
covariance = np.cov((Y - design @ beta).T, bias=True)
np.testing.assert_allclose(one.estimator.covariance_[0], covariance, rtol=1e-8)

# %%
# References
# ----------
# Telford, R. D. and Cunningham, R. B. (1991). Sex, sport and body-size dependency of hematology in
# highly trained athletes. Medicine and Science in Sports and Exercise 23, 788-794.
#
# Little, R. J. A. and Rubin, D. B. (2019). Statistical Analysis with Missing Data, 3rd edition.
# Wiley.
