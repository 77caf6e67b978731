"""Shipped data sets agree with their cards; generated samples agree with their truth."""

import csv
import dataclasses
import math
import pickle
import subprocess
import sys
from importlib import resources

import formulaic
import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

from mixexperts import datasets

DATA = resources.files("mixexperts.datasets.data")
FILES = sorted(e.name for e in DATA.iterdir() if e.name.endswith(".csv"))
NAMES = sorted(e.name.removesuffix(".toml") for e in DATA.iterdir() if e.name.endswith(".toml"))
LOADERS = sorted(n for n in datasets.__all__ if n.startswith("load_") and n != "load_dataset")
PUBLISHED = [(name, fit) for name in NAMES for fit in datasets.card(name).published]

# Cards print log-likelihoods to four decimals; 1e-3 leaves room for that only.
CARD_TOL = 1e-3
# Monte Carlo checks allow four standard errors: with fixed seeds they cannot flicker, and
# a wrong density, gate or sign is off by far more at these sample sizes.
STANDARD_ERRORS = 4.0


# --- shipped data -----------------------------------------------------------------------


def test_every_csv_has_one_card_and_one_loader():
    assert [datasets.card(name).file for name in sorted(NAMES, key=str.lower)] == sorted(
        FILES, key=str.lower
    )
    assert [f"load_{name}" for name in NAMES] == LOADERS
    assert len(NAMES) == 18


@pytest.mark.parametrize("name", NAMES)
def test_card_describes_the_csv(name):
    card = datasets.card(name)
    with datasets.data_path(name).open(encoding="utf-8", newline="") as handle:
        header, *rows = list(csv.reader(handle))
    assert card.name == name
    assert list(card.columns) == header
    assert (card.n_rows, card.n_columns) == (len(rows), len(header))
    assert all([card.title, card.source, card.obtained_from, card.licence, card.formula])


@pytest.mark.parametrize("name", NAMES)
def test_loader_returns_the_declared_table(name):
    loader = getattr(datasets, f"load_{name}")
    frame, card = loader(return_card=True)
    assert frame.shape == (card.n_rows, card.n_columns)
    assert list(frame.columns) == list(card.columns)
    counts = {c: int(n) for c, n in frame.isna().sum().items() if n}
    assert counts == dict(card.missing)
    for column, levels in card.categories.items():
        assert tuple(frame[column].cat.categories) == levels
        assert set(frame[column]) == set(levels)
    pd.testing.assert_frame_equal(loader(), frame)
    pd.testing.assert_frame_equal(datasets.load_dataset(name), frame)
    assert card == datasets.card(name)
    assert f"({card.n_rows}, {card.n_columns})" in loader.__doc__
    assert loader.__name__ == f"load_{name}"


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_stripped_and_numbers_are_numbers(name):
    frame, card = datasets.load_dataset(name, return_card=True)
    free_text = {"Company", "country"}
    for column in frame.columns:
        if column in card.categories:
            continue
        if column in free_text:
            assert all(value == value.strip() != "" for value in frame[column])
        else:
            assert frame[column].dtype.kind in "if"


def test_frames_can_be_combined_and_loads_are_independent():
    frame = datasets.load_epil()
    assert pd.concat([frame, frame.copy()]).shape == (472, 9)
    frame.loc[0, "y"] = -1
    assert datasets.load_epil().loc[0, "y"] == 5


def test_tempanomalies_gaps():
    frame = datasets.load_tempanomalies()
    gaps = frame.loc[frame["5-YearMean"].isna(), "Year"]
    assert list(gaps) == [1880, 1881, 2014, 2015]
    assert frame["5-YearMean"].min() > -1.0
    # The five-year mean must be that of the annual column, up to the two printed decimals.
    rolling = frame["AnnualAnomaly"].rolling(5, center=True).mean()
    assert (rolling - frame["5-YearMean"]).abs().max() < 0.02


def test_list_datasets():
    table = datasets.list_datasets()
    assert list(table.columns) == ["name", "n_rows", "n_columns", "title", "formula"]
    assert list(table["name"]) == NAMES
    assert table.set_index("name").loc["tonedata", "n_rows"] == 150


@pytest.mark.parametrize(
    ("wrong", "near"), [("tonedta", "tonedata"), ("Ethanol", "ethanol"), ("load_patent", "patent")]
)
@pytest.mark.parametrize("call", [datasets.load_dataset, datasets.card, datasets.data_path])
def test_unknown_name(call, wrong, near):
    with pytest.raises(ValueError, match=f"name: .*{wrong}.*Did you mean '{near}'") as caught:
        call(wrong)
    assert all(name in str(caught.value) for name in NAMES)


