"""Formulas: parsing, designs against hand computation, memory, and refusals in users' words."""

import ast
import json
import pickle
import re
import warnings
from pathlib import Path

import formulaic
import numpy as np
import pandas as pd
import pytest
from formulaic import Formula, ModelSpec
from formulaic.errors import DataMismatchWarning
from formulaic.materializers import FormulaMaterializer, PandasMaterializer
from formulaic.parser.types import Factor
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mixexperts import formula as module
from mixexperts.errors import DesignError, UnseenLevelError
from mixexperts.formula import FormulaSpec

N = 60


def make(n=N, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "y": rng.gamma(3.0, size=n),
            "x": rng.normal(5.0, 2.0, size=n),
            "z": rng.normal(size=n),
            "t": rng.uniform(size=n),
            "u": rng.uniform(size=n),
            "g": rng.choice(list("abc"), n),
            "h": rng.choice([1, 2, 3], n),
            "w": rng.uniform(1, 2, size=n),
        }
    )
    frame.loc[[0, 1, 2], "g"] = ["a", "b", "c"]
    frame.loc[[0, 1, 2], "h"] = [1, 2, 3]
    return frame


@pytest.fixture
def df():
    return make()


def reload(spec, env=None):
    return FormulaSpec.from_state(json.loads(json.dumps(spec.to_state(), allow_nan=False)), env=env)


def same(a, b):
    assert a.x_names == b.x_names
    assert a.z_names == b.z_names
    assert_array_equal(a.X, b.X)
    assert_array_equal(a.Z, b.Z)


