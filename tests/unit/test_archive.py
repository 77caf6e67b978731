"""Saved models: complete, small, without pickle, and readable for ever."""

import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts._archive import SCHEMA, saveable, write_archive
from mixexperts.errors import ArchiveError
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax
from mixexperts.penalties import Ridge

SAVED = Path(__file__).parent / "saved"


@pytest.fixture
def frame():
    rng = np.random.default_rng(20260901)
    frame = pd.DataFrame(rng.standard_normal((80, 2)), columns=["age", "income"])
    side = rng.random(80) < 0.5
    frame["y"] = np.where(side, 3.0 + frame["age"], -frame["income"]) + 0.3 * rng.standard_normal(
        80
    )
    return frame


SETTINGS = {
    "default": {},
    "constant gate": {"gate": "constant"},
    "all arguments": {
        "gate": Softmax(fit_intercept=False),
        "expert": Gaussian(degree=2, shared_scale=True),
        "gate_features": ["age"],
        "expert_features": [1],
        "init": ["kmeans", "random"],
        "gate_penalty": Ridge(0.01),
        "expert_penalty": Ridge(0.02),
        "chunk_rows": 13,
    },
    "start in arrays": {"init": np.arange(80) % 2},
    "a generator": {"random_state": np.random.RandomState(3)},
    "start from a model": {"init": "model"},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_saved_model_is_the_model(options, frame, tmp_path):
    X, y = frame[["age", "income"]], frame["y"]
    settings = {"n_init": 2, "random_state": 0, **options}
    if isinstance(settings.get("init"), str) and settings["init"] == "model":
        settings["init"] = mx.MoERegressor(1, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        est = mx.MoERegressor(**settings).fit(X, y)
    est.save(tmp_path / "model.mxp")
    again = mx.load(tmp_path / "model.mxp")
    assert type(again) is mx.MoERegressor
    assert vars(again).keys() == vars(est).keys()
    if "random_state" not in options:  # printed with its address
        assert repr(again) == repr(est)
    for name, value in vars(est).items():
        if not name.endswith("_"):
            continue
        other = getattr(again, name)
        if isinstance(value, np.ndarray):
            assert (other == value).all(), name
        elif isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(other, value)
        elif isinstance(value, int | float | str | bool | tuple):
            assert type(other) is type(value) or isinstance(value, np.generic)
            assert other == value, name
    assert (again.predict(X) == est.predict(X)).all()
    assert (again.score_samples(X, y) == est.score_samples(X, y)).all()
    assert again.predictive(X).ppf(0.9).tolist() == est.predictive(X).ppf(0.9).tolist()
    # and it can be fitted again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mx.errors.SeparationWarning)
        again.fit(X, y)


def test_results_of_a_formula_are_saved_without_their_data(frame, tmp_path):
    frame["town"] = np.array(["a", "b"])[np.arange(80) % 2]
    res = mx.moe("y ~ age + C(town) | income", data=frame, n_init=2)
    res.save(tmp_path / "res.mxp")
    again = mx.load(tmp_path / "res.mxp")
    assert again.data is None
    pd.testing.assert_series_equal(again.params, res.params)
    assert (again.llf, again.bic, again.nobs, again.df_model) == (
        res.llf, res.bic, res.nobs, res.df_model,
    )  # fmt: skip
    new = frame.iloc[::-1].head(7)
    pd.testing.assert_series_equal(again.predict(new), res.predict(new))
    assert str(again.summary()) == str(res.summary())
    with pytest.raises(ValueError, match="data is missing"):
        again.predict()


def test_file_holds_arrays_and_a_header_and_no_pickle(frame, tmp_path):
    est = mx.MoERegressor(n_init=2, random_state=0).fit(frame[["age", "income"]], frame["y"])
    est.save(tmp_path / "model.mxp")
    with zipfile.ZipFile(tmp_path / "model.mxp") as archive:
        header = json.loads(archive.read("header.json"))
        assert {name.rsplit(".")[-1] for name in archive.namelist()} == {"json", "npy"}
    assert header["format"] == "mixexperts"
    assert header["schema"] == SCHEMA
    assert header["kind"] == "MoERegressor"
    assert (tmp_path / "model.mxp").stat().st_size < 40_000
    assert [p.name for p in tmp_path.iterdir()] == ["model.mxp"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_saved_file_has_the_permissions_of_any_new_file(frame, tmp_path):
    (tmp_path / "plain.txt").write_text("as the umask has it")
    est = mx.MoERegressor(n_init=1, random_state=0).fit(frame[["age", "income"]], frame["y"])
    est.save(tmp_path / "model.mxp")
    modes = [(tmp_path / name).stat().st_mode for name in ("plain.txt", "model.mxp")]
    assert modes[0] == modes[1]


def test_size_does_not_depend_on_the_data(tmp_path):
    sizes = []
    for n in (100, 4000):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n, 1))
        y = np.where(rng.random(n) < 0.5, 5.0, 0.0) + rng.standard_normal(n)
        est = mx.MoERegressor(2, n_init=1, max_iter=50, tol=1e-3, random_state=0).fit(x, y)
        est.save(tmp_path / "model.mxp")
        sizes.append((tmp_path / "model.mxp").stat().st_size)
    assert sizes[1] < 1.2 * sizes[0]


def test_an_object_of_ones_own_can_be_saved_and_asks_for_its_class(tmp_path):
    @saveable("test:point")
    class Point:
        def __init__(self, x):
            self.x = x

        def to_state(self):
            return {"x": self.x}

        @classmethod
        def from_state(cls, state):
            return cls(state["x"])

    write_archive(tmp_path / "p.mxp", "test", [Point(np.arange(3))])
    (point,) = mx.load(tmp_path / "p.mxp")
    assert isinstance(point, Point)
    assert point.x.tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", bytes(1000)])
def test_junk_is_refused(content, tmp_path):
    path = tmp_path / "model.mxp"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"model\.mxp is not a complete mixexperts file"):
        mx.load(path)
    with pytest.raises(ArchiveError):
        mx.load(tmp_path)  # a folder


# --- files of old -------------------------------------------------------------------------------

# Written by version 0.1.0, schema 1; never written again. Values as they were then.
OLD = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(OLD))
def test_old_files_stay_readable(name):
    expected = OLD[name]
    model = mx.load(SAVED / name)
    est = getattr(model, "estimator", model)
    new = pd.DataFrame(expected["new"])
    for attribute in ("coef", "intercept", "scale", "gate_coef", "gate_intercept"):
        assert_allclose(
            getattr(est, f"{attribute}_"), np.array(expected[attribute]), rtol=1e-12, atol=1e-12
        )
    assert_allclose(model.predict(new), expected["predict"], rtol=1e-10)
    assert_allclose(model.gate_proba(new), expected["gate_proba"], rtol=1e-10)
    assert_allclose(model.predictive(new).ppf(0.9), expected["ppf"], rtol=1e-8)
    assert est.log_likelihood_ == pytest.approx(expected["log_likelihood"], rel=1e-12)
    assert est.status_ == expected["status"]
    assert len(est.restarts_) == expected["n_starts"]