def test_name_of_wrong_type():
    with pytest.raises(TypeError, match="name: got int"):
        datasets.card(3)


def test_card_is_frozen_readable_and_picklable():
    card = datasets.card("tempanomalies")
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.title = "other"
    assert pickle.loads(pickle.dumps(card)) == card
    assert hash(card) == hash(datasets.card("tempanomalies"))
    text = str(card)
    assert all(part in text for part in ["136 rows", "5-YearMean", "-99.99", "Licence", "BIC"])
    assert max(len(line) for line in text.splitlines()) <= 88


@pytest.mark.parametrize("name", NAMES)
def test_formula_can_be_built_on_the_table(name):
    frame, card = datasets.load_dataset(name, return_card=True)
    for formula in [card.formula, *(fit.formula for fit in card.published)]:
        left, right = formula.split("~")
        terms = [formulaic.model_matrix(part, frame) for part in right.split("|")]
        assert all(len(matrix) == card.n_rows for matrix in terms)
        assert len(formulaic.model_matrix(f"0 + {left}", frame)) == card.n_rows
    for extra in filter(None, [card.offset, card.groups, card.weights]):
        assert len(formulaic.model_matrix(f"0 + {extra}", frame)) == card.n_rows


def test_import_stays_light():
    code = (
        "import sys, mixexperts.datasets; "
        "sys.exit(any(m in sys.modules for m in ('pandas', 'scipy', 'sklearn', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- published fits ---------------------------------------------------------------------


def _design(name, formula):
    frame = datasets.load_dataset(name)
    left, right = formula.split("~")
    return (
        np.asarray(frame[left.strip()], dtype=float),
        np.asarray(formulaic.model_matrix(right.split("|")[0], frame), dtype=float),
    )


def _gaussian_log_likelihood(y, X):
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return -0.5 * len(y) * (math.log(2 * math.pi * np.mean(residual**2)) + 1)


def _poisson_log_likelihood(y, X):
    mean = y + 0.5
    for _ in range(50):
        root = np.sqrt(mean)
        working = np.log(mean) + (y - mean) / mean
        mean = np.exp(X @ np.linalg.lstsq(X * root[:, None], working * root, rcond=None)[0])
    return float(np.sum(y * np.log(mean) - mean - gammaln(y + 1)))


@pytest.mark.parametrize(
    ("name", "fit"),
    [pair for pair in PUBLISHED if pair[1].n_experts == 1],
    ids=lambda v: str(v)[:40],
)
def test_one_expert_fits_are_recomputed_from_the_csv(name, fit):
    plain = {"gaussian": _gaussian_log_likelihood, "poisson": _poisson_log_likelihood}
    value = plain[fit.family](*_design(name, fit.formula))
    assert value == pytest.approx(fit.log_likelihood, abs=CARD_TOL)


def test_one_expert_fits_cover_the_sets_that_have_published_fits():
    covered = {name for name, fit in PUBLISHED if fit.n_experts == 1}
    assert covered == {"tonedata", "co2_gnp", "tempanomalies", "fabricfault", "patent"}


@pytest.mark.parametrize(("name", "fit"), PUBLISHED, ids=lambda v: str(v)[:40])
def test_bic_follows_from_log_likelihood_and_df(name, fit):
    n = datasets.card(name).n_rows
    # The printed log-likelihood enters twice, with an error of at most 5e-5 each.
    assert -2 * fit.log_likelihood + fit.df * math.log(n) == pytest.approx(fit.bic, abs=CARD_TOL)


def test_two_line_fit_of_co2_gnp_from_its_printed_parameters():
    # Parameters printed in the vignette of R package mixtools.
    frame = datasets.load_co2_gnp()
    y, x = frame["CO2"].to_numpy(), frame["GNP"].to_numpy()
    weight = np.array([0.754921, 0.245079])
    scale = np.array([2.049315, 0.809389])
    mean = np.array([8.678987, 1.415150]) + x[:, None] * np.array([-0.023344, 0.676596])
    density = weight / scale * np.exp(-0.5 * ((y[:, None] - mean) / scale) ** 2)
    value = np.sum(np.log(density.sum(axis=1) / math.sqrt(2 * math.pi)))
    fits = [f for n, f in PUBLISHED if n == "co2_gnp" and f.n_experts == 2 and "| 1" in f.formula]
    assert len(fits) == 2
    for fit in fits:
        assert value == pytest.approx(fit.log_likelihood, abs=CARD_TOL)


# --- regression generator ---------------------------------------------------------------


@pytest.mark.parametrize("n_experts", [1, 2, 3, 5])
@pytest.mark.parametrize("n_features", [1, 3])
def test_regression_shapes_and_reference(n_experts, n_features):
    X, y, truth = datasets.make_moe_regression(
        40, n_features=n_features, n_experts=n_experts, random_state=1
    )
    assert X.shape == (40, n_features)
    assert y.shape == truth.labels.shape == (40,)
    assert truth.coef.shape == truth.gate_coef.shape == (n_experts, n_features)
    assert truth.intercept.shape == truth.scale.shape == truth.gate_intercept.shape == (n_experts,)
    assert np.all(truth.gate_coef[-1] == 0)
    assert truth.gate_intercept[-1] == 0
    assert set(truth.labels) <= set(range(n_experts))
    np.testing.assert_allclose(truth.gate_proba(X).sum(axis=1), 1.0, rtol=1e-12)
    assert truth.expert_means(X).shape == (40, n_experts)
    assert np.unique(truth.coef, axis=0).shape[0] == n_experts


def test_regression_defaults():
    X, _, truth = datasets.make_moe_regression(random_state=0)
    assert X.shape == (500, 1)
    assert truth.coef.shape == (2, 1)
    np.testing.assert_array_equal(truth.scale, [0.3, 0.3])


def test_regression_mean_and_labels_obey_the_law_of_large_numbers():
    n = 40_000
    X, y, truth = datasets.make_moe_regression(n, n_features=2, n_experts=3, random_state=7)
    residual = y - truth.mean(X)
    # Given x, the residual has mean zero: so it has against any function of x.
    for weight in (np.ones(n), X[:, 0], X[:, 1], truth.gate_proba(X)[:, 0]):
        product = residual * weight
        assert abs(product.mean()) < STANDARD_ERRORS * product.std() / math.sqrt(n)
    hits = np.eye(3)[truth.labels] - truth.gate_proba(X)
    assert np.all(np.abs(hits.mean(axis=0)) < STANDARD_ERRORS * hits.std(axis=0) / math.sqrt(n))
    error = (y - truth.expert_means(X)[np.arange(n), truth.labels]) / truth.scale[truth.labels]
    # The mean square of standard normals has variance 2 / n.
    assert abs(np.mean(error**2) - 1) < STANDARD_ERRORS * math.sqrt(2 / n)
    shares = np.bincount(truth.labels, minlength=3) / n
    assert shares.min() > 0.1


def test_regression_log_likelihood_is_its_expectation_up_to_sampling_error():
    n = 4_000
    X, y, truth = datasets.make_moe_regression(n, n_experts=2, random_state=3)
    gate, means = truth.gate_proba(X), truth.expert_means(X)
    # The expectation of log p(y | x) given the rows, by a fine sum over y.
    low, high = means.min() - 8 * truth.scale.max(), means.max() + 8 * truth.scale.max()
    grid, step = np.linspace(low, high, 2_001, retstep=True)
    z = (grid[None, None, :] - means[..., None]) / truth.scale[None, :, None]
    density = np.einsum("nk,nkg->ng", gate / truth.scale, np.exp(-0.5 * z**2))
    density /= math.sqrt(2 * math.pi)
    log_density = np.log(np.maximum(density, 1e-300))
    np.testing.assert_allclose(density.sum(axis=1) * step, 1.0, atol=1e-8)
    first = (density * log_density).sum(axis=1) * step
    second = (density * log_density**2).sum(axis=1) * step
    standard_error = math.sqrt(np.sum(second - first**2))
    assert abs(truth.log_likelihood(X, y) - first.sum()) < STANDARD_ERRORS * standard_error


def test_regression_truth_beats_other_parameters():
    X, y, truth = datasets.make_moe_regression(5_000, n_experts=2, random_state=5)
    best = truth.log_likelihood(X, y)
    changes = [
        {"coef": truth.coef + 0.2},
        {"scale": truth.scale * 1.3},
        {"gate_coef": truth.gate_coef * 0.5},
        {"intercept": truth.intercept[::-1]},
    ]
    for change in changes:
        assert dataclasses.replace(truth, **change).log_likelihood(X, y) < best


def test_regression_single_expert_log_likelihood_is_normal():
    X, y, truth = datasets.make_moe_regression(50, n_experts=1, noise=0.7, random_state=2)
    z = (y - X[:, 0] * truth.coef[0, 0] - truth.intercept[0]) / 0.7
    expected = np.sum(-0.5 * z**2) - 50 * math.log(0.7 * math.sqrt(2 * math.pi))
    assert truth.log_likelihood(X, y) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(truth.gate_proba(X), 1.0)


EXPLICIT = {
    "coef": [[1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]],
    "intercept": [0.0, 1.0, 2.0],
    "scale": [0.1, 0.2, 0.3],
    "gate_coef": [[1.0, 1.0], [0.0, -1.0], [0.0, 0.0]],
    "gate_intercept": [0.5, -0.5, 0.0],
}


def test_regression_explicit_parameters_are_respected():
    rows = np.random.default_rng(0).uniform(size=(30, 2))
    X, y, truth = datasets.make_moe_regression(X=rows, **EXPLICIT, random_state=0)
    np.testing.assert_array_equal(X, rows)
    for key, value in EXPLICIT.items():
        np.testing.assert_array_equal(getattr(truth, key), value)
    assert y.shape == (30,)
    score = rows @ np.array(EXPLICIT["gate_coef"]).T + EXPLICIT["gate_intercept"]
    odds = np.exp(score)
    np.testing.assert_allclose(truth.gate_proba(X), odds / odds.sum(1, keepdims=True), rtol=1e-12)
    rows[:] = 0.0  # the sample is a copy
    assert np.any(X)


def test_regression_scalar_scale_and_gate_coef_alone():
    _, _, truth = datasets.make_moe_regression(
        20, scale=0.5, gate_coef=[[3.0], [0.0]], random_state=0
    )
    np.testing.assert_array_equal(truth.scale, [0.5, 0.5])
    np.testing.assert_array_equal(truth.gate_intercept, [0.0, 0.0])


def test_constant_gate_and_zero_strength_have_equal_weights():
    for options in ({"gate": "constant"}, {"gate_strength": 0.0}):
        X, _, truth = datasets.make_moe_regression(20, n_experts=4, random_state=0, **options)
        np.testing.assert_array_equal(truth.gate_coef, np.zeros((4, 1)))
        np.testing.assert_allclose(truth.gate_proba(X), 0.25)


def test_drawn_gate_shares_given_rows_fairly():
    rows = 1_000.0 + np.random.default_rng(0).exponential(50.0, size=(2_000, 1))
    _, _, truth = datasets.make_moe_regression(X=rows, n_experts=4, random_state=0)
    # A steep gate cuts at the quartiles of the rows: shares are 1/4 up to binomial error.
    shares = np.bincount(truth.labels, minlength=4) / 2_000
    assert np.all(np.abs(shares - 0.25) < 0.05)


@pytest.mark.parametrize("make", [datasets.make_moe_regression, datasets.make_moe_classification])
def test_seeds_reproduce(make):
    X, y, truth = make(50, n_experts=3, random_state=11)
    X2, y2, truth2 = make(50, n_experts=3, random_state=11)
    np.testing.assert_array_equal(X, X2)
    np.testing.assert_array_equal(y, y2)
    for f in dataclasses.fields(truth):
        np.testing.assert_array_equal(getattr(truth, f.name), getattr(truth2, f.name))
    assert np.any(make(50, n_experts=3, random_state=12)[0] != X)
    generator = np.random.default_rng(11)
    first, second = (make(50, random_state=generator)[0] for _ in range(2))
    assert np.any(first != second)
    legacy = [make(50, random_state=np.random.RandomState(4))[0] for _ in range(2)]
    np.testing.assert_array_equal(*legacy)
    # Giving a parameter leaves the other streams alone.
    assert np.array_equal(make(50, gate_strength=0.5, n_experts=3, random_state=11)[0], X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples: found 0"),
        ({"n_samples": True}, "n_samples: found True"),
        ({"n_experts": 1.5}, "n_experts: found 1.5"),
        ({"noise": 0.0}, "noise: found 0.0"),
        ({"noise": math.nan}, "noise: found nan"),
        ({"gate_strength": -1.0}, "gate_strength: found -1.0"),
        ({"separation": math.inf}, "separation: found inf"),
        ({"gate": "tree"}, "gate: found 'tree'"),
        ({"coef": [1.0, 2.0]}, r"coef: found shape \(2,\), expected \(K, p\)"),
        ({"coef": [[1.0], [2.0]], "n_experts": 3}, r"coef: .* K = 3 as in n_experts"),
        ({"coef": [[1.0], [2.0]], "intercept": [0.0] * 3}, r"intercept: .* K = 2 as in coef"),
        ({"coef": [[1.0, 2.0]], "n_features": 1}, r"coef: .* p = 1 as in n_features"),
        ({"X": np.zeros((4, 1)), "n_samples": 5}, r"X: .* n = 5 as in n_samples"),
        ({"X": np.zeros(4)}, r"X: found shape \(4,\)"),
        ({"X": np.full((4, 1), np.nan)}, "X: found NaN"),
        ({"coef": [[np.inf], [0.0]]}, "coef: found NaN or infinite"),
        ({"scale": [0.1, -0.1]}, "scale: found -0.1"),
        ({"scale": 0.0}, "scale: found 0"),
        ({"gate_coef": [[0.0], [1.0]]}, "gate_coef: found nonzero"),
        ({"gate_intercept": [0.0, 1.0]}, "gate_intercept: found nonzero"),
        ({"gate": "constant", "gate_coef": [[1.0], [0.0]]}, "gate_coef: found slopes"),
    ],
)
def test_regression_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.make_moe_regression(**arguments)


