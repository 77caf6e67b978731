"""Streamed passes: the same sums, threads that end, interrupts, kills, memory."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import mixexperts as mx
from mixexperts._archive import read_archive
from mixexperts._batch import Batch, Theta, TreeSum, tree_sum
from mixexperts.em import Model, Monitor, fit_em
from mixexperts.em.executors import SerialExecutor
from mixexperts.em.streaming import PassBar, Stream, StreamExecutor
from mixexperts.estimators import _data
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax
from mixexperts.sources import ArraySource, IteratorSource, Source
from mixexperts.sources.base import Block
from mixexperts.sources.prefetch import Prefetch
from mixexperts.sources.scan import PrioritySample

PLAIN = {"n_init": 1, "random_state": 0}


@pytest.fixture
def data():
    rng = np.random.default_rng(20261102)
    X = rng.standard_normal((1000, 2))
    first = X[:, 0] + rng.logistic(size=1000) > 0
    y = np.where(first, 1.0 + X[:, 1], -1.0 - X[:, 0]) + 0.7 * rng.standard_normal(1000)
    return X, y


@pytest.fixture(autouse=True)
def _no_thread_stays():
    yield
    deadline = time.monotonic() + 5.0
    while own_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_threads() == []


def own_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("mixexperts")]


def theta():
    coef = np.array([[0.5, 1.0, 0.0], [-0.5, 0.0, -1.0]])
    return Theta(
        {"coef": np.array([[0.1, 0.3, 0.0], [0.0, 0.0, 0.0]])},
        {"coef": coef, "scale": np.ones(2)},
    )


def prepare(block):
    design = np.column_stack([np.ones(block.n_rows), block.X])
    return Batch(block.y, {"mean": design}, design, np.ones(block.n_rows))


def stream_of(X, y, rows, read=None, **options):
    def blocks():
        for i in range(0, len(y), rows):
            yield Block(X[i : i + rows], y[i : i + rows])

    return Stream(read or blocks, prepare, len(y), float(len(y)), **options)


# --- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 40))
def test_parts_are_added_in_the_order_of_a_balanced_tree(n):
    """Level by level, neighbours are paired; one left over goes up as it is."""
    level = [str(i) for i in range(n)]
    total = TreeSum(lambda a, b: f"({a}+{b})")
    for part in level:
        total.add(part)
        assert len(total._held) <= np.log2(n) + 1
    while len(level) > 1:
        pairs = [f"({a}+{b})" for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    assert total.total() == level[0]


def test_nothing_has_no_sum():
    with pytest.raises(ValueError, match="the data source is empty"):
        tree_sum([])


@pytest.mark.parametrize("rows", [64, 137, 1000])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_stream_gives_the_numbers_of_its_blocks(data, rows, n_threads):
    """Bit for bit: the same blocks, added in the same order, on any number of threads."""
    stream = stream_of(*data, rows)
    model, monitor = Model(Softmax(), Gaussian()), Monitor(max_iter=8)
    blocks = [prepare(block) for block in stream.read()]
    resident = fit_em(model, blocks, theta(), monitor=monitor, executor=SerialExecutor())
    executor = StreamExecutor(n_threads)
    streamed = fit_em(model, stream, theta(), monitor=monitor, executor=executor)
    executor.close()
    assert streamed.n_iter == resident.n_iter > 5
    assert_array_equal(streamed.history, resident.history)
    for name, values in resident.theta.expert.items():
        assert_array_equal(streamed.theta.expert[name], values)


# --- threads -------------------------------------------------------------------------------------


def count(batch):
    return {"n": batch.n_rows}


@pytest.mark.parametrize("n_threads", [1, 2])
def test_only_a_few_chunks_are_in_hand(data, n_threads):
    X, y = data
    alive, most = 0, 0
    lock = threading.Lock()

    def read():
        nonlocal alive, most
        for i in range(100):
            with lock:
                alive += 1
                most = max(most, alive)
            yield Block(X[i : i + 1], y[i : i + 1])

    def slow(batch):
        nonlocal alive
        time.sleep(0.001)
        with lock:
            alive -= 1
        return count(batch)

    executor = StreamExecutor(n_threads)
    assert executor.map_reduce(slow, stream_of(X, y, 1, read)) == {"n": 100}
    executor.close()
    assert most <= 2 * n_threads + 5  # waiting for a thread, waiting to be taken, being read


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), ValueError("row")])
@pytest.mark.parametrize("where", ["reader", "function"])
def test_errors_reach_the_caller_and_end_the_threads(data, n_threads, error, where):
    X, y = data
    closed = []

    def read():
        try:
            for i in range(1000):
                if where == "reader" and i == 7:
                    raise error
                yield Block(X[i : i + 1], y[i : i + 1])
        finally:
            closed.append(True)

    def function(batch):
        if where == "function" and batch.y[0] == y[7]:
            raise error
        return count(batch)

    executor = StreamExecutor(n_threads)
    with pytest.raises(type(error)) as caught:
        executor.map_reduce(function, stream_of(X, y, 1, read))
    assert caught.value is error
    executor.close()
    assert closed == [True]


@pytest.mark.parametrize("at_pass", [1, 3])
def test_an_interrupt_ends_a_fit_promptly(data, at_pass):
    X, y = data
    passes = 0

    def blocks():
        nonlocal passes
        passes += 1
        for i in range(0, 1000, 10):
            if passes == at_pass and i == 500:
                _thread.interrupt_main()
            if passes >= at_pass and i > 500:
                time.sleep(0.05)
            yield X[i : i + 10], y[i : i + 10]

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        mx.MoERegressor(2, chunk_rows=10, **PLAIN).fit(IteratorSource(blocks))
    assert time.monotonic() - began < 20.0  # 49 more blocks of a pass take 2.5 s; most is start-up
    assert passes == at_pass


def test_an_unfinished_iteration_ends_the_reader():
    with Prefetch(lambda: iter(range(10**9))) as items:
        assert next(iter(items)) == 0
    assert own_threads() == []


def test_parallel_starts_read_for_themselves(data):
    X, y = data
    source = ArraySource(X, y)
    one = mx.MoERegressor(2, n_init=3, random_state=0, chunk_rows=300).fit(source)
    two = mx.MoERegressor(2, n_init=3, random_state=0, chunk_rows=300, n_jobs=2).fit(source)
    # Arrays that were sent to a worker lie otherwise in memory, and BLAS rounds otherwise.
    assert_allclose(one.restarts_["log_likelihood"], two.restarts_["log_likelihood"], rtol=1e-13)


# --- the sample that starts are made from --------------------------------------------------------


@pytest.mark.parametrize("n", [30, 100, 101, 5000])
@pytest.mark.parametrize("cut", [1, 17, 5000])
def test_the_sample_does_not_depend_on_the_blocks(n, cut):
    rng = np.random.default_rng(5)
    weight = rng.exponential(size=n)
    rows = np.arange(n)
    sample = PrioritySample(100, seed=3)
    for i in range(0, n, cut):
        sample.add(weight[i : i + cut], rows[i : i + cut], None)
    got_weight, (got, nothing) = sample.take()
    assert nothing is None
    # All at once, as it is defined: the highest priorities, the next one as threshold.
    priority = weight / np.random.default_rng([3, 100]).random(n)
    order = np.argsort(-priority)
    assert_array_equal(got, np.sort(order[:100]))
    threshold = priority[order[100]] if n > 100 else 0.0
    assert_array_equal(got_weight, np.maximum(weight[got], threshold))


def test_the_sample_is_the_same_in_memory_and_streamed():
    rng = np.random.default_rng(6)
    X = rng.standard_normal((50_000, 2))
    y = np.where(rng.random(50_000) < 0.4, 2 + X[:, 0], X[:, 1]) + rng.standard_normal(50_000)
    weight = np.where(rng.random(50_000) < 0.1, 0.0, rng.exponential(size=50_000) + 0.5)
    options = {"init": "kmeans", "n_init": 2, "random_state": 4, "max_iter": 2, "tol": 1e12}
    whole = mx.MoERegressor(2, **options).fit(X, y, weight)
    streamed = mx.MoERegressor(2, **options).fit(ArraySource(X, y, weight))
    # The first pass is at the start itself.
    assert_allclose(
        streamed.restarts_["log_likelihood"], whole.restarts_["log_likelihood"], rtol=1e-12
    )
    assert_allclose(streamed.coef_, whole.coef_, rtol=1e-10)


def test_starts_are_screened_on_the_same_sample(data, monkeypatch):
    """With fewer rows in the sample than there are, the same starts go on to all rows."""
    monkeypatch.setattr(_data, "_START_ROWS", 300)
    X, y = data
    whole = mx.MoERegressor(2, random_state=0, n_init=8).fit(X, y)
    streamed = mx.MoERegressor(2, random_state=0, n_init=8, chunk_rows=128).fit(ArraySource(X, y))
    assert "screened" in whole.restarts_["status"].tolist()
    assert streamed.restarts_["status"].tolist() == whole.restarts_["status"].tolist()
    assert streamed.restarts_["n_iter"].tolist() == whole.restarts_["n_iter"].tolist()
    assert_allclose(streamed.log_likelihood_, whole.log_likelihood_, rtol=1e-12)
    assert_allclose(streamed.coef_, whole.coef_, rtol=1e-9)


# --- memory --------------------------------------------------------------------------------------


def test_no_copy_of_the_rows_is_made():
    """Allocations of a fit in chunks stay far below X, in single precision too."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((400_000, 10), dtype=np.float32)
    y = X[:, 0] + rng.standard_normal(400_000)
    options = {**PLAIN, "max_iter": 2, "tol": 1e12, "init": "random", "n_jobs": 1}
    mx.MoERegressor(2, **options).fit(X[:1000], y[:1000])  # imports and compiles
    tracemalloc.start()
    try:
        mx.MoERegressor(2, chunk_rows=4096, **options).fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The sample of 20,000 rows, its copies, and a few chunks.
    assert peak < 0.8 * X.nbytes
    assert peak < 12 * 20_000 * 11 * 8


