"""
Two lines in the tone data
==========================

**Question.** A musician tunes a tone to the octave above another. Does she follow one rule, or
does she switch between two?

In the experiment of Cohen (1980) the musician heard a fundamental tone whose overtones were
stretched. She tuned a second tone to its octave. Two rules are plausible: tune to the true
octave, a ratio of 2, whatever the stretching; or match the overtones, so that the tuned ratio
equals the stretching ratio. Each of the 150 trials may follow one rule or the other, and we do
not see which. That is a mixture of two regressions.
"""

# %%
# The data
# --------
# Every data set comes with a card: source, licence, and what other software has found.

import matplotlib.pyplot as plt
import pandas as pd

import mixexperts as mx

pd.set_option("display.width", 110, "display.max_columns", 20)

df, card = mx.datasets.load_tonedata(return_card=True)
print(card)

# %%
# Two experts, constant weights
# -----------------------------
# Without a bar in the formula the mixing weights are constants. The formula is the experts'.

constant = mx.moe("tuned ~ stretchratio", data=df, n_experts=2)
print(constant.summary())

# %%
# Expert 2 has slope near 1 and intercept near 0: the musician matches the overtones. Expert 1 is
# nearly flat near 2: the true octave. It takes about 70 percent of the trials.
#
# The same in a picture: one line per expert, points shaded by the expert that they belong to.

constant.plot("fit")
plt.show()

# %%
# Does the choice of the rule depend on the stretching?
# -----------------------------------------------------
# Terms after the bar belong to the gate. With ``| stretchratio`` the weight of each rule becomes a
# logistic function of the stretching ratio.

gated = mx.moe("tuned ~ stretchratio | stretchratio", data=df, n_experts=2)
print(gated.summary())

# %%
gated.plot("gate")
plt.show()

# %%
# One more parameter gains 1.65 units of log-likelihood. The likelihood-ratio statistic is 3.3 on
# one degree of freedom (p = 0.07): a hint that octave tuning is a little rarer when the stretching
# is strong, and no more than a hint. BIC prefers the constant weights.

statistic = 2 * (gated.llf - constant.llf)
print(f"likelihood-ratio statistic {statistic:.2f}")
print(f"BIC: constant {constant.bic:.2f}, gated {gated.bic:.2f}")

# %%
# How many experts?
# -----------------
# With several numbers of experts all are fitted and compared. Lower is better in every criterion.

chosen = mx.moe("tuned ~ stretchratio", data=df, n_experts=range(1, 5), n_init=20)
columns = ["log_likelihood", "df", "aic", "bic", "icl", "reached_best", "min_share"]
print(chosen.selection[columns].round(3))

# %%
chosen.plot("selection")
plt.show()

# %%
# All criteria ask for more than two. Before believing them, look at what the extra experts are.

three = mx.moe("tuned ~ stretchratio", data=df, n_experts=3, n_init=20)
print(three.expert_table.round(4))

near = (df["tuned"] - df["stretchratio"]).abs()
print(f"within 0.005 of the line tuned = stretchratio: {(near < 0.005).sum()} of {len(df)} trials")
print(f"on the line to the last digit: {(near < 1e-9).sum()}")

# %%
# There is no third rule. Expert 1 is octave tuning as before. Experts 2 and 3 are both the line
# ``tuned = stretchratio``, one with a scale of 0.004 and one fifty times wider: when the musician
# matches, she is often exact to the digits recorded, and sometimes far off. The likelihood pays
# highly for such near-exact trials, since the density of a narrow Gaussian is high. With four
# experts the smallest one rests on 3 percent of the trials.
#
# The table of starts tells the same story. Few starts find the narrow expert; most stop at
# solutions some 80 units of log-likelihood lower. That is why one looks at more than one start.

print(three.restarts[["init", "log_likelihood", "status", "min_share", "min_scale"]].round(4))

# %%
# So a criterion alone does not answer the question. Two rules are what the data show; three experts
# describe the shape of the errors around one of them.
#
# The number to check
# -------------------
# The best log-likelihoods known for two experts are 141.1984 with constant weights (flexmix,
# mixtools and MoEClust) and 142.8480 with a softmax gate (flexmix, meteorits and MoEClust); both
# stand on the data card printed above.

print(f"constant weights: {constant.llf:.4f}, reference 141.1984")
print(f"softmax gate:     {gated.llf:.4f}, reference 142.8480")
assert abs(constant.llf - 141.1984) < 1e-3
assert abs(gated.llf - 142.8480) < 1e-3

# %%
# References
# ----------
# Cohen, E. A. (1980). Inharmonic tone perception. Ph.D. dissertation, Stanford University.
#
# De Veaux, R. D. (1989). Mixtures of linear regressions. Computational Statistics and Data
# Analysis 8, 227-245.
