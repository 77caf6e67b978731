"""Sources: what they give, how blocks become chunks, and what is refused with which words."""

import itertools
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mixexperts as mx
from mixexperts.sources import ArraySource, IteratorSource, ParquetSource
from mixexperts.sources.chunks import Chunks

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def data():
    rng = np.random.default_rng(20261101)
    X = rng.standard_normal((300, 3))
    y = np.where(X[:, 0] > 0, 2.0 + X[:, 1], -1.0 - X[:, 2]) + 0.3 * rng.standard_normal(300)
    return X, y


@pytest.fixture
def frame(data):
    X, y = data
    return pd.DataFrame(X, columns=["a", "b", "c"]).assign(y=y, w=1.0 + (X[:, 0] > 1), o=0.5)


def all_rows(source, **options):
    """X, y, weight and offset of all chunks, one below the other."""
    chunks = list(Chunks(source, **options)())
    parts = zip(*chunks, strict=True)
    return [None if part[0] is None else np.concatenate(part) for part in parts]


def fit(X, *rest, **options):
    settings = {"n_init": 1, "random_state": 0, "max_iter": 20, "tol": 1e9}
    return mx.MoERegressor(2, **(settings | options)).fit(X, *rest)


# --- chunks ---------------------------------------------------------------------------------------


def test_chunks_do_not_depend_on_how_the_source_cuts(data):
    X, y = data
    weight = (np.arange(300) % 5).astype(float)

    def source(*cuts):
        edges = [0, *cuts, 300]
        pairs = list(itertools.pairwise(edges))
        return IteratorSource(lambda: ((X[i:j], y[i:j], weight[i:j]) for i, j in pairs))

    used = weight > 0
    for cuts in [(), (1, 2, 7, 7, 100), tuple(range(1, 300)), (64, 128)]:
        chunks = list(Chunks(source(*cuts), 64)())
        assert [len(chunk.y) for chunk in chunks] == [64, 64, 64, 48]
        for part, whole in zip(zip(*chunks, strict=True), (X, y, weight), strict=False):
            assert_array_equal(np.concatenate(part), whole[used])
        for chunk in chunks:
            assert chunk.X.flags.c_contiguous
            assert chunk.X.dtype == chunk.y.dtype == chunk.weight.dtype == np.float64


def test_float64_slices_are_not_copied(data):
    X, y = data
    chunks = list(Chunks(ArraySource(X, y), 100)())
    assert len(chunks) == 3
    assert all(np.shares_memory(chunk.X, X) for chunk in chunks)


def test_wide_rows_make_shorter_chunks():
    X = np.zeros((3000, 2000), dtype=np.int8)
    chunks = list(Chunks(ArraySource(X, np.zeros(3000)))())
    assert [len(chunk.y) for chunk in chunks] == [1024, 1024, 952]


def test_array_source_takes_frames_memory_maps_and_scalar_weights(data, frame, tmp_path):
    X, y = data
    given = ArraySource(frame[["a", "b", "c"]], frame["y"], 2.0, frame["o"])
    assert given.feature_names == ("a", "b", "c")
    for got, expected in zip(
        all_rows(given, chunk_rows=77), (X, y, np.full(300, 2.0), np.full(300, 0.5)), strict=True
    ):
        assert_array_equal(got, expected)
    mapped = np.memmap(tmp_path / "x.dat", dtype=np.float32, mode="w+", shape=X.shape)
    mapped[:] = X
    assert_array_equal(all_rows(ArraySource(mapped, y))[0], X.astype(np.float32))
    # Slices of a map are read by the thread that reads ahead.
    block = next(ArraySource(mapped, y).blocks(10))
    assert not np.shares_memory(block.X, mapped)


ARRAYS = {
    "y must have one entry per row": lambda X, y: ArraySource(X, y[:-1]),
    "X must have rows and columns": lambda X, y: ArraySource(y, y),
    "sample_weight must have shape": lambda X, y: ArraySource(X, y, np.ones(3)),
    "offset must have shape": lambda X, y: ArraySource(X, y, None, np.ones((300, 1))),
}