# --- a memory map is always streamed -------------------------------------------------------------


class Watched(Source):
    """Counts the passes over another source, and can slow them down."""

    def __init__(self, source):
        self.source, self.passes = source, 0

    def blocks(self, rows):
        self.passes += 1
        yield from self.source.blocks(rows)


def test_a_memory_map_is_streamed_and_gives_the_same_fit(data, tmp_path, monkeypatch):
    X, y = data
    for name, values in (("x", X), ("y", y)):
        np.memmap(tmp_path / name, dtype=values.dtype, mode="w+", shape=values.shape)[:] = values
    mapped = np.memmap(tmp_path / "x", dtype=X.dtype, mode="r", shape=X.shape)
    response = np.memmap(tmp_path / "y", dtype=y.dtype, mode="r", shape=y.shape)
    calls = []
    original = ArraySource.blocks
    monkeypatch.setattr(
        ArraySource, "blocks", lambda self, rows: calls.append(rows) or original(self, rows)
    )
    weight = 1.0 + (np.arange(1000) % 3)
    est = mx.MoERegressor(2, **PLAIN).fit(mapped, response, weight, offset=0.1 * X[:, 0])
    assert len(calls) == est.n_iter_ + 2  # the first reading and, of few rows, their QR factor
    whole = mx.MoERegressor(2, **PLAIN).fit(X, y, weight, offset=0.1 * X[:, 0])
    assert len(calls) == est.n_iter_ + 2
    assert_allclose(est.log_likelihood_, whole.log_likelihood_, rtol=1e-12)
    assert_allclose(est.coef_, whole.coef_, rtol=1e-10)
    assert est.n_features_in_ == 2
    assert est.predict(mapped, offset=np.zeros(1000)).shape == (1000,)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_many_rows_are_read_once_before_the_passes(degree):
    """The rank is read off the moments; polynomials take one more pass."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((40_000, 2))
    y = X[:, 0] ** 2 + rng.standard_normal(40_000)
    source = Watched(ArraySource(X, y))
    est = mx.MoERegressor(
        2, expert=Gaussian(degree=degree), gate="constant", max_iter=3, tol=1e12, **PLAIN
    )
    est.fit(source)
    assert source.passes == est.n_iter_ + (2 if degree == 2 else 1)


@pytest.mark.parametrize("n", [900, 40_000])
def test_collinear_columns_are_found_and_named(n):
    from mixexperts.errors import RankDeficientWarning

    rng = np.random.default_rng(9)
    X = rng.standard_normal((n, 3))
    X = np.column_stack([X, X[:, 0] + 1e-3 * X[:, 1], X[:, 1] - X[:, 2], np.full(n, 0.1)])
    y = X[:, 0] + np.abs(X[:, 1]) + rng.standard_normal(n)
    options = {**PLAIN, "max_iter": 5, "tol": 1e12}
    with pytest.warns(RankDeficientWarning, match="'x4', 'x5' are constant") as caught:
        whole = mx.MoERegressor(2, **options).fit(X, y)
    with pytest.warns(RankDeficientWarning) as streamed_warnings:
        streamed = mx.MoERegressor(2, **options).fit(ArraySource(X, y))
    assert str(streamed_warnings[0].message) == str(caught[0].message)
    assert_allclose(streamed.log_likelihood_, whole.log_likelihood_, rtol=1e-11)
    assert_allclose(streamed.predict(X), whole.predict(X), rtol=0, atol=1e-9)


# --- progress ------------------------------------------------------------------------------------


def test_the_bar_of_a_pass_fits_80_columns(capsys):
    bar = PassBar(123_456_789_012)
    bar._bar.mininterval = 0.0
    bar._passes = 998
    for value in (-123456789012.25, -123456789012.5):
        bar.begin()
        bar.advance(10_000_000)
        bar.end(value)
    bar.begin()
    bar.advance(99_999_999_999)
    bar.close()
    lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert any("log-likelihood -123456789012.25" in line for line in lines)
    assert any("pass 1000" in line and "rows/s" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_verbose_shows_passes_on_the_scale_of_the_response(data, capsys, monkeypatch):
    monkeypatch.setattr("tqdm.std.tqdm.__init__", _eager(__import__("tqdm").std.tqdm.__init__))
    X, y = data
    est = mx.MoERegressor(2, verbose=1, chunk_rows=100, **PLAIN).fit(X, 1e3 * y)
    shown = capsys.readouterr().err
    assert "reading 1" in shown
    assert f"pass {est.n_iter_}" in shown
    assert f"log-likelihood {est.log_likelihood_:.2f}" in shown
    mx.MoERegressor(2, chunk_rows=100, **PLAIN).fit(X, y)
    assert capsys.readouterr().err == ""


def _eager(original):
    def init(self, *args, **kwargs):
        original(self, *args, **{**kwargs, "mininterval": 0.0, "miniters": 1})

    return init


# --- killed and resumed --------------------------------------------------------------------------


SCRIPT = """
import sys, time
import numpy as np
import mixexperts as mx
from mixexperts.em import checkpoint

