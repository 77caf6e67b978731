"""There and back: design maps, and trees of anything that may be saved."""

import json
import math
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts._archive import read_archive, write_archive
from mixexperts._design import DesignMap, monomials
from mixexperts.errors import ArchiveError

SEEDS = st.integers(0, 10_000)
# The examples of a test are a function of the test alone.
FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)

# --- design maps --------------------------------------------------------------------------------


@FIXED
@given(
    seed=SEEDS,
    n_features=st.integers(0, 3),
    degree=st.integers(0, 3),
    intercept=st.booleans(),
    orthogonalize=st.booleans(),
    shift=st.sampled_from([0.0, 1.0, 30.0]),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_coefficients_go_to_raw_and_back(
    seed, n_features, degree, intercept, orthogonalize, shift, size
):
    rng = np.random.default_rng(seed)
    features = size * (rng.standard_normal((60, n_features)) + shift)
    names = tuple(f"x{j}" for j in range(n_features))
    design = DesignMap.fit(
        features, rng.uniform(0.1, 2.0, 60), names,
        degree=degree, intercept=intercept, orthogonalize=orthogonalize,
    )  # fmt: skip
    columns = design.transform(features)
    coef = rng.standard_normal((2, columns.shape[1]))
    raw_intercept, raw = design.raw_coefficients(coef)
    assert raw_intercept.shape == (2,)
    assert raw.shape == (2, len(design.powers)) == (2, len(design.column_names()))
    explicit = [np.prod(features**row, axis=1) for row in design.powers]
    parts = raw[:, None, :] * np.stack(explicit, axis=1) if explicit else np.zeros((2, 60, 1))
    mean = raw_intercept[:, None] + parts.sum(axis=2)
    cancels = np.abs(raw_intercept)[:, None] + np.abs(parts).sum(axis=2)
    # rounding of the raw form, times the condition of the binomial formula (31^3 at most)
    assert (np.abs(mean - coef @ columns.T) <= 1e-10 * (1 + cancels)).all()
    again = design.engine_coefficients(raw_intercept, raw)
    assert_allclose(again, coef, rtol=1e-5, atol=1e-5)


@FIXED
@given(seed=SEEDS, n_features=st.integers(1, 3), copies=st.integers(1, 2))
def test_collinear_columns_are_named_and_the_span_is_kept(seed, n_features, copies):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((50, n_features))
    mixed = np.column_stack([base, base @ rng.standard_normal((n_features, copies)) + 3.0])
    names = tuple("abcdef"[: mixed.shape[1]])
    design = DesignMap.fit(mixed, np.ones(50), names)
    assert len(design.dependent) == copies
    assert set(design.dependent) <= set(names)
    columns = design.transform(mixed)
    assert columns.shape[1] == n_features + 1
    assert np.linalg.matrix_rank(columns) == n_features + 1
    span = np.column_stack([np.ones(50), base])
    assert np.linalg.matrix_rank(np.column_stack([columns, span]), tol=1e-8) == n_features + 1


@pytest.mark.parametrize("n_features", [0, 1, 2, 4])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_monomials_are_all_there_once(n_features, degree):
    powers = monomials(n_features, degree)
    assert len(powers) == math.comb(n_features + degree, degree) - 1
    assert len({tuple(row) for row in powers}) == len(powers)
    assert (np.diff(powers.sum(axis=1)) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 1e8, 1e-8])
def test_constant_column_is_named_and_harmless(value):
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.standard_normal(40), np.full(40, value)])
    design = DesignMap.fit(features, np.ones(40), ("a", "b"))
    assert design.dependent == ("b",)
    columns = design.transform(features)
    assert np.isfinite(columns).all()
    assert columns.shape[1] == np.linalg.matrix_rank(columns) == 2


