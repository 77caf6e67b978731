"""
Repeated measures: one class per subject
========================================

**Question.** Subjects are measured several times, and each belongs to one class throughout. What
does a mixture of experts make of that, and what goes wrong if it is not told?

The first part has simulated growth curves, whose classes are known. The second has the seizures of
59 epileptics, counted four times each (Thall and Vail 1990).
"""

# %%
# Growth curves of two kinds
# --------------------------
# Sixty children are measured at six ages. Children of one kind grow faster. Whether a child does
# depends on a score taken at birth.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mixexperts as mx

rng = np.random.default_rng(9)
n_children, ages = 60, np.arange(1.0, 7.0)
score = rng.normal(size=n_children)
fast = rng.random(n_children) < 1 / (1 + np.exp(-1.5 * score))
child = np.repeat(np.arange(n_children), len(ages))
age = np.tile(ages, n_children)
slope = np.where(fast, 7.0, 5.5)[child]
growth = pd.DataFrame(
    {
        "child": child,
        "age": age,
        "score": score[child],
        "height": 70.0 + slope * age + rng.normal(0.0, 3.0, len(child)),
    }
)
print(growth.head(7).round(1))

# %%
# Two fits with the same formula. The first takes rows for independent, so that a child may be of
# one kind at two and of the other at three. ``groups="child"`` says that all rows of a child share
# one expert.

rows = mx.moe("height ~ age | score", growth, n_experts=2, n_init=20)
subjects = mx.moe("height ~ age | score", growth, n_experts=2, n_init=20, groups="child")
table = pd.DataFrame(
    {
        "truth": [70.0, 5.5, 3.0, 70.0, 7.0, 3.0],
        "rows alone": rows.expert_table.T.to_numpy().ravel(),
        "one class per child": subjects.expert_table.T.to_numpy().ravel(),
    },
    index=pd.MultiIndex.from_product([("slow", "fast"), rows.expert_table.index]),
)
print(table.round(2))

# %%
# With groups the lines are those of the simulation, up to sampling error. Without, the fit has
# little to go by: a single height near both lines says next to nothing about its class.


def certainty(res):
    """Share of children whose rows all have one likeliest class, and how many are right."""
    label = res.posterior().to_numpy().argmax(axis=1).reshape(n_children, -1)
    whole = (label == label[:, :1]).all(axis=1)
    right = (label == fast[:, None]).mean()
    return {"children in one class": whole.mean(), "rows in the true class": right}


print(pd.DataFrame({"rows alone": certainty(rows), "groups": certainty(subjects)}).round(2))

fig, axes = plt.subplots(1, 3, figsize=(9.0, 3.2), sharey=True, layout="constrained")
probability = [
    ("truth", np.repeat(fast, len(ages)).astype(float)),
    ("rows alone", rows.posterior()[2].to_numpy()),
    ("one class per child", subjects.posterior()[2].to_numpy()),
]
for ax, (title, value) in zip(axes, probability, strict=True):
    for one in range(n_children):
        at = growth["child"] == one
        ax.plot(age[at], growth["height"][at], color="0.85", linewidth=0.6, zorder=1)
    points = ax.scatter(
        age + rng.uniform(-0.2, 0.2, len(age)),
        growth["height"],
        c=value,
        cmap="coolwarm",
        vmin=0,
        vmax=1,
        s=9,
        zorder=2,
    )
    ax.set(title=title, xlabel="age in years")
axes[0].set_ylabel("height in cm")
fig.colorbar(points, ax=axes, label="probability of fast growth")
plt.show()

# %%
# In the middle a child changes its colour from age to age, and most are in between. On the right
# it has one colour.
#
# What counts
# -----------
# Children are independent, rows are not. So the log-likelihood is a sum over children, and the n
# of BIC is their number. ``bic(..., count="rows")`` of the estimator takes the number of rows, as
# flexmix does; the difference is a constant per parameter.

print(f"log-likelihood {subjects.llf:.2f}, rows {subjects.nobs:.0f}, children {subjects.ngroups}")
X, y = growth[["age", "score"]], growth["height"]
by_rows = subjects.estimator.bic(X, y, groups=growth["child"], count="rows")
print(f"BIC with n = children {subjects.bic:.2f}, with n = rows {by_rows:.2f}")