folder, path, out, pause = sys.argv[1:]
checkpoint._SECONDS_BETWEEN_WRITES = 0.0

class Slow(mx.sources.ParquetSource):
    passes = 0
    def blocks(self, rows):
        Slow.passes += 1
        time.sleep(float(pause))
        yield from super().blocks(rows)

source = Slow(folder, ["x0", "x1"], "y", batch_rows=70)
est = mx.MoERegressor(3, n_init=2, init="random", random_state=3,
                      tol=1e-13, max_iter=60, chunk_rows=256, checkpoint=path or None)
import warnings
warnings.simplefilter("ignore")
est.fit(source)
np.savez(out, passes=Slow.passes, history=est.history_, log_likelihood=est.log_likelihood_,
         n_iter=est.restarts_["n_iter"], all=est.restarts_["log_likelihood"],
         coef=est.coef_, intercept=est.intercept_, scale=est.scale_,
         gate_coef=est.gate_coef_, gate_intercept=est.gate_intercept_)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_fit_goes_on_to_the_same_digits(data, tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    X, y = data
    rng = np.random.default_rng(0)
    y = y + rng.standard_normal(1000)  # experts that overlap take many passes
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        rows = slice(400 * i, 400 * i + 400)
        table = pa.table({"x0": X[rows, 0], "x1": X[rows, 1], "y": y[rows]})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=150)
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)

    def start(path, out, pause):
        command = [
            sys.executable,
            str(script),
            str(folder),
            str(path),
            str(tmp_path / out),
            str(pause),
        ]
        # The modules of this process, however they were found.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(command, env=environment)

    assert start("", "whole.npz", 0.0).wait(120) == 0
    path = tmp_path / "fit.ckpt"
    for n_iter in (5, 9):  # killed twice
        process = start(path, "killed.npz", 0.05)
        try:
            wait_for(path, n_iter, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        read_archive(path, "checkpoint")  # complete, whenever the kill came
    assert not (tmp_path / "killed.npz").exists()
    assert start(path, "resumed.npz", 0.0).wait(120) == 0
    whole, resumed = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("whole", "resumed"))
    assert resumed.pop("passes") < whole.pop("passes") - 7
    for name, values in whole.items():
        assert_array_equal(resumed[name], values, err_msg=name)


