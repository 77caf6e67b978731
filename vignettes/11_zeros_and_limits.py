"""
Zeros, limits and what was never seen
=====================================

**Question.** Half of the story is often at the edge of a response: counts that are zero, readings
at the limit of an instrument, claims too small to be reported. What happens to a mixture of
experts that ignores it, and what does it take not to?
"""

# %%
# Too many zeros?
# ---------------
# Articles that 915 doctoral students in biochemistry published in three years. Thirty percent have
# none, far more than a Poisson regression expects.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mixexperts as mx
from mixexperts.experts import Censored, Gaussian, Hurdle, Poisson, Truncated, ZeroInflated

df = mx.datasets.load_biochemists()
formula = "art ~ C(fem) + C(mar) + kid5 + phd + ment"
models = {
    "Poisson": (Poisson(), 1),
    "zero-inflated": (ZeroInflated(Poisson()), 1),
    "hurdle": (Hurdle(Poisson()), 1),
    "two Poisson experts": (Poisson(), 2),
}
fits = {
    name: mx.moe(formula, data=df, n_experts=k, family=family, n_init=4)
    for name, (family, k) in models.items()
}
counts = np.arange(13)
expected = {
    name: fit.predictive(df).pdf(counts[None, :]).mean(axis=0) for name, fit in fits.items()
}
table = pd.DataFrame(
    {
        "log-likelihood": {name: fit.llf for name, fit in fits.items()},
        "BIC": {name: fit.bic for name, fit in fits.items()},
        "share of zeros": {name: share[0] for name, share in expected.items()},
    }
)
print(table.round(3))
print(f"observed share of zeros: {np.mean(df['art'] == 0):.3f}")

# %%
# The differences between the expected and the observed shares show what each model misses. A point
# mass repairs the zeros, and leaves too few ones and too many twos and threes. A second group of
# students with another mean bends the whole distribution.

observed = np.bincount(df["art"], minlength=20)[: counts.size] / len(df)
figure, axes = plt.subplots(figsize=(7, 3.8))
for offset, (name, share) in zip((-0.3, -0.1, 0.1, 0.3), expected.items(), strict=True):
    axes.bar(counts + offset, share - observed, width=0.2, label=name)
axes.axhline(0.0, color="black", linewidth=0.8)
axes.set(xlabel="articles", ylabel="expected less observed share", xticks=counts)
axes.legend(frameon=False)
plt.show()

# %%
# A limit of the instrument
# -------------------------
# Two crossing lines, read by an instrument that stops at 1.5: what lies above is known only to do
# so. More than a third of the rows are at the limit.

rng = np.random.default_rng(0)
x = rng.uniform(-1.0, 1.0, 1500)
first = rng.random(x.size) < 1.0 / (1.0 + np.exp(-4.0 * x))
noise = rng.standard_normal(x.size)
y = np.where(first, 1.0 + 1.5 * x + 0.3 * noise, -1.5 * x + 0.5 * noise)
limit = 1.5
data = pd.DataFrame(
    {"x": x, "y": np.minimum(y, limit), "upper": np.where(y > limit, np.inf, np.minimum(y, limit))}
)
print(f"at the limit: {np.mean(y > limit):.0%}")
aware = mx.moe("y + upper ~ x | x", data=data, n_experts=2, family=Censored(), n_init=4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    naive = mx.moe("y ~ x | x", data=data, n_experts=2, family=Gaussian(scale_floor=0.05), n_init=4)
print(*{warning.category.__name__ for warning in caught})
print(aware.expert_table.round(2))

# %%
# Taking the limit for a value draws a line along it, an expert whose scale shrinks to nothing; the
# fit warns that it is degenerate. The censored fit has the lines that the rows
# were made of, and goes on above the limit, where nothing was ever read.

grid = pd.DataFrame({"x": np.linspace(-1.0, 1.0, 101)})
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
for axes, (name, fit) in zip(
    panels, {"limit taken as a value": naive, "limit taken as a bound": aware}.items(), strict=True
):
    axes.scatter(x, y, s=4, color="0.85", label="never read")
    axes.scatter(x, np.minimum(y, limit), s=4, color="0.45", label="read")
    for k, mean in enumerate(fit.predict_experts(grid).to_numpy().T):
        axes.plot(grid["x"], mean, linewidth=2.5, label=f"expert {k + 1}")
    axes.axhline(limit, color="black", linewidth=0.8, linestyle=":")
    axes.set(title=name, xlabel="x", ylim=(-2.2, 3.6))
panels[0].set_ylabel("y")
handles, labels = panels[1].get_legend_handles_labels()
figure.tight_layout(rect=(0.0, 0.08, 1.0, 1.0))
figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
plt.show()

# %%
# Rows that never came
# --------------------
# Now the rows below zero are missing altogether. A mixture fitted to what is left has experts that
# avoid the edge. The truncated fit weighs each row by how many like it were lost: its predictive
# distribution is that of the population, with its share below zero.

kept = pd.DataFrame({"x": x, "y": y})[y > 0.0]
left = mx.moe("y ~ x | x", data=kept, n_experts=2, n_init=4)
whole = mx.moe("y ~ x | x", data=kept, n_experts=2, family=Truncated(lower=0.0), n_init=4)
new = pd.DataFrame({"x": rng.uniform(-1.0, 1.0, 4000)})
upper = rng.random(len(new)) < 1.0 / (1.0 + np.exp(-4.0 * new["x"]))
new["y"] = np.where(
    upper,
    rng.normal(1.0 + 1.5 * new["x"], 0.3),
    rng.normal(-1.5 * new["x"], 0.5),
)
print(
    pd.DataFrame(
        {
            "log density of new rows": {
                "what is left": left.predictive(new).logpdf(new["y"].to_numpy()).mean(),
                "truncated": whole.predictive(new).logpdf(new["y"].to_numpy()).mean(),
            },
            "share below zero": {
                "what is left": left.predictive(new).cdf(0.0).mean(),
                "truncated": whole.predictive(new).cdf(0.0).mean(),
            },
        }
    ).round(3)
)
print(f"share below zero in the population: {np.mean(new['y'] <= 0.0):.3f}")

# %%
at = np.linspace(-2.0, 2.0, 300)
figure, axes = plt.subplots(figsize=(7, 3.6))
place = pd.DataFrame({"x": [0.1]})
axes.plot(at, left.predictive(place).pdf(at[None, :])[0], label="fitted to what is left")
axes.plot(at, whole.predictive(place).pdf(at[None, :])[0], label="truncated")
weight = 1.0 / (1.0 + np.exp(-0.4))
truth = weight * np.exp(-0.5 * ((at - 1.15) / 0.3) ** 2) / 0.3
truth += (1.0 - weight) * np.exp(-0.5 * ((at + 0.15) / 0.5) ** 2) / 0.5
axes.plot(at, truth / np.sqrt(2.0 * np.pi), color="black", linestyle=":", label="truth")
axes.axvline(0.0, color="0.6", linewidth=0.8)
axes.set(xlabel="y", ylabel="density at x = 0.1")
axes.legend(frameon=False)
plt.show()
