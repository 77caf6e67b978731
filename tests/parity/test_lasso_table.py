"""The table of a simulation study of lasso mixtures of experts, run again: 100 samples.

    pytest -m slow -s tests/parity/test_lasso_table.py

The penalties are chosen by the BIC of Chamroukhi and Huynh, which counts slopes alone, over
lambda in 3, 6, ..., 15 and gamma in 3, 6, 9, 12, from three starts each.
"""

import warnings
from itertools import product

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.metrics import adjusted_rand_score

import mixexperts as mx
from mixexperts.experts import Gaussian

REPLICATES = 100
GRID = tuple(product((3, 6, 9, 12, 15), (3, 6, 9, 12)))
# Means over 100 other samples of the same design, by a second implementation.
KNOWN = {
    "Lasso + BIC": (0.613, 0.723, 0.768, 1, 1, 0.995, 0.8973, 0.6278, 0.0058, 0.0345, 0.1106,
                    0.988),
    "MLE": (0, 0, 0, 1, 1, 1, 0.8955, 0.6226, 0.0117, 0.0261, 0.1465, 0.974),
}  # fmt: skip
COLUMNS = (
    "zeros found: expert 1", "expert 2", "gate", "others kept: expert 1", "expert 2", "gate",
    "accuracy", "ARI", "MSE: expert 1", "expert 2", "gate", "sigma",
)  # fmt: skip


def metrics(est, X, y, truth):
    """The twelve numbers of a fit, experts in the order that is nearer to the truth."""
    order = min(([0, 1], [1, 0]), key=lambda order: np.square(est.coef_[order] - truth.coef).sum())
    slopes, offsets = est.coef_[order], est.intercept_[order]
    gate = est.gate_coef_[order[0]] - est.gate_coef_[order[1]]
    gate_offset = est.gate_intercept_[order[0]] - est.gate_intercept_[order[1]]
    pairs = [
        (np.append(offsets[0], slopes[0]), np.append(truth.intercept[0], truth.coef[0])),
        (np.append(offsets[1], slopes[1]), np.append(truth.intercept[1], truth.coef[1])),
        (np.append(gate_offset, gate), np.append(truth.gate_intercept[0], truth.gate_coef[0])),
    ]
    zeros = [np.mean(found[1:][true[1:] == 0] == 0) for found, true in pairs]
    kept = [np.mean(found[1:][true[1:] != 0] != 0) for found, true in pairs]
    error = [np.mean((found - true) ** 2) for found, true in pairs]
    labels = est.responsibilities(X, y)[:, order].argmax(axis=1)
    groups = np.mean(labels == truth.labels), adjusted_rand_score(truth.labels, labels)
    return [*zeros, *kept, *groups, *error, est.scale_[0]]


def replicate(seed):
    """Rows of the lasso and of maximum likelihood, (2, 12), and the penalties chosen."""
    X, y, truth = mx.datasets.make_sparse_moe(random_state=seed)
    n = len(y)
    best, chosen, choice = np.inf, None, None
    shared = Gaussian(shared_scale=True)
    with warnings.catch_warnings():
        # One of 20 points that does not converge is not chosen for it.
        warnings.simplefilter("ignore")
        for lam, gamma in GRID:
            est = mx.LassoMoERegressor(
                2, lam / n, gamma / n, expert=shared, standardize=False, n_init=3,
                random_state=seed,
            ).fit(X, y)  # fmt: skip
            value = -2.0 * est.log_likelihood_ + est.n_nonzero_ * np.log(n)
            if value < best:
                best, chosen, choice = value, est, (lam, gamma)
        plain = mx.MoERegressor(2, expert=shared, n_init=3, random_state=seed).fit(X, y)
    return metrics(chosen, X, y, truth), metrics(plain, X, y, truth), choice


@pytest.mark.slow
def test_the_table_of_the_simulated_design(capsys):
    found = Parallel(n_jobs=2)(delayed(replicate)(seed) for seed in range(REPLICATES))
    lasso, plain = (np.array([row[i] for row in found]) for i in (0, 1))
    choices = np.array([row[2] for row in found])
    ours = {"Lasso + BIC": lasso, "MLE": plain}
    with capsys.disabled():
        print(f"\n{REPLICATES} samples: mean (sd) here, and the mean known")
        for i, column in enumerate(COLUMNS):
            cells = [
                f"{values[:, i].mean():7.4f} ({values[:, i].std():.4f}) {KNOWN[name][i]:7.4f}"
                for name, values in ours.items()
            ]
            print(f"{column:22s} " + "   ".join(cells))
        print("median lambda, gamma:", *np.median(choices, axis=0))
    mean = lasso.mean(axis=0)
    known = np.array(KNOWN["Lasso + BIC"])
    assert mean[6] >= 0.892
    assert mean[7] >= 0.61
    assert mean[3:5].min() >= 0.99
    assert np.abs(mean[:3] - known[:3]).max() <= 0.06
    assert not plain[:, :3].any()
    # The penalty pays where the truth is sparse: the gate, and the clusters.
    assert mean[10] < plain[:, 10].mean()