def wait_for(path, n_iter, process):
    """Until the running start has made so many passes."""
    deadline = time.monotonic() + 100.0
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists():
            running = read_archive(path, "checkpoint")[1]["running"]
            if any(start.n_iter >= n_iter for start in running.values()):
                return
        time.sleep(0.005)
    pytest.fail("the fit ended before it could be killed")


def test_a_streamed_checkpoint_belongs_to_its_data(data, tmp_path):
    X, y = data
    path = tmp_path / "fit.ckpt"
    options = {"checkpoint": path, "chunk_rows": 100, **PLAIN}
    first = mx.MoERegressor(2, **options).fit(ArraySource(X, y))
    cut = IteratorSource(lambda: [(X[:333], y[:333]), (X[333:], y[333:])])
    source = Watched(cut)
    again = mx.MoERegressor(2, **options).fit(source)
    assert source.passes == 2  # only the first reading, and the QR factor of few rows
    assert again.log_likelihood_ == first.log_likelihood_
    other = X.copy()
    other[999, 1] += 1e-9
    for changed in (ArraySource(other, y), ArraySource(X, y, 2.0), ArraySource(X, y, 1.0, y / 9)):
        with pytest.raises(ValueError, match="was written for other data or settings"):
            mx.MoERegressor(2, **options).fit(changed)


def test_without_a_seed_the_sample_is_that_of_the_file(tmp_path):
    rng = np.random.default_rng(10)
    X = rng.standard_normal((30_000, 1))
    y = np.abs(X[:, 0]) + 0.3 * rng.standard_normal(30_000)
    options = {"n_init": 2, "init": "random", "max_iter": 3, "tol": 1e12, "random_state": None}
    options["checkpoint"] = tmp_path / "fit.ckpt"
    first = mx.MoERegressor(2, **options).fit(ArraySource(X, y))
    again = mx.MoERegressor(2, **options).fit(ArraySource(X, y))
    assert again.restarts_.equals(first.restarts_)
    labelled = {**options, "init": (X[:, 0] > 0).astype(int), "checkpoint": tmp_path / "l.ckpt"}
    one = mx.MoERegressor(2, **labelled).fit(IteratorSource(lambda: [(X, y)]))
    two = mx.MoERegressor(2, **labelled).fit(IteratorSource(lambda: [(X, y)]))
    assert one.log_likelihood_ == two.log_likelihood_
