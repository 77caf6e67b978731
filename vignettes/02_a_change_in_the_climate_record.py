"""
A change in the climate record
==============================

**Question.** When did the land temperature record change its slope, and how far can the answer be
trusted for the years to come?

The record has one temperature anomaly per year from 1880 to 2015. A mixture of two lines whose
gate looks at the year is a regression with a change point: the gate decides which line holds when.
"""

# %%
# Two lines and a gate on the year
# --------------------------------

import textwrap
import warnings

import matplotlib.pyplot as plt
import pandas as pd

import mixexperts as mx

df = mx.datasets.load_tempanomalies()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    res = mx.moe("AnnualAnomaly ~ Year | Year", data=df, n_experts=2)
print(res.summary())

# %%
# The fit gives a warning.

for warning in caught:
    print(textwrap.fill(f"{warning.category.__name__}: {warning.message}", 88))

# %%
# The next section says what it means. First, the lines: a slow rise of 0.65 degrees per century
# before the change, and of 2.15 degrees per century after it.

print((100 * res.expert_table.loc["Year"]).round(2).rename("degrees per century"))
res.plot("fit")
plt.show()

# %%
# A separated gate
# ----------------
# The weights of the two lines are equal where the gate's linear predictor is zero.

gate = res.gate_table[1]
print(f"change at {-gate['Intercept'] / gate['Year']:.2f}")
print(res.gate_proba(df).set_axis(df["Year"]).loc[1961:1966].round(6))

# %%
# Every year up to 1963 belongs to one line and every year from 1964 on to the other. Then a steeper
# gate always fits a little better, and the likelihood has no maximum in the gate's coefficients:
# they would grow for ever. The fit stops where the next step is predicted to gain less than
# ``tol = 1e-8`` units of log-likelihood. What can be used: the lines, the weights, the
# log-likelihood, the predictions, and the place of the change (anywhere between 1963 and 1964).
# What cannot: the sizes of the gate's coefficients. Other programs print other sizes for the same
# fit.
#
# Where finite coefficients are wanted, a small ridge penalty on the gate gives them. It also
# smooths the change over a few years, and says so by a lower log-likelihood.

smooth = mx.moe(
    "AnnualAnomaly ~ Year | Year", data=df, gate_penalty=mx.penalties.Ridge(1e-4), n_experts=2
)
print(pd.DataFrame({"separated": res.gate_table[1], "ridge": smooth.gate_table[1]}).round(3))
print(f"log-likelihood {res.llf:.4f} and {smooth.llf:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for panel, fit, title in zip(axes, (res, smooth), ("no penalty", "ridge 1e-4"), strict=True):
    panel.plot(df["Year"], fit.gate_proba(df))
    panel.set(title=title, xlabel="Year", ylabel="mixing weight")
plt.show()

# %%
# Predictive bands
# ----------------
# The predictive distribution of a year is the mixture itself: both lines, their scales and the
# weights. Its quantiles give bands for new observations.

years = pd.DataFrame({"Year": range(1880, 2031)})
predictive = res.predictive(years)
lower, upper = predictive.interval(0.9)

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.fill_between(years["Year"], lower, upper, alpha=0.25, label="90 percent")
axis.plot(years["Year"], predictive.mean(), label="mean")
axis.plot(df["Year"], df["AnnualAnomaly"], ".", color="black", markersize=3)
axis.axvline(2015.5, linestyle=":", color="black")
axis.set(xlabel="Year", ylabel="anomaly, degrees Celsius")
axis.legend()
plt.show()

# %%
# On the years of the fit the band holds what it promises.

lower, upper = res.predictive(df).interval(0.9)
inside = df["AnnualAnomaly"].between(lower, upper)
print(f"{inside.sum()} of {len(df)} years inside: {100 * inside.mean():.1f} percent")

# %%
# To the right of the dotted line the band is an extrapolation. It takes the parameters as known,
# it takes the errors of different years as independent, and above all it takes the second line to
# go on. The band widens for none of these.
#
# The number to check
# -------------------
# The best log-likelihood known is 102.9429 (flexmix, meteorits and MoEClust, on the data card).
# The documentation of meteorits prints 102.722, from one start.

print(f"log-likelihood {res.llf:.4f}, reference 102.9429")
assert abs(res.llf - 102.9429) < 1e-3

# %%
# References
# ----------
# Hansen, J., Ruedy, R., Sato, M. and Lo, K. (2010). Global surface temperature change. Reviews of
# Geophysics 48, RG4004.
