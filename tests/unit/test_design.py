"""Centring, scaling and expansion of columns, against what they are by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._design import DesignMap, monomials


@pytest.fixture
def features():
    rng = np.random.default_rng(20260901)
    return rng.standard_normal((50, 2)) * [3.0, 0.1] + [100.0, -2.0]


def test_columns_are_standardised_with_weights(features):
    weight = np.linspace(0.5, 2.0, 50)
    design = DesignMap.fit(features, weight, ("a", "b"))
    mean = np.average(features, axis=0, weights=weight)
    spread = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weight))
    assert_allclose(design.center, mean, rtol=1e-14)
    assert_allclose(design.scale, spread, rtol=1e-12)
    columns = design.transform(features)
    assert_allclose(columns[:, 0], 1.0)
    assert_allclose(columns[:, 1:], (features - mean) / spread, rtol=1e-10, atol=1e-12)
    assert design.dependent == ()
    assert design.basis is None


def test_without_intercept_nothing_is_centred(features):
    design = DesignMap.fit(features, np.ones(50), ("a", "b"), intercept=False)
    assert not design.center.any()
    raw_intercept, raw = design.raw_coefficients(np.ones((1, 2)))
    assert raw_intercept.tolist() == [0.0]
    assert_allclose(features @ raw[0], design.transform(features) @ np.ones(2), rtol=1e-12)


def test_order_and_names_of_monomials():
    assert monomials(2, 2).tolist() == [[1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    design = DesignMap.fit(
        np.random.default_rng(0).random((30, 2)), np.ones(30), ("a", "b"), degree=2
    )
    assert design.column_names() == ("a", "b", "a^2", "a b", "b^2")
    assert design.n_columns == 6


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_columns_made_orthogonal_span_the_same_space(features, orthogonalize):
    near = np.column_stack([features, features.sum(axis=1) + 1e-4 * features[:, 0] ** 2])
    weight = np.linspace(0.5, 2.0, 50)
    design = DesignMap.fit(near, weight, ("a", "b", "c"), orthogonalize=orthogonalize)
    columns = design.transform(near)
    gram = columns.T @ (columns * weight[:, None]) / weight.sum()
    if orthogonalize:
        assert_allclose(gram, np.eye(4), atol=1e-6)
    else:
        assert design.basis is None
        assert_allclose(np.diag(gram), 1.0)
    # the same fitted values as least squares on the raw columns
    y = np.random.default_rng(0).standard_normal(50)
    root = np.sqrt(weight)[:, None]
    fits = []
    for matrix in (columns, np.column_stack([np.ones(50), near - near.mean(axis=0)])):
        coef = np.linalg.lstsq(root * matrix, root[:, 0] * y, rcond=None)[0]
        fits.append(matrix @ coef)
    assert_allclose(fits[0], fits[1], atol=1e-7)


def test_least_norm_is_that_of_the_standardised_columns(features):
    """Whatever the units: a copy in cents weighs as much as the copy in euros."""
    doubled = np.column_stack([features[:, 0], 100.0 * features[:, 0] + 7.0])
    design = DesignMap.fit(doubled, np.ones(50), ("euros", "cents"))
    columns = design.transform(doubled)
    assert columns.shape == (50, 2)
    y = 5.0 + 2.0 * features[:, 0]
    coef = np.linalg.lstsq(columns, y, rcond=None)[0]
    _, raw = design.raw_coefficients(coef[None])
    assert_allclose(raw[0], [1.0, 0.01], rtol=1e-8)


@pytest.mark.parametrize("shift", [1e6, 1e9, 1e12])
def test_a_large_shift_is_no_constant_column(shift):
    """A column whose spread is far above its rounding is used as it is."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1)) + shift
    design = DesignMap.fit(x, np.ones(60), ("x",))
    assert design.dependent == ()
    assert design.transform(x)[:, 1].std() == pytest.approx(1.0, rel=1e-6)


def test_row_order_does_not_change_the_basis(features):
    """Signs included: what is built on the columns must not depend on who came first."""
    near = np.column_stack([features, features.sum(axis=1) + 1e-3 * features[:, 0] ** 2])
    names = ("a", "b", "c")
    order = np.random.default_rng(3).permutation(50)
    plain = DesignMap.fit(near, np.ones(50), names)
    turned = DesignMap.fit(near[order], np.ones(50), names)
    twice = DesignMap.fit(np.repeat(near, 2, axis=0), np.ones(100), names)
    for other in (turned, twice):
        assert_allclose(other.transform(near), plain.transform(near), rtol=0, atol=1e-6)


def test_no_features_at_all():
    design = DesignMap.fit(np.empty((5, 0)), np.ones(5), ())
    assert design.transform(np.empty((3, 0))).tolist() == [[1.0]] * 3
    bare = DesignMap.fit(np.empty((5, 0)), np.ones(5), (), intercept=False)
    assert bare.transform(np.empty((3, 0))).shape == (3, 0)
    intercept, coef = bare.raw_coefficients(np.empty((2, 0)))
    assert intercept.tolist() == [0.0, 0.0]
    assert coef.shape == (2, 0)
