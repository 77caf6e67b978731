"""
Outliers and skewness
=====================

**Question.** Is an expert on a handful of odd rows a finding, or an artefact of Gaussian tails? Are
two experts two groups, or one skewed group?

A Gaussian density falls so fast that a mixture of Gaussians spends an expert on anything else:
on outliers, on a heavy tail, on the long side of a skewed distribution. Families with tails and
skewness of their own leave the experts to the structure.
"""

# %%
# Ten outliers in the tone data
# -----------------------------
# The tone data hold two rules of tuning (see the first vignette). We add ten trials at a stretching
# ratio of 0 and a tuned ratio of 4, far from both lines, as is done in the literature on robust
# mixtures of regressions.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mixexperts as mx
from mixexperts.experts import Gaussian, Huber, Laplace, SkewNormal, StudentT

pd.set_option("display.width", 110, "display.max_columns", 20)
tone = mx.datasets.load_tonedata()
outliers = pd.DataFrame({"stretchratio": np.zeros(10), "tuned": np.full(10, 4.0)})
spoilt = pd.concat([tone, outliers], ignore_index=True)

families = {"Gaussian": Gaussian(), "Laplace": Laplace(), "Student": StudentT(df=2.0)}
grid = pd.DataFrame({"stretchratio": np.linspace(0.0, 3.0, 61)})
fits = {
    (name, label): mx.moe("tuned ~ stretchratio", data=data, n_experts=2, family=family, n_init=12)
    for name, family in families.items()
    for label, data in (("clean", tone), ("spoilt", spoilt))
}
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
for ax, name in zip(axes, families, strict=True):
    ax.plot(spoilt["stretchratio"], spoilt["tuned"], ".", color="0.7", ms=4)
    for label, style in (("clean", ":"), ("spoilt", "-")):
        lines = fits[name, label].predict_experts(grid).to_numpy()
        for k, colour in enumerate(("C0", "C1")):
            order = np.argsort(lines[40])
            ax.plot(grid["stretchratio"], lines[:, order[k]], style, color=colour)
    ax.set(title=name, xlabel="stretching ratio", ylim=(-0.5, 4.5))
axes[0].set_ylabel("tuned ratio")
fig.suptitle("dotted: without the outliers; solid: with them")
fig.tight_layout()
plt.show()

# %%
# One of the two Gaussian lines leaves its rule for the outliers. With Laplace or Student experts
# both lines stay where they were.
#
# Tails that fall exponentially are not enough
# --------------------------------------------
# The ten outliers above lie at one place and are few. Now a tenth of the rows are far off, by a
# hundred scales, all to one side. Each outlier costs a Laplace or Huber density an amount that
# grows with its distance, and an expert for the outliers alone pays. The cost under Student's t
# grows with the logarithm of the distance only.

rng = np.random.default_rng(8)
x = rng.uniform(-1.0, 1.0, 500)
up = rng.random(500) < 1.0 / (1.0 + np.exp(-5.0 * x))
y = np.where(up, 2.0 * x, -2.0 * x) + 0.3 * rng.standard_normal(500)
y[rng.random(500) < 0.1] += 30.0
gross = pd.DataFrame({"x": x, "y": y})
at = pd.DataFrame({"x": np.linspace(-1.0, 1.0, 81)})

fig, ax = plt.subplots(figsize=(6.5, 4))
ax.plot(x, y, ".", color="0.8", ms=4)
ax.plot(at["x"], 2.0 * at["x"] * np.tanh(2.5 * at["x"]), "k:", label="truth")
for name, family in {
    "Gaussian": Gaussian(), "Huber": Huber(), "Laplace": Laplace(), "Student": StudentT()
}.items():  # fmt: skip
    res = mx.moe("y ~ x | x", data=gross, n_experts=2, family=family, n_init=6)
    ax.plot(at["x"], res.predict(at), label=f"{name}, llf {res.llf:.1f}")
ax.set(xlabel="x", ylabel="y", ylim=(-3.0, 5.0), title="predicted mean; outliers lie at 27 to 33")
ax.legend()
plt.show()

# %%
# Only the Student fit follows the truth. The degrees of freedom are estimated for each expert: here
# they go down to 1.1, the least that is allowed, since a tenth of the rows is very far away.

student = mx.moe("y ~ x | x", data=gross, n_experts=2, family=StudentT(), n_init=6)
print(student.expert_table.round(2))

# %%
# Two groups, or one skewed group?
# --------------------------------
# Percentage of body fat and body mass index of 202 athletes.

ais = mx.datasets.load_ais()
rows = []
for name, family in (("Gaussian", Gaussian()), ("skew-normal", SkewNormal())):
    for k in (1, 2):
        formula = "Bfat ~ BMI" if k == 1 else "Bfat ~ BMI | BMI"
        res = mx.moe(formula, data=ais, n_experts=k, family=family, n_init=10)
        rows.append({"family": name, "experts": k, "llf": res.llf, "bic": res.bic})
        if (name, k) == ("skew-normal", 1):
            skewed = res
        if (name, k) == ("Gaussian", 2):
            gaussian = res
table = pd.DataFrame(rows)
print(table.round(2))

# %%
# One skew-normal expert describes the data better than two Gaussian experts, with four parameters
# against eight. Its skewness is so large that the density is nearly half of a normal one: a hard
# lower edge of body fat, and a tail above it.

print(skewed.expert_table.round(2))

at = pd.DataFrame({"BMI": np.linspace(17.0, 34.0, 60)})
fig, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for ax, (title, res) in zip(
    axes, {"two Gaussian experts": gaussian, "one skew-normal expert": skewed}.items(), strict=True
):
    predictive = res.predictive(at)
    ax.plot(ais["BMI"], ais["Bfat"], ".", color="0.6", ms=4)
    for level, style in ((0.05, ":"), (0.5, "-"), (0.95, ":")):
        ax.plot(at["BMI"], predictive.ppf(level), style, color="C0")
    ax.set(title=title, xlabel="body mass index")
axes[0].set_ylabel("body fat, percent")
fig.suptitle("median, 5 and 95 percent of the predictive distribution")
fig.tight_layout()
plt.show()

# %%
# The groups are no fiction here: men and women differ. But neither fit needs to be told so to
# describe the distribution, and two Gaussian experts are no proof of two groups.

print(ais.groupby("sex")["Bfat"].agg(["mean", "std", "size"]).round(1))

# %%
# References
# ----------
# Yao, W., Wei, Y. and Yu, C. (2014). Robust mixture regression using the t-distribution.
# Computational Statistics and Data Analysis 71, 116-127.
#
# Azzalini, A. (1985). A class of distributions which includes the normal ones. Scandinavian Journal
# of Statistics 12, 171-178.