def test_truth_refuses_wrong_shapes():
    X, y, truth = datasets.make_moe_regression(10, random_state=0)
    with pytest.raises(ValueError, match=r"X: found shape \(10,\)"):
        truth.mean(X[:, 0])
    with pytest.raises(ValueError, match=r"y: found shape \(9,\)"):
        truth.log_likelihood(X, y[:9])
    with pytest.raises(dataclasses.FrozenInstanceError):
        truth.scale = np.ones(2)


# --- classification generator -----------------------------------------------------------


def test_classification_shapes_and_reference():
    X, y, truth = datasets.make_moe_classification(
        60, n_features=2, n_experts=3, n_classes=4, random_state=0
    )
    assert X.shape == (60, 2)
    assert y.dtype.kind == "i"
    assert set(y) <= set(range(4))
    assert truth.coef.shape == (3, 4, 2)
    assert truth.intercept.shape == (3, 4)
    assert not truth.coef[:, -1].any()
    assert not truth.intercept[:, -1].any()
    np.testing.assert_allclose(truth.expert_means(X).sum(axis=2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(truth.mean(X).sum(axis=1), 1.0, rtol=1e-12)


def test_classification_obeys_the_law_of_large_numbers():
    n = 40_000
    X, y, truth = datasets.make_moe_classification(
        n, n_experts=3, n_classes=3, separation=1.0, random_state=4
    )
    proba = truth.mean(X)
    residual = np.eye(3)[y] - proba
    for weight in (np.ones(n), X[:, 0]):
        product = residual * weight[:, None]
        bound = STANDARD_ERRORS * product.std(axis=0) / math.sqrt(n)
        assert np.all(np.abs(product.mean(axis=0)) < bound)
    # log p(y | x) has a known mean and variance given the rows.
    first = np.sum(proba * np.log(proba), axis=1)
    second = np.sum(proba * np.log(proba) ** 2, axis=1)
    standard_error = math.sqrt(np.sum(second - first**2))
    value = truth.log_likelihood(X, y)
    assert abs(value - first.sum()) < STANDARD_ERRORS * standard_error
    assert value == pytest.approx(np.sum(np.log(proba[np.arange(n), y])), rel=1e-12)


def test_classification_explicit_parameters_are_respected():
    coef = np.array([[[2.0], [0.0]], [[-2.0], [0.0]]])
    intercept = np.array([[0.5, 0.0], [0.0, 0.0]])
    _, _, truth = datasets.make_moe_classification(
        25, coef=coef, intercept=intercept, gate_intercept=[1.0, 0.0], random_state=0
    )
    np.testing.assert_array_equal(truth.coef, coef)
    np.testing.assert_array_equal(truth.intercept, intercept)
    np.testing.assert_array_equal(truth.gate_intercept, [1.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": 1}, "n_classes: found 1"),
        ({"coef": np.ones((2, 2, 1))}, "coef: found nonzero values for the last class"),
        ({"intercept": np.ones((2, 2))}, "intercept: found nonzero values for the last class"),
        ({"coef": np.zeros((2, 3, 1)), "n_classes": 2}, r"coef: .* C = 2 as in n_classes"),
        ({"coef": np.zeros((2, 1))}, r"coef: found shape \(2, 1\), expected \(K, C, p\)"),
    ],
)
def test_classification_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.make_moe_classification(**arguments)


def test_classification_log_likelihood_refuses_unknown_classes():
    X, y, truth = datasets.make_moe_classification(10, random_state=0)
    with pytest.raises(ValueError, match="y: found values other than the classes"):
        truth.log_likelihood(X, y + 2)
