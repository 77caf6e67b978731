"""Columns found where they are ten times the rows: 40 samples, choices by CV, BIC and EBIC.

    pytest -m slow -s tests/parity/test_lasso_recovery.py

n = 200, p = 2000, two experts with five columns each and slopes of +-2, levels of +-5, noise 1; two
columns of the gate with slopes of +-3; independent columns. About 25 minutes on two cores.
"""

import warnings

import numpy as np
import pytest
from joblib import Parallel, delayed

import mixexperts as mx

REPLICATES = 40
CRITERIA = ("cv", "bic", "ebic")


def missed_and_false(est, truth):
    """Missed and false columns of the experts, in the order that misses fewer, and of the gate."""
    true, gate_true = truth.coef != 0, truth.gate_coef[0] != 0
    orders = [est.active_, est.active_[::-1]]
    found = min(orders, key=lambda active: (true & ~active).sum())
    gate = est.gate_active_.any(axis=0)
    return (
        (true & ~found).sum(),
        (~true & found).sum(),
        (gate_true & ~gate).sum(),
        (~gate_true & gate).sum(),
    )


def replicate(seed):
    """Missed and false columns by each criterion, (3, 4)."""
    X, y, truth = mx.datasets.make_wide_moe(random_state=seed)
    with warnings.catch_warnings():
        # Single points of a path, or an end of the grid, are no matter of this study.
        warnings.simplefilter("ignore")
        est = mx.LassoMoERegressorCV(
            2, gate_ratio=(0.5, 1.0), n_alphas=15, alpha_min_ratio=0.1, random_state=seed
        ).fit(X, y)
        assert est.by_scale_
        rows = [missed_and_false(est, truth)]
        for criterion in CRITERIA[1:]:
            point = est.cv_results_.loc[est.cv_results_[criterion].idxmin()]
            single = mx.LassoMoERegressor(2, point["alpha"], point["gate_alpha"], random_state=seed)
            rows.append(missed_and_false(single.fit(X, y), truth))
    return rows


@pytest.mark.slow
def test_cross_validation_keeps_all_true_columns(capsys):
    found = np.array(
        Parallel(n_jobs=2)(delayed(replicate)(seed) for seed in range(REPLICATES))
    )  # (replicates, criteria, 4)
    all_kept = (found[:, :, 0] == 0).mean(axis=0)
    gate_kept = (found[:, :, 2] == 0).mean(axis=0)
    with capsys.disabled():
        print(f"\n{REPLICATES} samples, n = 200, p = 2000: samples in which all are kept, means")
        print("criterion  experts' columns kept  gate's kept  false in experts  false in gate")
        for i, name in enumerate(CRITERIA):
            false = found[:, i, 1].mean(), found[:, i, 3].mean()
            print(f"{name:9s}  {all_kept[i]:20.3f}  {gate_kept[i]:11.3f}  "
                  f"{false[0]:16.1f}  {false[1]:13.1f}")  # fmt: skip
    assert all_kept[0] >= 0.95
    # The stricter the criterion, the fewer columns that have no part.
    false = found[:, :, 1].mean(axis=0) + found[:, :, 3].mean(axis=0)
    assert false[2] <= false[1] < false[0]
