"""
Claims and counts
=================

**Question.** Which family suits positive responses with a long tail, and does it matter for what
one wants to know? And when do counts need more than a Poisson mixture?

The first part simulates insurance claims, so that the truth is known. The second part looks at
daily seizures of an epileptic child.
"""

# %%
# Two kinds of claims
# -------------------
# Claims of old vehicles are mostly repairs: small, and hardly different from one another. New
# vehicles have more total losses, which are large and scattered. Age moves both the sizes and the
# share of the two kinds. The sizes of each kind are inverse Gaussian.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import invgauss

import mixexperts as mx

rng = np.random.default_rng(5)
n = 2000
age = rng.uniform(0, 15, n)
share = 1 / (1 + np.exp(-(0.6 - 0.25 * age)))
large = rng.random(n) < share
mean = np.where(large, np.exp(2.3 - 0.06 * age), np.exp(0.1 - 0.02 * age))
size = np.where(large, 20.0, 8.0)
claims = pd.DataFrame({"age": age, "claim": rng.wald(mean, size)})
train, test = claims.iloc[:1500], claims.iloc[1500:]

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.scatter(age, claims["claim"], s=6, c=np.where(large, "C1", "C0"), alpha=0.6, linewidths=0)
ax.set(yscale="log", xlabel="age of the vehicle, years", ylabel="claim, thousands")
ax.set_title("Claims: repairs (blue) and total losses (orange)")
plt.show()

# %%
# Families side by side
# ---------------------
# Each family with one to three experts, all with a log-linear predictor. BIC chooses the number of
# experts, the mean log density of 500 claims that no fit has seen judges the result. Log densities
# of different families can be compared: all are densities of the claim itself.

families = ["exponential", "gamma", "weibull", "log_normal", "inverse_gaussian"]
fits, rows = {}, []
for family in families:
    res = mx.moe("claim ~ age | age", data=train, n_experts=range(1, 4), family=family, n_init=3)
    held_out = res.predictive(test).logpdf(test["claim"].to_numpy()).mean()
    rows.append([family, res.n_experts, res.df_model, res.bic, held_out])
    fits[family] = res
table = pd.DataFrame(rows, columns=["family", "experts", "parameters", "bic", "held out"])
print(table.round(3).to_string(index=False))

# %%
# Exponential experts spread too much whatever their number: their standard deviation is their mean.
# Of the others the inverse Gaussian, the truth, comes first by BIC and the log-normal, whose shape
# is close to it, next. Held-out densities of these two and of the gamma differ by less than 0.01.

res = fits["inverse_gaussian"]
print(res.expert_table.round(3))

# %%
# The estimates are close to the simulation: intercepts 0.1 and 2.3, slopes
# -0.02 and -0.06, dispersions 1/8 and 1/20.
#
# What the family decides
# -----------------------
# Densities of claims at two ages. Families with a free shape agree where the claims are, and differ
# in the tail. The survival function on a logarithmic scale shows how.

grid = np.geomspace(0.15, 60.0, 300)
shown = ["gamma", "weibull", "log_normal", "inverse_gaussian"]
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
new = pd.DataFrame({"age": [3.0]})
near = train[(train["age"] - 3.0).abs() < 1.0]["claim"]
axes[0].hist(
    near, np.geomspace(0.15, 60.0, 35), density=True, color="0.85", label="claims at 2 to 4 years"
)
for i, family in enumerate(shown):
    predictive = fits[family].predictive(new)
    axes[0].plot(grid, predictive.pdf(grid[None, :])[0], f"C{i}", label=family)
    axes[1].plot(grid, 1.0 - predictive.cdf(grid[None, :])[0], f"C{i}", label=family)
p = 1 / (1 + np.exp(-(0.6 - 0.25 * 3)))
true = p * invgauss.sf(grid, np.exp(2.3 - 0.18) / 20, scale=20) + (1 - p) * invgauss.sf(
    grid, np.exp(0.1 - 0.06) / 8, scale=8
)
axes[1].plot(grid, true, "k--", lw=1, label="truth")
axes[0].set(xscale="log", xlabel="claim, thousands", ylabel="density")
axes[1].set(xlabel="claim, thousands", ylabel="probability of more", yscale="log")
axes[1].set(ylim=(1e-5, 1.2), xlim=(0, 45))
axes[0].legend(frameon=False, fontsize=8)
axes[1].legend(frameon=False, fontsize=8)
fig.suptitle("Claims of a vehicle three years old")
plt.show()

# %%
# An insurer asks for the size that one claim in 200 exceeds. Medians hardly depend on the family;
# here gamma and Weibull experts fall short by a seventh, the log-normal and the inverse Gaussian by
# a few percent. The body of the data had told the four families apart by little.

quantiles = pd.DataFrame(
    {
        family: [fits[family].predictive(new).ppf(q).item() for q in (0.5, 0.95, 0.995)]
        for family in shown
    },
    index=["median", "95%", "99.5%"],
)
true_at = [np.interp(-q, -true, grid) for q in (0.5, 0.05, 0.005)]
print(quantiles.assign(truth=true_at).round(2).to_string())

# %%
# Counts: a mixture, or a wider family?
# -------------------------------------
# A mixture of two Poisson experts is the published model for these seizure counts: some days are
# good and some are bad. A single negative binomial expert is the rival explanation: one kind of
# day, whose rate varies.

seizure = mx.datasets.load_seizure().assign(log_hours=lambda d: np.log(d["Hours"]))
rows = []
for family in ("poisson", "negative_binomial"):
    for k in (1, 2, 3):
        fit = mx.moe(
            "Seizures ~ Treatment * np.log(Day) | 1",
            data=seizure,
            n_experts=k,
            family=family,
            offset="log_hours",
            n_init=4,
        )
        rows.append([family, k, fit.llf, fit.df_model, fit.bic])
        fits[family, k] = fit
columns = ["family", "experts", "log-likelihood", "parameters", "bic"]
print(pd.DataFrame(rows, columns=columns).round(2).to_string(index=False))

# %%
# One Poisson expert is out of the question. Varying rates help a lot, but two kinds of days are far
# better by BIC, and with two experts nothing is left for the dispersions to explain: the
# log-likelihoods are the same. The plot puts the two explanations beside the counts: 90 percent
# intervals of each day.

fig, axes = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True, sharey=True, layout="constrained")
titles = {
    ("poisson", 2): "two Poisson experts",
    ("negative_binomial", 1): "one negative binomial expert",
}
for ax, (key, title) in zip(axes, titles.items(), strict=True):
    predictive = fits[key].predictive(seizure)
    lower, upper = predictive.interval(0.9)
    ax.fill_between(seizure["Day"], lower, upper, step="mid", color="C0", alpha=0.25, linewidth=0)
    ax.plot(seizure["Day"], predictive.mean(), "C0", drawstyle="steps-mid", label="mean")
    ax.plot(seizure["Day"], seizure["Seizures"], "k.", ms=4, label="seizures")
    inside = ((seizure["Seizures"] >= lower) & (seizure["Seizures"] <= upper)).mean()
    ax.set_title(f"{title}: {inside:.0%} of the days inside", loc="left", fontsize=10)
    ax.set_ylabel("seizures a day")
axes[0].legend(frameon=False, fontsize=8)
axes[1].set_xlabel("day")
plt.show()

# %%
# **Answer.** The family hardly moves the middle of a predictive distribution; it decides the tail.
# Fit several, compare them by criteria or held-out log densities, and look at the survival
# functions where the question lies. Counts that vary more than Poisson may be a mixture, or one
# wider family: likelihoods tell. Here the single negative binomial expert needs far wider
# intervals where the counts are high.