@pytest.mark.parametrize("message", ARRAYS)
def test_arrays_that_do_not_go_together_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ARRAYS[message](*data)


def test_a_list_is_no_array():
    with pytest.raises(TypeError, match="X must be an array"):
        ArraySource([[1.0]], np.ones(1))


# --- iterators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "list", "iterator"])
def test_what_is_no_factory_is_refused(data, kind):
    blocks = [data]
    given = {"generator": (b for b in blocks), "list": blocks, "iterator": iter(blocks)}[kind]
    with pytest.raises(TypeError, match="factory must be a function that gives a fresh iterator"):
        IteratorSource(given)


def test_an_exhausted_iterator_is_named_in_the_second_pass(data):
    once = iter([data])
    with pytest.raises(ValueError, match=r"gave 0 rows.* must make a fresh iterator"):
        fit(IteratorSource(lambda: once))


@pytest.mark.parametrize("later", [299, 301, 298])
def test_another_number_of_rows_in_a_later_pass_is_refused(data, later):
    X, y = data
    X, y = np.vstack([X, X]), np.concatenate([y, y])
    sizes = iter([300, 300, later])

    def blocks():
        n = next(sizes)
        yield X[:200], y[:200]
        yield X[200:n], y[200:n]

    with pytest.raises(ValueError, match=r"in this pass, but 300 in the first one"):
        fit(IteratorSource(blocks), tol=1e-8)


def test_another_number_of_used_rows_is_refused(data):
    X, y = data
    weights = iter([np.ones(300), np.ones(300), np.where(np.arange(300) == 7, 0.0, 1.0)])
    with pytest.raises(ValueError, match="300 rows, 299 of them of positive weight"):
        fit(IteratorSource(lambda: [(X, y, next(weights))]), tol=1e-8)


def test_frames_are_read_by_name(data, frame):
    X, y = data

    def blocks():
        yield frame[:100]
        yield frame[100:200][["w", "y", "c", "b", "a", "o"]]
        yield frame[200:].assign(more="text")[["more", *frame.columns]]

    source = IteratorSource(
        blocks, features=["a", "b", "c"], response="y", sample_weight="w", offset="o"
    )
    got = all_rows(source)
    for values, expected in zip(got, (X, y, frame["w"], frame["o"]), strict=True):
        assert_array_equal(values, expected)
    est = fit(source)
    assert est.feature_names_in_.tolist() == ["a", "b", "c"]
    assert est.has_offset_


def test_frames_without_named_features_use_all_other_columns(frame):
    source = IteratorSource(
        lambda: [frame[:150], frame[150:]], response="y", sample_weight="w", offset="o"
    )
    assert fit(source).feature_names_in_.tolist() == ["a", "b", "c"]


def test_features_may_be_frames_too(data, frame):
    _, y = data
    features = frame[["a", "b", "c"]]
    source = IteratorSource(lambda: [(features[:100], y[:100]), (features[100:], y[100:])])
    est = fit(source)
    assert est.feature_names_in_.tolist() == ["a", "b", "c"]
    # Moments that are merged differ from those of all rows by rounding.
    assert_allclose(est.predict(features), fit(features, y).predict(features), rtol=1e-11)


def blocks_of(*blocks):
    return IteratorSource(lambda: list(blocks))


