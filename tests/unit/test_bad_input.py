"""Every wrong input has one clear error that names the argument; doubtful ones warn by name."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError

import mixexperts as mx
from mixexperts.errors import (
    DegenerateFitWarning,
    InvalidResponseError,
    RankDeficientWarning,
    SeparationWarning,
)
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

N = 40


def make_data():
    rng = np.random.default_rng(20260901)
    X = rng.standard_normal((N, 2))
    side = rng.integers(0, 2, N)
    y = np.where(side, 3.0 + X[:, 0], -2.0 - X[:, 1]) + 0.4 * rng.standard_normal(N)
    return X, y


X, Y = make_data()
FRAME = pd.DataFrame(X, columns=["age", "income"])


def spoiled(values, value, at=3):
    values = np.array(values, dtype=float)
    values.flat[at] = value
    return values


def fit(data=X, y=Y, weight=None, offset=None, **options):
    settings = {"n_init": 2, "random_state": 0, **options}
    return mx.MoERegressor(**settings).fit(data, y, weight, offset=offset)


# name: (call, error, pattern that the message must match)
DATA = {
    "nan in X": (lambda: fit(spoiled(X, np.nan)), ValueError, r"\bX contains NaN"),
    "inf in X": (lambda: fit(spoiled(X, np.inf)), ValueError, r"\bX contains infinity"),
    "nan in y": (lambda: fit(y=spoiled(Y, np.nan)), ValueError, r"\by contains NaN"),
    "inf in y": (lambda: fit(y=spoiled(Y, np.inf)), ValueError, r"\by contains infinity"),
    "text column": (
        lambda: fit(FRAME.assign(town=["a"] * N)),
        ValueError,
        r"X has columns that are not numeric: 'town'",
    ),
    "category column": (
        lambda: fit(FRAME.assign(town=pd.Categorical(["a", "b"] * (N // 2)))),
        ValueError,
        r"X has columns that are not numeric: 'town'",
    ),
    "text in y": (lambda: fit(y=["a"] * N), ValueError, r"\by\b|'a'"),
    "constant y": (lambda: fit(y=np.full(N, 2.5)), ValueError, r"y is constant \(= 2.5\)"),
    "constant y, shifted": (
        lambda: fit(y=np.full(N, 1e8)),
        ValueError,
        r"y is constant \(= 1e\+08\)",
    ),
    "y equal to the offset": (
        lambda: fit(offset=Y - 1.0),
        ValueError,
        r"y - offset is constant \(= 1\)",
    ),
    "no rows": (lambda: fit(FRAME.iloc[:0], Y[:0]), ValueError, r"0 sample"),
    "no columns": (lambda: fit(FRAME.iloc[:, :0]), ValueError, r"0 feature"),
    "one row": (lambda: fit(X[:1], Y[:1], n_experts=1), ValueError, r"1 sample"),
    "rows differ": (lambda: fit(X, Y[:-1]), ValueError, r"inconsistent numbers of samples"),
    "X of one axis": (lambda: fit(X[:, 0]), ValueError, r"Expected 2D array"),
    "y of two columns": (lambda: fit(y=np.column_stack([Y, Y])), ValueError, r"\by\b"),
    "complex X": (lambda: fit(X + 0j), ValueError, r"[Cc]omplex"),
}
WEIGHTS = {
    "negative": (-1.0, r"sample_weight must not be negative, got -1 in row 3"),
    "nan": (np.nan, r"sample_weight contains NaN or infinity"),
    "inf": (np.inf, r"sample_weight contains NaN or infinity"),
}
NUMBERS = {
    "n_experts": ([0, -1], [2.5, True, "2", None]),
    "n_init": ([0, -3], [1.5, True, "10"]),
    "max_iter": ([0, -1], [10.0, False]),
    "chunk_rows": ([0, -7], [2.5, True]),
    "tol": ([-1e-8, np.nan, np.inf], ["1e-8", True]),
}
NAMES = {
    "unknown gate": ({"gate": "sofmax"}, r"gate='sofmax' .*did you mean 'softmax'.*'constant'"),
    "unknown expert": ({"expert": "gausian"}, r"expert='gausian' .*did you mean 'gaussian'"),
    "unknown init": ({"init": "kmean"}, r"init='kmean' is not known; known names: 'auto'"),
    "unknown backend": ({"backend": "cuda"}, r"backend='cuda' is not known; known backends"),
    "unknown penalty": ({"gate_penalty": "rigde"}, r"gate_penalty='rigde' .*'ridge'"),
    "other penalty": ({"expert_penalty": "l0"}, r"expert_penalty='l0' .*known names: 'none'"),
    "gate column": ({"gate_features": [0, 5]}, r"gate_features asks for column 5, but X has 2"),
    "negative column": ({"expert_features": [-3]}, r"expert_features asks for column -3"),
    "name without names": ({"gate_features": ["age"]}, r"gate_features names .*no column names"),
    "short mask": ({"expert_features": [True]}, r"expert_features is a mask of 1 entries"),
    "too many experts": ({"n_experts": N + 1}, r"n_experts=41 is more than the 40 rows"),
    "short labels": ({"init": np.zeros(3, int)}, r"init has 3 rows but X has 40"),
    "one label": ({"init": np.zeros(N, int)}, r"init holds 1 different labels, but n_experts=2"),
    "responsibilities": ({"init": np.ones((N, 2))}, r"init .* rows do not sum to one"),
    "wrong columns": ({"init": np.ones((N, 3)) / 3}, r"init has 3 columns of responsibilities"),
    "parameters": ({"init": {"coef": 1}}, r"missing keys \['intercept', 'scale'\]"),
    "unfitted start": ({"init": mx.MoERegressor()}, r"init is a model that is not fitted"),
    "negative seed": ({"random_state": -1}, r"random_state"),
}  # fmt: skip
TYPES = {
    "gate class": ({"gate": Softmax}, r"gate is the class Softmax; pass Softmax\(\)"),
    "expert number": ({"expert": 3}, r"expert must be a name or an instance"),
    "penalty": ({"gate_penalty": 0.1}, r"gate_penalty must be a name or an instance"),
    "column of float": ({"gate_features": [0.5]}, r"gate_features must hold column names"),
    "columns of two axes": ({"expert_features": [[0]]}, r"expert_features must be a list"),
    "start": ({"init": object()}, r"init must be a name"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), DATA.values(), ids=DATA)
def test_data(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(("value", "match"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights(value, match):
    with pytest.raises(ValueError, match=match):
        fit(weight=spoiled(np.ones(N), value))


def test_weights_as_a_whole():
    with pytest.raises(ValueError, match="sample_weight is zero in every row"):
        fit(weight=np.zeros(N))
    with pytest.raises(ValueError, match="sample_weight has 39 entries but X has 40 rows"):
        fit(weight=np.ones(N - 1))
    with pytest.raises(ValueError, match="sample_weight must be one-dimensional"):
        fit(weight=np.ones((N, 1)))
    few = np.zeros(N)
    few[:2] = 1.0
    with pytest.raises(ValueError, match="n_experts=3 is more than the 2 rows of positive weight"):
        fit(weight=few, n_experts=3)


@pytest.mark.parametrize(
    ("offset", "match"),
    [
        (np.zeros(N - 1), r"offset must have shape \(40,\).*got \(39,\)"),
        (np.zeros((N, 1)), r"offset must have shape \(40,\)"),
        (spoiled(np.zeros(N), np.nan), r"offset contains NaN or infinity"),
    ],
)
def test_offset(offset, match):
    with pytest.raises(ValueError, match=match):
        fit(offset=offset)
    est = fit()
    with pytest.raises(ValueError, match=match):
        est.predict(X, offset=offset)


@pytest.mark.parametrize(
    ("argument", "value"), [(name, v) for name, (values, _) in NUMBERS.items() for v in values]
)
def test_numbers_out_of_range(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}"):
        fit(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"), [(name, v) for name, (_, values) in NUMBERS.items() for v in values]
)
def test_numbers_of_the_wrong_type(argument, value):
    with pytest.raises(TypeError, match=rf"^{argument} must be .*got {value!r}"):
        fit(**{argument: value})


@pytest.mark.parametrize(("options", "match"), NAMES.values(), ids=NAMES)
def test_names(options, match):
    with pytest.raises(ValueError, match=match):
        fit(**options)


@pytest.mark.parametrize(("options", "match"), TYPES.values(), ids=TYPES)
def test_types(options, match):
    with pytest.raises(TypeError, match=match):
        fit(**options)


def test_unknown_column_lists_the_known():
    match = "gate_features names the column 'incom', which X lacks; its columns are 'age', 'income'"
    with pytest.raises(ValueError, match=match):
        fit(FRAME, gate_features=["incom"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"degree": -1}, ValueError),
        ({"degree": 1.5}, TypeError),
        ({"degree": True}, TypeError),
        ({"degree": 0, "fit_intercept": False}, ValueError),
        ({"scale_floor": 0.0}, ValueError),
        ({"scale_floor": 2.0}, ValueError),
    ],
)
def test_expert_arguments(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Gaussian(**options)


def test_a_family_is_asked_whether_it_accepts_the_response():
    """A family with a smaller support refuses what lies outside, at fit and at scoring."""

    class Positive(Gaussian):
        def check_response(self, y):
            super().check_response(y)
            if (np.asarray(y) <= 0).any():
                raise InvalidResponseError("y must be positive")

    with pytest.raises(InvalidResponseError, match="y must be positive"):
        fit(expert=Positive())


# --- new rows -----------------------------------------------------------------------------------

METHODS = ("predict", "predict_experts", "gate_proba", "predictive", "sample", "score_samples")


@pytest.mark.parametrize("method", METHODS)
def test_unfitted(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(mx.MoERegressor(), method)(X)
    with pytest.raises(NotFittedError):
        mx.MoERegressor().save("never-written.mxp")


@pytest.mark.parametrize("method", METHODS)
def test_wrong_columns_at_prediction(method):
    est, named = fit(), fit(FRAME)
    with pytest.raises(ValueError, match="X has 3 features, but MoERegressor is expecting 2"):
        getattr(est, method)(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"(?s)now missing.*income"):
        getattr(named, method)(FRAME[["age"]])
    with pytest.raises(ValueError, match="not numeric: 'age'"):
        getattr(named, method)(FRAME.assign(age="old"))
    with pytest.raises(ValueError, match="X contains NaN"):
        getattr(est, method)(spoiled(X, np.nan))


def test_responses_at_scoring():
    est = fit()
    for method in ("score_samples", "responsibilities", "aic", "bic", "icl"):
        with pytest.raises(ValueError, match="y contains NaN"):
            getattr(est, method)(X, spoiled(Y, np.nan))
        with pytest.raises(ValueError, match="inconsistent numbers"):
            getattr(est, method)(X, Y[:-1])


# --- doubtful data: a warning by name, and numbers that hold ------------------------------------

DOUBTFUL = {
    "constant": (FRAME.assign(same=7.0), "'same'"),
    "zero": (FRAME.assign(same=0.0), "'same'"),
    "duplicated": (FRAME.assign(again=FRAME["age"]), "'age'|'again'"),
    "scaled copy": (FRAME.assign(cents=100.0 * FRAME["age"] - 5.0), "'age'|'cents'"),
    "collinear": (FRAME.assign(total=FRAME["age"] + FRAME["income"]), "'age'|'income'|'total'"),
}


@pytest.mark.parametrize("gate", ["softmax", "constant"])
@pytest.mark.parametrize(("frame", "named"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_rank_deficient_columns_are_named_and_change_nothing(frame, named, gate):
    with pytest.warns(RankDeficientWarning) as caught:
        est = fit(frame, gate=gate)
    messages = [str(w.message) for w in caught]
    assert [m.split(" lacks")[0] for m in messages] == [
        f"the design of the {room}" for room in ("experts", "gate")[: 1 + (gate == "softmax")]
    ]
    for message in messages:
        assert re.search(named, message)
        assert "'Intercept'" not in message
    plain = fit(FRAME, gate=gate)
    assert est.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-6)
    assert_allclose(est.predict(frame), plain.predict(FRAME), atol=1e-4)
    columns = [*frame]
    # the least-norm split between copies, in standardised columns
    if columns[-1] == "again":
        assert_allclose(est.coef_[:, 0], est.coef_[:, 2], rtol=1e-8)
        assert_allclose(2 * est.coef_[:, 0], plain.coef_[:, 0], atol=1e-4)
    elif columns[-1] == "same":
        assert_allclose(est.coef_[:, 2], 0.0, atol=1e-12)


def test_parameters_of_a_deficient_design_are_counted_by_rank():
    with pytest.warns(RankDeficientWarning):
        est = fit(DOUBTFUL["duplicated"][0])
    assert est.n_parameters_ == fit(FRAME).n_parameters_


def test_fewer_rows_than_columns_counts_both():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est = fit(rng.standard_normal((12, 30)), Y[:12])
    deficient = [str(w.message) for w in caught if w.category is RankDeficientWarning]
    assert len(deficient) == 2
    assert all("12 rows are fewer than the 31 columns" in message for message in deficient)
    assert {w.category for w in caught} <= {RankDeficientWarning, DegenerateFitWarning}
    assert est.coef_.shape == (2, 30)
    assert np.isfinite(est.coef_).all()


def test_perfectly_separable_gate_is_finite_and_flagged():
    x = np.linspace(-1, 1, N)[:, None]
    y = np.where(x[:, 0] > 0, 10.0, -10.0) + 0.3 * np.sin(40 * x[:, 0])
    with pytest.warns(SeparationWarning, match="separates"):
        est = fit(x, y, expert=Gaussian(degree=0))
    assert est.separated_
    assert np.isfinite(est.gate_coef_).all()
    assert np.isfinite(est.log_likelihood_)
    assert_allclose(est.gate_proba(x).sum(axis=1), 1.0)


def test_response_without_noise_is_degenerate_and_says_why():
    with pytest.warns(DegenerateFitWarning, match="scale at the floor"):
        est = fit(X, X @ [1.0, -2.0] + 3.0, n_experts=1)
    assert est.status_ == "degenerate"
    assert_allclose(est.predict(X), X @ [1.0, -2.0] + 3.0, atol=1e-6)
    assert np.isfinite(est.log_likelihood_)


def test_as_many_experts_as_rows_is_degenerate():
    with pytest.warns(DegenerateFitWarning, match="effective rows|scale at the floor"):
        est = fit(X[:6], Y[:6], n_experts=6, gate="constant", expert=Gaussian(degree=0))
    assert est.mass_.sum() == pytest.approx(6)
