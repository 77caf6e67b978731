"""
One treatment, many hospitals
=============================

**Question.** Do beta-blockers lower the death rate after a heart attack, and by the same factor in
every hospital?

Yusuf et al. (1985) collected trials in 22 centres. In each centre some patients got a beta-blocker
and the others did not. The centres differ in how many of their patients died, for reasons that
nobody recorded. A mixture of experts can stand for these reasons: each centre belongs to one of a
few classes, and we do not see which. The treatment is another matter. A drug acts on patients, not
on hospitals. We may want one effect for all classes.

This is the example of Gruen and Leisch (2008), *FlexMix Version 2*, Journal of Statistical Software
28(4).
"""

# %%
# The data
# --------
# Two rows per centre: deaths out of so many patients, with and without the treatment.

import matplotlib.pyplot as plt
import numpy as np

import mixexperts as mx
from mixexperts.experts import Binomial, Tied

df = mx.datasets.load_betablocker()
df["Survivals"] = df["Total"] - df["Deaths"]
print(df.head(4))

# %%
# One line per centre, from control to treatment, on the log odds.


def log_odds(frame):
    return np.log((frame["Deaths"] + 0.5) / (frame["Survivals"] + 0.5))


def draw_centres(ax, color="0.6"):
    for number, (_, rows) in enumerate(df.groupby("Center")):
        rows = rows.sort_values("Treatment")
        shade = color if isinstance(color, str) else color[number]
        ax.plot([0, 1], log_odds(rows), "-o", color=shade, markersize=3, linewidth=1, zorder=1)
    ax.set_xticks([0, 1], ["control", "treated"])
    ax.set_xlim(-0.25, 1.25)
    ax.set_ylabel("log odds of death")


figure, axes = plt.subplots(figsize=(5, 4))
draw_centres(axes)
plt.show()

# %%
# The lines differ in height. Many of them fall, by amounts that look alike but for the scatter of
# small numbers.
#
# Three models
# ------------
# The two rows of a centre share its class: ``groups="Center"``. The first model has one class, the
# second three classes with effects of their own, the third three classes with one effect in common.

formula = "Deaths + Survivals ~ Treatment"
family = Tied(Binomial(), common=["Treatment"])
fits = {
    "one class": mx.moe(formula, df, 1, family="binomial", groups="Center"),
    "three, own effects": mx.moe(formula, df, 3, family="binomial", groups="Center", n_init=20),
    "three, one effect": mx.moe(formula, df, 3, family=family, groups="Center", n_init=20),
}
print(f"{'':20} {'log-likelihood':>14} {'parameters':>10} {'BIC':>7}")
for name, res in fits.items():
    print(f"{name:20} {res.llf:14.3f} {res.df_model:10d} {res.bic:7.1f}")

# %%
# Three classes are far better than one. Effects of their own gain one unit of log-likelihood for
# two more parameters: there is no sign that the effect differs between the classes.

one_effect = fits["three, one effect"]
print(one_effect.expert_table.round(3))

# %%
# The treatment multiplies the odds of death by exp(-0.258) = 0.77 in all three classes. The
# classes differ in the odds without it.
#
# What the constraint does to the picture
# ---------------------------------------
# Left: effects of their own. Right: parallel lines. Centres are coloured by their likeliest class.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
palette = ["#0072b2", "#009e73", "#d55e00"]
for ax, name in zip(axes, ("three, own effects", "three, one effect"), strict=True):
    res = fits[name]
    posterior = res.posterior(df).groupby(df["Center"].to_numpy()).first()
    classes = posterior.to_numpy().argmax(axis=1)
    draw_centres(ax, [palette[k] for k in classes])
    intercept, slope = res.estimator.intercept_, res.estimator.coef_[:, 0]
    for k in range(3):
        ends = intercept[k] + np.array([0.0, slope[k]])
        ax.plot([0, 1], ends, color=palette[k], linewidth=4, label=f"class {k + 1}", zorder=2)
    ax.set_title(name)
axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
figure.tight_layout()
plt.show()

# %%
# How sure is the effect?
# -----------------------
# Fix it at other values, fit everything else again, and see how much log-likelihood is lost. The
# values within 1.92 of the maximum are a 95% interval.

best = float(one_effect.expert_table.loc["Treatment[T.Treated]", 1])
grid = np.linspace(-0.45, -0.05, 17)
profile = []
for value in grid:
    fixed = Tied(Binomial(), fixed={"Treatment": float(value)})
    res = mx.moe(formula, df, 3, family=fixed, groups="Center", init=one_effect)
    profile.append(res.llf)

loss = one_effect.llf - np.array(profile)
inside = grid[loss <= 1.92]
figure, axes = plt.subplots(figsize=(5, 3.5))
axes.plot(grid, -loss, "-o", markersize=3)
axes.axhline(-1.92, color="0.5", linestyle="--", linewidth=1)
axes.axvline(best, color="0.5", linewidth=1)
axes.set_xlabel("effect of the treatment on the log odds")
axes.set_ylabel("log-likelihood less its maximum")
figure.tight_layout()
plt.show()
print(f"between {inside.min():.3f} and {inside.max():.3f} on this grid")

# %%
# No effect, zero, lies far outside. A coefficient in common is estimated from the patients of all
# centres; it is as sharp as that of a model with a free intercept for each centre would be, with
# three classes in place of 22 intercepts.