chosen = mx.moe(
    "height ~ age | score", growth, range(1, 5), n_init=10, groups="child", criterion="bic"
)
print(chosen.selection[["log_likelihood", "df", "bic", "icl"]].round(2))

# %%
# How soon is a child known?
# --------------------------
# The posterior of a child needs all rows that there are. Given its first measurements only, it is
# less sure. The score at birth alone is the gate. A height at one year says little, for the lines
# have hardly parted; with sixty children the share right may even fall there by chance.

sure = []
for upto in range(len(ages) + 1):
    seen = growth[growth["age"] <= upto]
    if upto == 0:
        first = growth.drop_duplicates("child")
        posterior = subjects.gate_proba(first)[2].to_numpy()
    else:
        posterior = subjects.posterior(seen).groupby(seen["child"])[2].first().to_numpy()
    sure.append(((posterior > 0.5) == fast).mean())

fig, ax = plt.subplots(figsize=(5.0, 2.8), layout="constrained")
ax.plot(range(len(ages) + 1), sure, marker="o", color="0.2")
ax.set(xlabel="measurements seen", ylabel="children in the true class", ylim=(0.5, 1.02))
plt.show()

# %%
# Some classes are known
# ----------------------
# Suppose that a clinic has examined every tenth child. ``partial_labels`` holds 0 or 1 for these
# and nothing for the others: their class is fixed, and experts keep these numbers.

growth["clinic"] = np.where(growth["child"] % 10 == 0, fast[child].astype(float), np.nan)
helped = mx.moe(
    "height ~ age | score", growth, 2, n_init=20, groups="child", partial_labels="clinic"
)
print(helped.expert_table.round(2))

# %%
# Seizures
# --------
# Counts over two weeks, four per patient, with the logarithm of the baseline count and of the age
# as centred columns. Classes of patients are mixtures of Poisson regressions.

epil = mx.datasets.load_epil()
formula = "y ~ lbase + C(trt) + V4"
fits = {
    "rows alone": mx.moe(formula, epil, range(1, 5), family="poisson", n_init=10),
    "one class per patient": mx.moe(
        formula, epil, range(1, 5), family="poisson", n_init=10, groups="subject"
    ),
}
shown = {name: fit.selection[["log_likelihood", "bic"]] for name, fit in fits.items()}
print(pd.concat(shown, axis=1).round(1))

# %%
# Here rows alone reach the *higher* likelihood from two experts on. Counts of one patient vary from
# period to period by more than Poisson's law allows, and classes that change from row to row take
# that up. They are then classes of periods, not of patients:

for name, fit in fits.items():
    label = fit.posterior().idxmax(axis=1)
    whole = label.groupby(epil["subject"]).nunique() == 1
    print(f"{name}: {whole.sum()} of {len(whole)} patients have one class in all periods")

# %%
# Which of the two is wanted is a question about the classes, not about the likelihood alone. With
# one class per patient, the classes differ in level and in what the baseline predicts.

res = fits["one class per patient"]
print(res.expert_table.round(2))
patients = res.posterior().groupby(epil["subject"]).first()
likeliest = patients.idxmax(axis=1)

fig, ax = plt.subplots(figsize=(6.0, 3.2), layout="constrained")
for k in patients.columns:
    part = epil[epil["subject"].isin(likeliest.index[likeliest == k])]
    mean = part.groupby("period")["y"].mean()
    ax.plot(mean.index, mean, marker="o", label=f"class {k}: {(likeliest == k).sum()} patients")
ax.set(xlabel="period", ylabel="mean seizures in two weeks", xticks=[1, 2, 3, 4], yscale="log")
ax.legend(frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
plt.show()

# %%
# **Answer.** With one class per subject, all rows of a subject speak for its class. Where the
# classes are indeed those of subjects, experts are estimated better and subjects are classified far
# better.
# Without groups the mixture describes single rows, and its classes need not be anybody's; where
# rows of a subject scatter more than the family allows, that may even fit better.