class TestDesign:
    def test_against_hand_computation(self, df):
        spec, d = FormulaSpec.fit("y ~ x + C(g) + I(x**2) | z", df)
        assert spec.x_names == ("x", "C(g)[T.b]", "C(g)[T.c]", "I(x ** 2)")
        expected = np.column_stack([df.x, df.g == "b", df.g == "c", df.x**2])
        assert_allclose(d.X, expected, rtol=1e-15)
        assert_array_equal(d.Z, df[["z"]])
        assert_array_equal(d.y, df.y)
        assert (d.x_intercept, d.z_intercept) == (True, True)
        assert (d.y_name, d.n_dropped) == ("y", 0)
        assert_array_equal(d.rows, np.arange(N))
        assert {d.X.dtype, d.Z.dtype, d.y.dtype} == {np.dtype(float)}

    def test_star_is_main_effects_and_products(self, df):
        spec, d = FormulaSpec.fit("y ~ x*g", df)
        assert spec.x_names == ("x", "g[T.b]", "g[T.c]", "x:g[T.b]", "x:g[T.c]")
        assert_allclose(d.X[:, 3], df.x * (df.g == "b"), rtol=1e-15)

    def test_splines_and_polynomials_span_what_they_should(self, df):
        _, d = FormulaSpec.fit("np.log(y) ~ poly(x, 2) + bs(t, df=4) + cr(u, df=3) - 1 | 0 + z", df)
        assert_allclose(d.y, np.log(df.y))
        assert_allclose(d.X[:, :2].T @ d.X[:, :2], np.eye(2), atol=1e-12)
        assert_allclose(d.X[:, :2].sum(axis=0), 0.0, atol=1e-12)
        assert_allclose(d.X[:, 6:].sum(axis=1), 1.0)  # natural cubic basis holds the constant
        cubic = np.vander(df.t, 4)
        knot = np.clip(df.t - np.median(df.t), 0, None) ** 3
        basis = np.column_stack([np.ones(N), d.X[:, 2:6]])
        assert np.linalg.matrix_rank(basis) == 5
        assert np.linalg.matrix_rank(np.column_stack([basis, cubic, knot]), tol=1e-8) == 5
        assert (d.x_intercept, d.z_intercept) == (False, False)

    @pytest.mark.parametrize(
        ("formula", "x_intercept", "z_intercept", "p", "q"),
        [
            ("y ~ x", True, True, 1, 0),
            ("y ~ 1 | z", True, True, 0, 1),
            ("y ~ x - 1 | z", False, True, 1, 1),
            ("y ~ 0 + x | z - 1", False, False, 1, 1),
            ("y ~ x | 0", True, False, 1, 0),
            ("y ~ g | 0 + g", True, False, 2, 3),
            ("y ~ 0 + g | g", False, True, 3, 2),
        ],
    )
    def test_intercepts_of_each_part(self, df, formula, x_intercept, z_intercept, p, q):
        spec, d = FormulaSpec.fit(formula, df)
        assert (spec.x_intercept, spec.z_intercept) == (x_intercept, z_intercept)
        assert d.X.shape == (N, p)
        assert d.Z.shape == (N, q)
        assert not np.any(np.all(np.column_stack([d.X, d.Z]) == 1.0, axis=0))

    def test_gate_by_keyword_is_the_bar(self, df):
        bar, a = FormulaSpec.fit("y ~ x | z + g", df)
        keyword, b = FormulaSpec.fit("y ~ x", df, gate="~ z + g")
        same(a, b)
        assert bar.gate == "~ 1 + z + g"
        assert keyword.gate == "~ z + g"
        same(b, FormulaSpec.fit("y ~ x", df, gate="z + g")[1])
        assert FormulaSpec.fit("y ~ x", df)[0].gate == "~ 1"

    def test_dot_leaves_out_response_and_extras(self, df):
        spec, _ = FormulaSpec.fit("I(np.abs(y - 1).clip(0)) ~ . | .", df, weights="w", groups="h")
        assert spec.x_names == spec.z_names == ("x", "z", "t", "u", "g[T.b]", "g[T.c]")
        spec, _ = FormulaSpec.fit("y ~ x", df, gate="~ .", offset="w")
        assert spec.z_names == ("x", "z", "t", "u", "g[T.b]", "g[T.c]", "h")
        assert spec.variables == {"x", "z", "t", "u", "g", "h", "w"}

    def test_dot_is_fixed_at_the_fit(self, df):
        spec, _ = FormulaSpec.fit("y ~ .", df[["y", "x", "z"]])
        assert reload(spec).transform(df).x_names == ("x", "z")

    def test_two_response_columns(self, df):
        spec, d = FormulaSpec.fit("h + w ~ x", df)
        assert_array_equal(d.y, df[["h", "w"]])
        assert d.y_name == spec.y_name == "h + w"

    def test_odd_column_names(self, df):
        df = df.rename(columns={"x": "a b", "t": "1st", "u": "a.b", "z": "scale"})
        spec, d = FormulaSpec.fit("y ~ `a b` + np.log(`1st`) + a.b + scale | scale(`a b`)", df)
        assert spec.variables == {"a b", "1st", "a.b", "scale"}
        assert_allclose(d.X[:, 1], np.log(df["1st"]))
        assert_array_equal(d.X[:, 2], df["a.b"])
        assert spec.gate == "~ 1 + scale(`a b`)"
        assert FormulaSpec.fit("y ~ Q('a b')", df)[0].variables == {"a b"}
        with pytest.raises(DesignError, match="calls 'scale', a column"):
            FormulaSpec.fit("y ~ scale + scale(`a b`)", df)

    def test_column_called_as_the_intercept(self, df):
        df["Intercept"] = df.x
        spec, d = FormulaSpec.fit("y ~ Intercept + z", df)
        assert spec.x_names == ("Intercept", "z")
        assert_array_equal(d.X[:, 0], df.x)

    def test_index_and_column_order_do_not_matter(self, df):
        spec, d = FormulaSpec.fit("y ~ x*g + poly(t, 2) | C(h)", df)
        odd = df.iloc[:, ::-1].set_axis(np.zeros(N), axis=0)
        same(d, FormulaSpec.fit("y ~ x*g + poly(t, 2) | C(h)", odd)[1])
        same(d, spec.transform(odd.assign(more=1)))

    def test_mapping_of_columns(self, df):
        by_dict = {name: df[name].to_numpy() for name in df}
        same(FormulaSpec.fit("y ~ x + g", by_dict)[1], FormulaSpec.fit("y ~ x + g", df)[1])
        shuffled = {"y": df.y[::-1], "x": df.x}  # rows go by position, not by index
        assert_array_equal(FormulaSpec.fit("y ~ x", shuffled)[1].y, df.y[::-1])

    def test_env(self, df):
        env = {"f": lambda v, k: v + k, "shift": 3.0}
        spec, d = FormulaSpec.fit("y ~ f(x, shift)", df, env=env)
        assert_array_equal(d.X[:, 0], df.x + 3.0)
        assert spec.variables == {"x"}
        same(d, reload(spec, env).transform(df))
        with pytest.raises(DesignError, match=r"'shift', which is neither a column nor in env"):
            reload(spec)

    def test_callers_variables_are_not_seen(self, df):
        secret = df.x  # noqa: F841
        with pytest.raises(DesignError, match="'secret', which is not a column"):
            FormulaSpec.fit("y ~ secret", df)