X2, Y2 = np.arange(8.0).reshape(4, 2), np.array([1.0, 3.0, 2.0, 5.0])
BAD_BLOCKS = {
    "source is empty": (),
    "block 1 of the source has 1 columns of features, block 0 has 2": (
        (X2, Y2), (X2[:, :1], Y2),
    ),
    "y in block 0 of the source has 3 rows but X has 4": ((X2, Y2[:3]),),
    "weight in block 0 of the source has 2 entries": ((X2, Y2, np.ones(2)),),
    "block 1 of the source has no weight, unlike block 0": ((X2, Y2, np.ones(4)), (X2, Y2)),
    "block 1 of the source has a offset, unlike block 0": (
        (X2, Y2, np.ones(4)), (X2, Y2, np.ones(4), np.ones(4)),
    ),
    "column 'x1' of X is missing .* in row 6 of the source": (
        (X2, Y2), (np.where(X2 == 5.0, np.nan, X2), Y2),
    ),
    "column 'x0' of X is infinite in row 1": ((np.where(X2 == 2.0, np.inf, X2), Y2),),
    "y is missing .* in row 7": ((X2, Y2), (X2, np.where(Y2 == 5.0, np.nan, Y2))),
    "offset is missing .* in row 0": ((X2, Y2, np.ones(4), np.full(4, np.nan)),),
    "sample_weight is -2 in row 3": ((X2, Y2, np.array([1.0, 1.0, 1.0, -2.0])),),
    "sample_weight is zero in every row": ((X2, Y2, np.zeros(4)),),
    "y is constant": ((X2, np.ones(4)),),
    "X in block 0 of the source cannot be read as numbers": ((np.array([["a"]] * 4), Y2),),
    "X in block 0 of the source must have 2 dimension": ((Y2, Y2),),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_BLOCKS)
def test_blocks_that_cannot_be_used_are_refused(message):
    with pytest.raises(ValueError, match=message):
        fit(blocks_of(*BAD_BLOCKS[message]))


def test_columns_that_the_family_does_not_take_are_refused():
    with pytest.raises(ValueError, match="y has 2 columns, but 'poisson' experts take 1"):
        mx.MoERegressor(expert="poisson").fit(blocks_of((X2, X2)))


@pytest.mark.parametrize("kind", ["complex128", "datetime64[s]", "S3", "U3"])
def test_arrays_that_are_no_numbers_are_refused(kind):
    X = X2.astype(np.int64).astype(kind)
    with pytest.raises(ValueError, match="X in block 0 of the source cannot be read as numbers"):
        fit(blocks_of((X, Y2)))


def test_objects_that_are_numbers_are_taken():
    X = np.array([[1, 2.5], [True, 3], [4, 1], [0, 0]], dtype=object)
    assert all_rows(blocks_of((X, Y2)))[0].tolist() == [
        [1.0, 2.5],
        [1.0, 3.0],
        [4.0, 1.0],
        [0.0, 0.0],
    ]


@pytest.mark.parametrize("block", [X2, (X2,), (X2, Y2, Y2, Y2, Y2), None])
def test_what_is_no_block_is_refused(block):
    with pytest.raises(TypeError, match=r"block 0 must be \(X, y\)"):
        fit(blocks_of(block))


def test_frames_need_a_response_that_is_there(frame):
    with pytest.raises(TypeError, match="block 0 is a DataFrame; name its response"):
        fit(blocks_of(frame))
    with pytest.raises(ValueError, match="block 1 lacks the column 'b'"):
        fit(IteratorSource(lambda: [frame, frame.drop(columns="b")], response="y"))


# --- Parquet --------------------------------------------------------------------------------------


