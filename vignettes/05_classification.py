"""
Two rules for three classes
===========================

**Question.** What does a mixture of experts see that one logistic regression cannot, and can its
probabilities be believed?

The data are simulated, so that the truth is known: 1,500 rows, two features, three classes. To the
left of a line one rule holds, to its right another, with the signs turned round.
"""

# %%
# The data
# --------
# The gate and the experts of the truth are written out; the rows are drawn from them.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

import mixexperts as mx

truth_parameters = {
    "coef": [[[4.0, 1.0], [0.0, 3.0], [0, 0]], [[-4.0, 1.0], [1.0, -3.0], [0, 0]]],
    "intercept": [[0.5, 0.0, 0.0], [-0.5, 0.5, 0.0]],
    "gate_coef": [[1.0, 6.0], [0.0, 0.0]],
    "gate_intercept": [0.5, 0.0],
}
names = np.array(["ant", "bee", "cow"])
X, code, truth = mx.datasets.make_moe_classification(1500, random_state=4, **truth_parameters)
new_X, new_code, _ = mx.datasets.make_moe_classification(5000, random_state=5, **truth_parameters)
y, new_y = names[code], names[new_code]

# %%
# One rule
# --------
# A single expert is a multinomial logistic regression. It has to cut the plane by lines that serve
# both sides at once.

one = mx.MoEClassifier(1).fit(X, y)
ax = mx.plots.plot_decision_regions(one, X, y)
plt.show()

# %%
# Two rules and a gate
# --------------------
# The dashed line is where the gate passes from one expert to the other. Rings mark wrong
# predictions; those that are left lie where the classes overlap.

two = mx.MoEClassifier(2, n_init=5, random_state=0).fit(X, y)
ax = mx.plots.plot_decision_regions(two, X, y)
plt.show()

# %%
# The line is where it should be: the fitted gate changes sides along a line close to the true one,
# and the experts' coefficients come back, up to their numbers.

found = np.concatenate([two.gate_intercept_[:1], two.gate_coef_[0]])
true = np.array([0.5, 1.0, 6.0])
print("gate, fitted:", (found * np.sign(found[2])).round(2), " true:", true)

# %%
# On new rows
# -----------
# Accuracy and mean negative log probability on 5,000 new rows, beside the truth itself, which
# nothing can beat but by chance.

models = {
    "logistic regression": LogisticRegression(),
    "boosted trees": HistGradientBoostingClassifier(random_state=0),
    "MoE, 1 expert": one,
    "MoE, 2 experts": two,
}
proba = {}
for name, model in models.items():
    if name not in ("MoE, 1 expert", "MoE, 2 experts"):
        model.fit(X, y)
    proba[name] = model.predict_proba(new_X)
proba["the truth"] = truth.mean(new_X)
table = pd.DataFrame(
    {
        "accuracy": {k: accuracy_score(new_code, p.argmax(axis=1)) for k, p in proba.items()},
        "log loss": {k: log_loss(new_code, p) for k, p in proba.items()},
    }
)
print(table.round(3).to_string())

# %%
# Two experts come within a hundredth of the truth in both columns. One rule is far off, trees are
# in between: they can follow any shape, and need more rows for it.
#
# How many experts?
# -----------------
# BIC sees it from the fitted rows alone. A small ridge penalty keeps coefficients finite where an
# expert too many would find rows that it separates; here it leaves the third expert no rows at all.
# Such a fit is called degenerate, and never chosen.

penalties = {"gate_penalty": "ridge", "expert_penalty": "ridge"}
est = mx.MoEClassifier(n_init=2, max_iter=300, random_state=0, **penalties)
selection = mx.select(est, X, y, n_experts=range(1, 4))
print(selection.table[["log_likelihood", "df", "bic", "status"]].round(1).to_string())

# %%
# Can the probabilities be believed?
# ----------------------------------
# Rows are put into bins by their predicted probability of a class; the share of the class in a bin
# should be that probability. On new rows:

figure, axes = plt.subplots(1, 2, figsize=(7.2, 4.4), layout="constrained")
for ax, name in zip(axes, ("MoE, 1 expert", "MoE, 2 experts"), strict=True):
    mx.plots.plot_calibration(models[name], new_X, new_y, ax=ax)
    ax.set_xlabel(f"predicted probability: {name}")
plt.show()

# %%
# One expert is right on average and wrong nearly everywhere: where it gives ants a third they have
# a tenth, and where it gives them a fifth they have nearly a half. Two experts use the whole range
# and stay on the diagonal.
#
# The numbers to check
# --------------------
# With one expert the model is multinomial logistic regression; the truth of two is the best that
# any model can reach.

peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=2000).fit(X, y)
assert np.abs(one.predict_proba(X) - peer.predict_proba(X)).max() < 1e-5
assert two.log_likelihood_ >= truth.log_likelihood(X, code)
best = -truth.log_likelihood(new_X, new_code) / len(new_code)
assert table.loc["MoE, 2 experts", "log loss"] - best < 0.02
assert selection.best_n_experts("bic") == 2

# %%
# References
# ----------
# Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM algorithm.
# Neural Computation 6, 181-214.