class TestTypes:
    def test_numbers_in_other_dtypes(self, df):
        plain = FormulaSpec.fit("y ~ x + C(h) + I(h**9)", df)[1]
        other = df.assign(x=df.x.astype(object), h=df.h.astype("Int8"), y=df.y.astype("Float64"))
        same(plain, FormulaSpec.fit("y ~ x + C(h) + I(h**9)", other)[1])
        small = df.assign(h=df.h.astype(np.int8))
        assert_array_equal(FormulaSpec.fit("y ~ I(h**9)", small)[1].X[:, 0], df.h**9.0)

    def test_bool_is_a_number(self, df):
        spec, d = FormulaSpec.fit("y ~ b", df.assign(b=df.x > 5))
        assert spec.x_names == ("b",)
        assert_array_equal(d.X[:, 0], df.x > 5)

    @pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
    def test_text_dtypes(self, df, dtype):
        _, d = FormulaSpec.fit("y ~ g", df.assign(g=df.g.astype(dtype)))
        assert_array_equal(d.X, np.column_stack([df.g == "b", df.g == "c"]))

    def test_order_of_categories_is_kept_and_empty_ones_leave(self, df):
        ordered = pd.Categorical(df.g, categories=["c", "never", "a", "b"], ordered=True)
        spec, _ = FormulaSpec.fit("y ~ g", df.assign(g=ordered))
        assert spec.x_names == ("g[T.a]", "g[T.b]")
        with pytest.raises(UnseenLevelError, match="never"):
            spec.transform(df.assign(g="never"))

    def test_many_levels(self, df):
        as_text = df.assign(x=df.x.astype(str))
        with pytest.raises(DesignError, match=r"'x' holds text with 60 distinct.*to_numeric.*C\(x"):
            FormulaSpec.fit("y ~ x", as_text)
        assert FormulaSpec.fit("y ~ C(x)", as_text)[1].X.shape == (N, N - 1)
        with pytest.raises(DesignError, match="'x' holds text"):
            FormulaSpec.fit("y ~ 1 | x", as_text)
        few = as_text.head(20)
        assert FormulaSpec.fit("y ~ x", few)[1].X.shape == (20, 19)

    def test_dates_are_refused_but_may_be_computed_with(self, df):
        df["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(df.h, unit="D")
        with pytest.raises(DesignError, match=r"'day' of type datetime64.*convert"):
            FormulaSpec.fit("y ~ day", df)
        assert_array_equal(FormulaSpec.fit("y ~ I(day.dt.day)", df)[1].X[:, 0], df.h + 1)

    def test_levels_that_cannot_be_saved(self, df):
        with pytest.raises(DesignError, match=r"type Interval.*astype\(str\)"):
            FormulaSpec.fit("y ~ k", df.assign(k=pd.cut(df.x, 3)))

    def test_kind_change_at_prediction(self, df):
        spec, _ = FormulaSpec.fit("y ~ x", df)
        with pytest.raises(DesignError, match="'x' held numbers"):
            spec.transform(df.assign(x="1.5"))
        assert_array_equal(spec.transform(df.assign(x=2.0).astype({"x": object})).X, 2.0)


FORMULAS = [
    "y ~ poly(x, 3) | poly(z, 2)",
    "y ~ bs(t, df=5) + cr(u, df=4) + cc(x, df=3)",
    "y ~ cr(u, df=4, constraints='center')",
    "y ~ scale(x) + center(z) + standardize(t)",
    "y ~ C(g) + C(h) | g:h",
    "y ~ C(g, contr.sum) + C(h, contr.helmert) | C(g, contr.poly)",
    "y ~ C(h, levels=[3, 2, 1, 0])",
    "y ~ g*poly(x, 2) + C(h):scale(z) - 1",
    "y ~ 0 + g + h | 0 + z",
    "scale(y) ~ hashed(g, levels=5)",
    "y ~ I(x**2) + np.exp(t) + {z + 1} + (x + z)**2",
    "y ~ x | 0",
    "y + w ~ 1",
]


class TestMemory:
    @pytest.mark.parametrize("formula", FORMULAS)
    def test_rows_come_out_the_same_after_a_round_trip(self, df, formula):
        spec, d = FormulaSpec.fit(formula, df)
        back = reload(spec)
        assert back == spec
        assert back.variables == spec.variables
        for few in ([5], [59, 3, 3], range(N)):
            e = back.transform(df.iloc[list(few)], response=True)
            assert e.x_names == d.x_names
            assert e.z_names == d.z_names
            for got, want in ((e.X, d.X), (e.Z, d.Z), (e.y, d.y)):
                assert_allclose(got, want[list(few)], rtol=1e-12, atol=1e-14)
        assert back.transform(df.drop(columns="y")).y is None

    @pytest.mark.parametrize("formula", FORMULAS)
    def test_transform_leaves_the_spec_alone(self, df, formula):
        spec, _ = FormulaSpec.fit(formula, df)
        before = json.dumps(spec.to_state())
        spec.transform(df.head(4))
        assert json.dumps(spec.to_state()) == before

    def test_pickle(self, df):
        spec, d = FormulaSpec.fit("y ~ bs(t, df=4) + g", df)
        same(d, pickle.loads(pickle.dumps(spec)).transform(df))

    def test_state_is_plain(self, df):
        def walk(value):
            if isinstance(value, dict):
                assert all(isinstance(key, str) for key in value)
                value = list(value.values())
            if isinstance(value, list | tuple):
                for item in value:
                    walk(item)
            else:
                assert value is None or type(value) in (str, int, float, bool)

        walk(
            FormulaSpec.fit("y ~ poly(x, 2) + C(h) + cr(u, df=4, constraints='center')", df)[
                0
            ].to_state()
        )

    def test_memory_is_of_the_training_rows(self, df):
        spec, _ = FormulaSpec.fit("y ~ scale(x)", df)
        new = pd.DataFrame({"x": [0.0, 100.0]})
        expected = (new.x - df.x.mean()) / df.x.std()
        assert_allclose(reload(spec).transform(new).X[:, 0], expected)

    def test_spline_refuses_to_extrapolate_unless_told(self, df):
        spec, _ = FormulaSpec.fit("y ~ bs(t, df=4)", df)
        with pytest.raises(DesignError, match=r"bs\(t, df=4\).*extrapolation"):
            spec.transform(df.assign(t=2.0))
        spec, _ = FormulaSpec.fit("y ~ bs(t, df=4, extrapolation='clip')", df)
        assert_allclose(reload(spec).transform(df.assign(t=2.0)).X[:, -1], 1.0)

    def test_newer_schema_is_refused(self, df):
        state = {**FormulaSpec.fit("y ~ x", df)[0].to_state(), "schema": 99}
        with pytest.raises(ValueError, match="99"):
            FormulaSpec.from_state(state)

    @pytest.mark.parametrize(
        "evil", ["__import__('os').getcwd()", "open('f')", "x.__class__", "I(eval('1'))"]
    )
    def test_state_of_a_stranger(self, df, evil):
        state = FormulaSpec.fit("y ~ x", df)[0].to_state()
        state["parts"][1]["terms"] = [[[evil, "python"]]]
        with pytest.raises(DesignError):
            FormulaSpec.from_state(state)

    @given(seed=st.integers(0, 10**6), few=st.lists(st.integers(0, N - 1), min_size=1, max_size=9))
    @settings(max_examples=25, deadline=None)
    def test_each_row_for_itself(self, seed, few):
        df = make(seed=seed)
        spec, d = FormulaSpec.fit("y ~ g*poly(x, 2) + bs(t, df=4) | scale(z) + C(h)", df)
        e = reload(spec).transform(df.iloc[few])
        assert_allclose(e.X, d.X[few], rtol=1e-10, atol=1e-12)
        assert_allclose(e.Z, d.Z[few], rtol=1e-10, atol=1e-12)


class TestLevels:
    @pytest.mark.parametrize("formula", ["y ~ g", "y ~ C(g)", "y ~ x:g", "y ~ 1 | g", "y ~ 0 + g"])
    @pytest.mark.parametrize("back", [False, True])
    def test_unseen(self, df, formula, back):
        spec, _ = FormulaSpec.fit(formula, df)
        spec = reload(spec) if back else spec
        with pytest.raises(
            UnseenLevelError, match=r"column 'g' .*: 'd', 'e'; known levels: 'a', 'b', 'c'"
        ):
            spec.transform(pd.DataFrame({"x": 1.0, "g": ["a", "d", "e"]}))

    def test_unseen_number(self, df):
        spec, _ = FormulaSpec.fit("y ~ C(h)", df)
        with pytest.raises(UnseenLevelError, match=r"'h' .*: 7; known levels: 1, 2, 3"):
            spec.transform({"h": [1, 7]})
        assert_array_equal(spec.transform({"h": [1.0, 2.0, 3.0]}).X, np.eye(3)[:, 1:])

    def test_unseen_in_the_first_data(self, df):
        with pytest.raises(UnseenLevelError, match=r"'h' .*: 3; known levels: 1, 2"):
            FormulaSpec.fit("y ~ C(h, levels=[1, 2])", df)

    def test_said_before_anything_is_coded(self, df, monkeypatch):
        spec, _ = FormulaSpec.fit("y ~ g", df)
        monkeypatch.setattr(PandasMaterializer, "_encode_evaled_factor", None)
        with pytest.raises(UnseenLevelError, match="'d'"):
            spec.transform({"g": ["d"]})

    def test_absent_levels_are_fine(self, df):
        spec, _ = FormulaSpec.fit("y ~ g + x:C(h)", df)
        d = reload(spec).transform({"g": ["c"], "h": [2], "x": [4.0]})
        assert_array_equal(d.X, [[0, 1, 0, 4, 0]])

    def test_unseen_level_in_a_row_left_out_does_not_count(self, df):
        spec, _ = FormulaSpec.fit("y ~ x + g", df)
        d = spec.transform({"x": [np.nan, 1.0], "g": ["new", "b"]}, missing="drop")
        assert_array_equal(d.X, [[1, 1, 0]])


class TestMissing:
    @given(
        holes=st.lists(
            st.tuples(st.integers(0, N - 1), st.sampled_from(["y", "x", "z", "g", "w", "t"])),
            max_size=15,
        )
    )
    @settings(max_examples=25, deadline=None)
    def test_drop_is_fitting_the_complete_rows(self, holes):
        df = make()
        for row, column in holes:
            df.loc[row, column] = None if column == "g" else np.nan
        _, d = FormulaSpec.fit("y ~ scale(x) + g | poly(z, 2)", df, weights="w")
        whole = df[["y", "x", "z", "g", "w"]].notna().all(axis=1)  # t is not used
        _, e = FormulaSpec.fit("y ~ scale(x) + g | poly(z, 2)", df[whole], weights="w")
        same(d, e)
        assert_array_equal(d.rows, np.flatnonzero(whole))
        assert d.n_dropped == N - whole.sum()
        assert_array_equal(d.y, df.y[whole])
        assert_array_equal(d.extra["weights"], df.w[whole])

    @pytest.mark.parametrize("name", ["weights", "offset", "groups"])
    @pytest.mark.parametrize("by_name", [True, False])
    def test_extras_take_part(self, df, name, by_name):
        df.loc[4, "w"] = np.nan
        _, d = FormulaSpec.fit("y ~ x", df, **{name: "w" if by_name else df.w.to_numpy()})
        assert 4 not in d.rows
        assert d.n_dropped == 1
        assert_array_equal(d.extra[name], df.w.drop(4))

    def test_raise(self, df):
        df.loc[[1, 2], "x"] = np.nan
        df.loc[2, "g"] = None
        with pytest.raises(DesignError, match=r"2 of 60 rows .*'x': 2.*'g': 1.*weights: 1"):
            FormulaSpec.fit(
                "y ~ x | g", df, missing="raise", weights=[1.0, np.nan] + [1.0] * (N - 2)
            )
        spec, _ = FormulaSpec.fit("y ~ x | g", df.dropna(), missing="raise")
        with pytest.raises(DesignError, match="'x': 2"):
            spec.transform(df, missing="raise")

    def test_none_gives_nan_rows_in_the_part_concerned(self, df):
        spec, full = FormulaSpec.fit("y ~ x + g | z + C(h) + I(z > 0)", df)
        holed = df.astype({"h": float})
        holed.loc[3, "g"] = None
        holed.loc[4, "h"] = np.nan
        holed.loc[5, "z"] = np.nan
        d = spec.transform(holed, missing="none")
        assert_array_equal(np.flatnonzero(np.isnan(d.X).any(axis=1)), [3])
        assert_array_equal(np.flatnonzero(np.isnan(d.Z).all(axis=1)), [4, 5])
        fine = np.delete(np.arange(N), [3, 4, 5])
        assert_array_equal(d.X[fine], full.X[fine])
        assert_array_equal(d.Z[fine], full.Z[fine])
        assert d.n_dropped == 0
        nothing = spec.transform(df.assign(x=np.nan))
        assert np.isnan(nothing.X).all()
        assert not np.isnan(nothing.Z).any()

    def test_none_at_the_fit(self, df):
        holed = df.assign(y=df.y.where(df.index > 2))
        _, d = FormulaSpec.fit("y ~ x", holed, missing="none")
        assert np.isnan(d.y[:3]).all()
        assert len(d.X) == N
        with pytest.raises(DesignError, match="no row without missing"):
            FormulaSpec.fit("y ~ x", df.assign(x=np.nan), missing="none")

    def test_all_rows_missing(self, df):
        with pytest.raises(DesignError, match=r"no complete row of 60.*'x': 60"):
            FormulaSpec.fit("y ~ x", df.assign(x=np.nan))

    def test_unknown_rule(self, df):
        with pytest.raises(ValueError, match="'drop', 'raise' or 'none', not 'keep'"):
            FormulaSpec.fit("y ~ x", df, missing="keep")

    @pytest.mark.parametrize("missing", ["drop", "raise", "none"])
    def test_infinite(self, df, missing):
        df.loc[7, "x"] = np.inf
        with pytest.raises(DesignError, match=r"'x' holds infinite.*1 of 60.*row 7"):
            FormulaSpec.fit("y ~ x", df, missing=missing)
        with pytest.raises(DesignError, match="offset holds infinite"):
            FormulaSpec.fit("y ~ z", df, missing=missing, offset="x")
        FormulaSpec.fit("y ~ z", df, missing=missing)

    def test_row_numbers_count_dropped_rows(self, df):
        df.loc[2, "x"] = np.nan
        df.loc[7, "x"] = -1.0
        with pytest.raises(DesignError, match=r"'np.log\(x - 0.0\)' .* 1 of 59 rows .*row 7"):
            FormulaSpec.fit("y ~ np.log(x - 0.0)", df.assign(x=df.x.abs().where(df.x != -1, -1)))


class TestExtras:
    def test_offset_is_read_again(self, df):
        spec, d = FormulaSpec.fit("y ~ x", df, offset="w")
        assert (spec.offset, spec.needs_offset) == ("w", True)
        assert_array_equal(reload(spec).transform(df).extra["offset"], d.extra["offset"])
        assert_array_equal(spec.transform(df, offset=np.zeros(N)).extra["offset"], 0)
        with pytest.raises(DesignError, match=r"lacks the columns 'w' that offset= needs"):
            spec.transform(df[["x"]])

    def test_offset_of_an_array_must_be_given_again(self, df):
        spec, _ = FormulaSpec.fit("y ~ x", df, offset=df.w.tolist())
        with pytest.raises(DesignError, match="give offset="):
            reload(spec).transform(df)
        assert_array_equal(spec.transform(df, offset="w").extra["offset"], df.w)

    def test_weights_and_groups_only_where_given(self, df):
        spec, d = FormulaSpec.fit("y ~ x", df, weights="w", groups="g")
        assert d.extra["groups"].tolist() == df.g.tolist()
        assert spec.transform(df[["x"]]).extra == {}
        assert set(spec.transform(df, weights="w").extra) == {"weights"}

    @pytest.mark.parametrize("name", ["weights", "offset", "groups"])
    def test_errors_name_the_argument(self, df, name):
        with pytest.raises(ValueError, match=rf"{name} has shape \(3,\), but data has 60 rows"):
            FormulaSpec.fit("y ~ x", df, **{name: [1, 2, 3]})
        with pytest.raises(ValueError, match=rf"'ww' that {name}= needs \(did you mean 'w'"):
            FormulaSpec.fit("y ~ x", df, **{name: "ww"})

    def test_text_weights(self, df):
        with pytest.raises(ValueError, match=r"weights holds .* give numbers"):
            FormulaSpec.fit("y ~ x", df, weights="g")


BAD = [
    ("y ~ xx", "experts' part uses 'xx', which is not a column .*did you mean 'x'.*columns: 'y'"),
    ("y ~ x | zz", "gate's part uses 'zz'"),
    ("yy ~ x", "response uses 'yy'.*did you mean 'y'"),
    ("y ~ X", "did you mean 'x'"),
    ("y ~ True", "'True', which is not a column"),
    ("y ~ log", "'log', which is not a column"),
    ("y ~ pollly(x, 2)", "unknown function 'pollly' .*did you mean 'poly'"),
    ("y ~ np.nope(x)", r"cannot be evaluated.*np\.nope"),
    ("y ~ open('f')", "unknown function 'open'"),
    ("y ~ I(x._values)", "private attribute '_values'"),
    ("y ~ x +", "cannot be read"),
    ("y ~ (x", "cannot be read"),
    ("y ~ f(x z)", "cannot be read: invalid syntax"),
    ("y ~ x == 1", r"cannot be read.*I\("),
    ("y ~ x + 5", "cannot be read: Numeric literals"),
    ("y ~ x ~ z", "cannot be read"),
    ("y ~ x | y ~ z", "cannot be read"),
    ("", "empty part"),
    ("x + z", "no response; write 'y ~ x'"),
    ("~ x", "no response"),
    ("~ x | z", "no response"),
    ("y ~ ", "empty part"),
    ("y ~ x |", "empty part"),
    ("y ~ | z", "empty part"),
    ("y | w ~ x", "write two columns as 's \\+ f'"),
    ("y ~ x | z | w", "has 3 parts .*'y ~ experts | gate'"),
    ("y ~ x | z | w | t", "has 4 parts"),
    ("y ~ 0", "no terms and no intercept"),
    ("y ~ 0 | z", "no terms and no intercept"),
    ("g ~ x", "response 'g' holds .* labels"),
    ("C(h) ~ x", "expected one column of numbers"),
    ("poly(y, 3) ~ w", "expected one column of numbers, or several"),
    ("1 ~ x", "expected one column of numbers"),
    (". ~ x", "expected one column of numbers"),
    ("y ~ np.log(z)", r"'np.log\(z\)' holds infinite or undefined values in \d+ of 60 rows"),
    ("y ~ I(1 / (x - x))", "holds infinite or undefined"),
    ("y ~ I(x - x.mean())", "hangs on the other rows.*center"),
    ("y ~ x.rank()", "hangs on the other rows"),
    ("y ~ np.cumsum(x[::-1])", "hangs on the other rows"),
    ("y ~ C(x > x.median())", "other rows|rows alone"),
    ("y ~ lag(x)", r"'lag\(x\)' holds infinite or undefined values in 1 of"),
    ("y ~ I(3)", "cannot be evaluated"),
    ("y ~ np.log(g)", r"cannot be evaluated.*np.log\(g\)"),
]


class TestRefusals:
    @pytest.mark.parametrize(("formula", "words"), BAD, ids=[b[0] for b in BAD])
    def test_formula(self, df, formula, words):
        with pytest.raises(DesignError, match=words) as caught:
            FormulaSpec.fit(formula, df)
        text = str(caught.value)
        assert "\n" not in text
        assert "\x1b" not in text
        assert len(text) < 400

    @pytest.mark.parametrize(
        ("gate", "words"),
        [
            ("y ~ z", "one side"),
            ("~ z | x", "one side and one part"),
            ("", "empty part"),
            ("~", "empty part"),
            ("~ qq", "gate's part uses 'qq'"),
        ],
    )
    def test_gate(self, df, gate, words):
        with pytest.raises(DesignError, match=words):
            FormulaSpec.fit("y ~ x", df, gate=gate)

    def test_gate_twice(self, df):
        with pytest.raises(DesignError, match="given twice"):
            FormulaSpec.fit("y ~ x | z", df, gate="~ z")

    def test_formula_must_be_text(self, df):
        with pytest.raises(TypeError, match="formula must be text"):
            FormulaSpec.fit(3, df)
        with pytest.raises(TypeError, match="gate must be text"):
            FormulaSpec.fit("y ~ x", df, gate=["z"])

    def test_data(self, df):
        with pytest.raises(ValueError, match="data has no rows"):
            FormulaSpec.fit("y ~ x", df.head(0))
        for odd in (df.to_numpy(), df.x, None, "table.csv"):
            with pytest.raises(TypeError, match="data must be a pandas DataFrame"):
                FormulaSpec.fit("y ~ x", odd)
        with pytest.raises(ValueError, match="data does not make a table"):
            FormulaSpec.fit("y ~ x", {"y": [1, 2], "x": [1, 2, 3]})
        with pytest.raises(DesignError, match="more than one column named 'x'"):
            FormulaSpec.fit("y ~ x", pd.concat([df, df[["x"]]], axis=1))

    def test_many_columns_are_listed_shortly(self, df):
        wide = pd.concat([df, pd.DataFrame(0.0, df.index, [f"v{i}" for i in range(500)])], axis=1)
        with pytest.raises(DesignError, match=r"columns: .*\.\.\. \(496 more\)"):
            FormulaSpec.fit("y ~ nothing_like_it", wide)

    def test_dot_and_columns_without_text_names(self, df):
        array = pd.DataFrame(np.ones((5, 2))).assign(y=1.0, x=[1.0, 2, 3, 4, 5])
        with pytest.raises(DesignError, match=r"'\.' cannot stand for .*: 0, 1"):
            FormulaSpec.fit("y ~ .", array)
        assert FormulaSpec.fit("y ~ x", array)[1].X.shape == (5, 1)

    def test_prediction_lacks_columns(self, df):
        spec, _ = FormulaSpec.fit("y ~ x + np.log(t) | z", df)
        with pytest.raises(DesignError, match=r"lacks the columns 't', 'z' that the model needs"):
            spec.transform(df[["x", "g"]])
        with pytest.raises(DesignError, match="lacks the columns 'y'"):
            spec.transform(df.drop(columns="y"), response=True)
        with pytest.raises(ValueError, match="data has no rows"):
            spec.transform(df.head(0))

    @given(st.text(alphabet="yxzg~|+-*:.01()^/ ", max_size=14))
    @settings(max_examples=300, deadline=None)
    def test_any_text_either_works_or_says_why(self, text):
        df = make(30)
        try:
            spec, d = FormulaSpec.fit("y ~ " + text, df)
        except DesignError as error:
            assert re.search(r"\w", str(error))  # noqa: PT017
        else:
            assert d.X.shape == (30, len(spec.x_names))
            assert_array_equal(reload(spec).transform(df).X, d.X)


class TestFormulaicMoved:
    """What `mixexperts.formula` leans on in formulaic; each fails loudly where it moved."""

    def test_version_was_read(self):
        major, minor = (int(part) for part in formulaic.__version__.split(".")[:2])
        assert (1, 1) <= (major, minor) <= (1, 2), (
            "formulaic moved: read its changes to ModelSpec, the materializer and the '.' "
            "operator, run this file, then widen these bounds"
        )

    def test_unseen_level_is_a_silent_row_of_zeros(self):
        old = pd.DataFrame({"g": ["a", "b"]}, dtype=object)
        matrix = Formula("g").get_model_matrix(old, output="numpy")
        with warnings.catch_warnings(record=True) as caught:  # pandas may warn as well
            warnings.simplefilter("always")
            new = matrix.model_spec.get_model_matrix(pd.DataFrame({"g": ["zzz"]}, dtype=object))
        assert any(issubclass(w.category, DataMismatchWarning) for w in caught)
        assert np.asarray(new).tolist() == [[1.0, 0.0]]

    def test_hook_is_called_and_not_registered(self):
        assert callable(PandasMaterializer._encode_evaled_factor)
        assert FormulaMaterializer.for_data(pd.DataFrame()) is PandasMaterializer
        assert FormulaMaterializer.for_materializer("pandas") is PandasMaterializer

    def test_memory_is_all_in_two_dicts_and_levels_in_categories(self):
        frame = pd.DataFrame({"x": [1.0, 2.0, 4.0], "g": ["a", "b", "a"]}).astype({"g": object})
        spec = Formula("scale(x) + g").get_model_matrix(frame).model_spec
        assert set(spec.transform_state) == {"scale(x)"}
        kind, state = spec.encoder_state["g"]
        assert kind is Factor.Kind.CATEGORICAL
        assert state["categories"] == ["a", "b"]
        assert set(state) == {"categories", "contrasts"}
        again = ModelSpec(
            formula=spec.formula,
            transform_state=spec.transform_state,
            encoder_state={"g": (kind, {"categories": ["a", "b"]})},
        ).get_model_matrix(frame.tail(1))
        assert_allclose(np.asarray(again), [[1.0, (4 - 7 / 3) / frame.x.std(), 0.0]])

    def test_structure_and_parse_tree(self):
        parsed = Formula("y ~ x | .", _context={"__formulaic_variables_available__": ["y", "q"]})
        right = parsed._to_dict(False)["rhs"]
        assert [[f.expr for t in part for f in t.factors] for part in right] == [
            ["1", "x"],
            ["1", "q"],
        ]
        assert right[0][0].factors[0].eval_method is Factor.EvalMethod.LITERAL

    def test_no_other_file_imports_formulaic(self):
        root = Path(module.__file__).parent
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "formulaic" for name in names):
                    assert path.name == "formula.py"