@pytest.fixture
def folder(frame, tmp_path):
    """Three files, of several row groups and other columns, in an order that names decide."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in (
        ("part-2", slice(250, 300)),
        ("part-0", slice(0, 130)),
        ("part-1", slice(130, 250)),
    ):
        table = pa.Table.from_pandas(frame[rows].assign(text="no number"), preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=37)
    (folder / "_SUCCESS").write_text("")
    return folder


@pytest.mark.parametrize("batch_rows", [1, 50, 65536])
def test_a_folder_is_read_in_the_order_of_names(folder, data, frame, batch_rows):
    X, y = data
    source = ParquetSource(folder, ["c", "a"], "y", "w", "o", batch_rows=batch_rows)
    assert source.n_rows == 300
    for got, expected in zip(
        all_rows(source), (X[:, [2, 0]], y, frame["w"], frame["o"]), strict=True
    ):
        assert_array_equal(got, expected)
    chunks = list(Chunks(source, 64)())
    assert [len(chunk.y) for chunk in chunks] == [64] * 4 + [44]


def test_files_are_read_in_the_order_given(folder, data):
    X, _ = data
    files = [folder / "part-1.parquet", str(folder / "part-0.parquet")]
    got = all_rows(ParquetSource(files, ["a"], "y"))
    assert_array_equal(got[0][:, 0], np.concatenate([X[130:250, 0], X[:130, 0]]))
    one = ParquetSource(folder / "part-2.parquet", ["a"], ["y", "b"])
    assert_array_equal(all_rows(one)[1][:, 1], X[250:, 1])


def test_all_kinds_of_numbers_become_float64(tmp_path):
    values = [3, 1, 2, 3]
    columns = {
        "int8": pa.array(values, pa.int8()),
        "uint64": pa.array(values, pa.uint64()),
        "float32": pa.array(np.array(values, dtype=np.float32)),
        "bool": pa.array([True, False, False, True]),
        "decimal": pa.array([Decimal(v) for v in values], pa.decimal128(6, 2)),
        "dictionary": pa.array(values, pa.int64()).dictionary_encode(),
        "half": pa.array(np.array(values, dtype=np.float16)),
    }
    pq.write_table(pa.table(columns | {"y": pa.array(values)}), tmp_path / "t.parquet")
    X, y, *_ = all_rows(ParquetSource(tmp_path / "t.parquet", list(columns), "y"))
    for name, column in zip(columns, X.T, strict=True):
        assert column.tolist() == ([1, 0, 0, 1] if name == "bool" else values), name
    assert y.dtype == np.float64


def test_folders_may_be_columns(frame, tmp_path):
    for level in (0, 1):
        (tmp_path / f"site={level}").mkdir()
        rows = frame[frame["a"].gt(0) == bool(level)]
        pq.write_table(
            pa.Table.from_pandas(rows, preserve_index=False),
            tmp_path / f"site={level}" / "f.parquet",
        )
    X, *_ = all_rows(ParquetSource(tmp_path, ["site", "a"], "y"))
    assert_array_equal(X[:, 0], X[:, 1] > 0)
    assert len(X) == 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["b"]), r"part-2\.parquet lacks the column 'b'"),
        (lambda t: t.set_column(1, "b", t["text"]), r"column 'b' of .*part-2\.parquet holds"),
    ],
)
def test_a_later_file_that_differs_is_named(folder, change, message):
    file = folder / "part-2.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(ValueError, match=message):
        fit(ParquetSource(folder, ["a", "b"], "y"))


@pytest.mark.parametrize("kind", ["int64", "float32", "bool"])
def test_a_null_is_refused_with_its_column_and_row(tmp_path, kind):
    x = pa.array([1, 0, None, 1, 0], pa.int64()).cast(kind if kind != "bool" else "bool")
    table = pa.table({"x": x, "y": pa.array([1.0, 2.0, 3.0, 4.0, 5.0])})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    source = ParquetSource(tmp_path / "t.parquet", ["x"], "y", batch_rows=2)
    with pytest.raises(ValueError, match=r"column 'x' of X is missing \(NaN or null\) in row 2 of"):
        fit(source)


def test_a_null_in_the_response_is_refused_by_its_name(tmp_path):
    table = pa.table({"x": [1.0, 2.0, 3.0], "tuned": pa.array([1.0, None, 3.0])})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column 'tuned' of y is missing .* in row 1"):
        fit(ParquetSource(tmp_path / "t.parquet", ["x"], "tuned"))


PARQUET = {
    "lacks the columns 'q', 'r'; it has 'a', 'b', 'c'": {"features": ["a", "q", "r"]},
    "column 'text' of .* holds (large_)?string, not numbers": {"features": ["text"]},
    "together names columns twice: 'y'": {"features": ["a", "y"]},
    "features names columns twice: 'a'": {"features": ["a", "b", "a"]},
    "features is an empty list": {"features": []},
    "batch_rows must be a positive integer": {"batch_rows": 0},
}


@pytest.mark.parametrize("message", PARQUET)
def test_columns_that_cannot_be_used_are_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        ParquetSource(folder, **({"features": ["a"], "response": "y"} | PARQUET[message]))


def test_a_wrong_type_of_column_name_is_refused(folder):
    with pytest.raises(TypeError, match="features must be a column name or a list of them"):
        ParquetSource(folder, [1], "y")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.parquet"):
        ParquetSource(tmp_path / "nothing.parquet", ["a"], "y")
    with pytest.raises(FileNotFoundError, match=r"holds no \.parquet file"):
        ParquetSource(tmp_path, ["a"], "y")
    with pytest.raises(ValueError, match="path is an empty list"):
        ParquetSource([], ["a"], "y")


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(ImportError, match=r"pip install 'mixexperts\[arrow\]'"):
        ParquetSource(folder, ["a"], "y")


# --- at the estimator's door ----------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["y", "sample_weight", "offset"])
def test_a_source_brings_everything_itself(data, argument):
    est = mx.MoERegressor(2)
    with pytest.raises(ValueError, match=f"{argument} must be left out where X is a source"):
        est.fit(ArraySource(*data), **{argument: data[1]})


@pytest.mark.parametrize("path", ["rows.parquet", "folder/"])
def test_a_path_is_no_source(path):
    with pytest.raises(TypeError, match="ParquetSource"):
        mx.MoERegressor(2).fit(path)


@pytest.mark.parametrize("chunk_rows", [None, 10])
def test_arrays_need_a_response(data, chunk_rows):
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        mx.MoERegressor(2, chunk_rows=chunk_rows).fit(data[0])


def test_a_refused_response_is_named_by_its_row(data, monkeypatch):
    from mixexperts.errors import InvalidResponseError
    from mixexperts.experts import Gaussian

    def check(self, y):
        if (y < 0).any():
            raise InvalidResponseError(f"y must not be negative, got {y[y < 0][0]:g}")

    monkeypatch.setattr(Gaussian, "check_response", check)
    X, y = data
    y = np.abs(y)
    y[[173, 250]] = -3.0, -4.0
    weight = np.where(np.arange(300) < 10, 0.0, 1.0)
    y[5] = -1.0  # of weight zero
    with pytest.raises(InvalidResponseError, match=r"y in row 173 of the source: .* got -3"):
        fit(ArraySource(X, y, weight), chunk_rows=64)


def test_blocks_without_trials_are_no_fault():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 1))
    trials = np.where(np.arange(900) < 400, 0, 5)
    hits = rng.binomial(trials, 0.4)
    Y = np.column_stack([hits, trials - hits]).astype(float)
    options = {"n_experts": 1, "expert": "binomial"}
    whole = mx.MoERegressor(**options).fit(X, Y)
    chunks = mx.MoERegressor(**options, chunk_rows=100).fit(X, Y)
    assert chunks.log_likelihood_ == pytest.approx(whole.log_likelihood_, rel=1e-12)
    with pytest.raises(ValueError, match="need trials"):
        mx.MoERegressor(**options, chunk_rows=100).fit(X, np.zeros((900, 2)))
    Y[500, 0] = -1.0
    with pytest.raises(ValueError, match="row 500 of the source"):
        mx.MoERegressor(**options, chunk_rows=100).fit(mx.sources.ArraySource(X, Y))


def test_a_column_may_grow_beyond_the_first_chunk():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 2))
    X[:, 1] *= np.where(np.arange(900) < 300, 0.0, 1e180)
    y = X[:, 0] + rng.normal(size=900)
    whole = mx.MoERegressor(1).fit(X, y)
    chunks = mx.MoERegressor(1, chunk_rows=100).fit(X, y)
    assert chunks.log_likelihood_ == pytest.approx(whole.log_likelihood_, rel=1e-10)


def test_predictions_of_a_source_are_refused_with_advice():
    X, y = np.arange(20.0)[:, None], np.sin(np.arange(20.0))
    est = mx.MoERegressor(1).fit(X, y)
    with pytest.raises(TypeError, match="one block of rows after the other"):
        est.predict(mx.sources.ArraySource(X, y))