def test_transform_ignores_rows_it_was_not_fitted_to():
    """The map is learnt once: new rows, one or many, go through the same columns."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 2))
    design = DesignMap.fit(features, np.ones(40), ("a", "b"), degree=2)
    whole = design.transform(features)
    for i in range(5):
        assert_allclose(design.transform(features[i : i + 1])[0], whole[i], rtol=1e-13, atol=1e-13)


# --- archives -----------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["__array__", "__dict__", "__tuple__", "__object__", "__strings__"])
)
ARRAYS = hnp.arrays(
    st.sampled_from(
        [np.float64, np.float32, np.int64, np.int8, np.uint16, np.bool_, np.complex128]
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
KEYS = st.text(max_size=4) | st.integers() | st.booleans() | st.none() | st.tuples(st.integers())
TREES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def assert_same_tree(left, right):
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same_tree(a, b)
    elif isinstance(left, dict):
        assert [*map(type, left)] == [*map(type, right)]
        assert list(left) == list(right)
        for key in left:
            assert_same_tree(left[key], right[key])
    elif isinstance(left, float) and math.isnan(left):
        assert math.isnan(right)
    else:
        assert left == right
        assert not isinstance(left, float) or math.copysign(1, left) == math.copysign(1, right)


@settings(FIXED, max_examples=150)
@given(tree=TREES)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.mxp"
    write_archive(path, "test", tree)
    kind, again = read_archive(path)
    assert kind == "test"
    assert_same_tree(again, tree)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "bc"]),
        np.array(["a", None, "é"], dtype=object),
        np.array([["a", "b"]], dtype=object),
        np.array([], dtype=object),
        np.empty((0, 2), dtype=object),
        np.array("a", dtype=object),
        pd.Series([("a", 1), ("b", 2)]).to_numpy(),
    ],
    ids=["U", "object", "2d", "empty", "empty-2d", "0d", "tuples"],
)
def test_arrays_of_objects_keep_shape_and_content(array, tmp_path):
    write_archive(tmp_path / "a.mxp", "test", array)
    _, again = read_archive(tmp_path / "a.mxp")
    assert again.shape == array.shape
    assert again.tolist() == array.tolist()


def test_data_frames_come_back(tmp_path):
    frame = pd.DataFrame(
        {"a": [1.0, np.nan], "b": [1, 2], "c": ["x", "y"], "d": [True, False]},
        index=pd.Index([3, 5], name="n_experts"),
    )
    write_archive(tmp_path / "a.mxp", "test", frame)
    pd.testing.assert_frame_equal(read_archive(tmp_path / "a.mxp")[1], frame)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", 1j, object(), lambda: 0, np.complex128(1j)])
def test_what_cannot_be_written_is_refused_and_leaves_nothing_behind(value, tmp_path):
    target = tmp_path / "a.mxp"
    target.write_bytes(b"before")
    with pytest.raises(TypeError):
        write_archive(target, "test", {"deep": [value]})
    assert target.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mxp"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.mxp"
    write_archive(path, "test", {"a": np.arange(3.0), "b": [1, "two"]})
    return path


def test_truncated_files_are_refused(saved, tmp_path):
    content = saved.read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut.mxp").write_bytes(content[:length])
        with pytest.raises(ArchiveError, match=r"cut\.mxp"):
            read_archive(tmp_path / "cut.mxp")


def test_flipped_bytes_are_refused_or_harmless(saved, tmp_path):
    """One wrong byte anywhere: an ArchiveError, or (in unused fields of the zip) the same tree."""
    content = bytearray(saved.read_bytes())
    _, tree = read_archive(saved)
    broken = {}
    for i in range(len(content)):
        changed = content.copy()
        changed[i] ^= 0xFF
        (tmp_path / "flip.mxp").write_bytes(bytes(changed))
        try:
            _, again = read_archive(tmp_path / "flip.mxp")
        except ArchiveError:
            continue
        except Exception as error:
            broken.setdefault(type(error).__name__, []).append(i)
            continue
        assert_same_tree(again, tree)
    assert broken == {}


WHOLE = {"format": "mixexperts", "schema": 1, "kind": "test"}
FOREIGN = {
    "list": ([], "was not written by mixexperts"),
    "other": ({"format": "other"}, "was not written by mixexperts"),
    "newer": (WHOLE | {"schema": 99, "tree": 0}, "schema 99, newer"),
    "incomplete": ({"format": "mixexperts"}, "header.mxp"),
    "array-missing": (WHOLE | {"tree": {"__array__": 5}}, "header.mxp"),
    "unknown-tag": (WHOLE | {"tree": {"__other__": 5}}, "header.mxp"),
    "unknown-class": (
        WHOLE | {"tree": {"__object__": "no", "state": {"__dict__": []}}},
        "holds a 'no'",
    ),
}


@pytest.mark.parametrize(("header", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_headers_are_refused(header, message, tmp_path):
    path = tmp_path / "header.mxp"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps(header))
    with pytest.raises(ArchiveError, match=message):
        mx.load(path)
    with pytest.raises(FileNotFoundError):
        mx.load(tmp_path / "nothing.mxp")
