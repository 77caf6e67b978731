"""The classifier as a citizen of scikit-learn, and as its own documentation describes it."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mixexperts as mx
from mixexperts import gates
from mixexperts.errors import SeparationWarning
from mixexperts.experts import Binomial, Gaussian, Multinomial, Ordinal
from mixexperts.penalties import Ridge
from mixexperts.sources import ArraySource, Block, Source

NAMES = np.array(["ant", "bee", "cow"])
# Three classes, two experts with opposite slopes; neither separates its rows.
COEF = np.array([[[2.0, 0.5], [0.0, 1.5], [0, 0]], [[-2.0, 0.5], [0.5, -1.0], [0, 0]]])
INTERCEPT = np.array([[0.5, 0.0, 0.0], [-0.5, 0.5, 0.0]])


def draw(n=300, seed=0):
    X, y, _ = mx.datasets.make_moe_classification(
        n,
        coef=COEF,
        intercept=INTERCEPT,
        gate_coef=[[0.5, 3.0], [0.0, 0.0]],
        random_state=seed,
    )
    return X, NAMES[y]


@pytest.fixture
def data():
    return draw()


def classifier(**options):
    return mx.MoEClassifier(**{"n_init": 3, "random_state": 0, **options})


# --- scikit-learn's own checks ------------------------------------------------------------------

SETTINGS = {
    "default": {},
    "constant gate": {"gate": "constant"},
    "three experts, ridge": {"n_experts": 3, "expert_penalty": Ridge(0.01)},
    "one expert": {"n_experts": 1},
    "in chunks": {"chunk_rows": 40, "n_experts": 1},
    "gaussian gate": {
        "gate": gates.Gaussian(covariance="diag"),
        "expert": Multinomial(degree=0),
        "n_experts": 3,
    },
    "ordinal, ridge": {"expert": "ordinal", "expert_penalty": Ridge(0.01), "n_init": 1},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_check_estimator(options):
    with warnings.catch_warnings():
        # Its data are separated, collinear and tiny on purpose; our warnings say so.
        for category in (
            mx.errors.DegenerateFitWarning,
            mx.errors.RankDeficientWarning,
            mx.errors.SeparationWarning,
            ConvergenceWarning,
        ):
            warnings.simplefilter("ignore", category)
        # Skipped: checks that need optional packages or environment variables.
        results = check_estimator(
            mx.MoEClassifier(**{"n_init": 2, **options}), on_skip=None, on_fail="raise"
        )
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "passed" for r in results) > 40
