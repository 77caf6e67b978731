"""Placement, streaming and dispatch of the GPU backend, on devices that need no GPU."""

import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import mixexperts as mx
from mixexperts._batch import Batch, Columns, Theta
from mixexperts.em import Model, Monitor, cupy_device, device, fit_em
from mixexperts.em.device import DeviceExecutor, Pending, device_pass
from mixexperts.em.model import em_pass
from mixexperts.em.passes import check_available, choose_pass
from mixexperts.errors import BackendUnavailableError, UnsupportedCombinationError
from mixexperts.estimators import _data
from mixexperts.experts import Gaussian
from mixexperts.gates import Constant, Softmax

_spec = importlib.util.spec_from_file_location(
    "_mixexperts_devices", Path(__file__).parents[1] / "_devices.py"
)
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)

MODEL = Model(Softmax(), Gaussian())
AMPLE = 1 << 40


def make_batch(n=1000, p=3, seed=0):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    label = rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 1]))
    y = np.where(label, 1.0 + X[:, 1], -1.0 - X[:, 1]) + 0.3 * rng.standard_normal(n)
    return Batch(y, {"mean": X}, X, rng.uniform(0.5, 2.0, n))


def make_theta(p=3, k=2, seed=1):
    rng = np.random.default_rng(seed)
    gate = np.vstack([rng.standard_normal((k - 1, p)), np.zeros((1, p))])
    return Theta({"coef": gate}, {"coef": rng.standard_normal((k, p)), "scale": np.ones(k)})


def run(executor, blocks, theta=None):
    work = functools.partial(device_pass, MODEL, theta or make_theta())
    return executor.map_reduce(work, executor.scatter(blocks))


def assert_close(found, expected, tol=1e-11):
    for name, value in expected.items():
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(found[name], value, rtol=0, atol=tol * scale, err_msg=name)


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of about 100 rows."""
    monkeypatch.setattr(device, "PIECE_BYTES", 100 * 8 * 5)


# --- executor -----------------------------------------------------------------------------------


def test_pieces_stay_if_they_fit(small_pieces):
    gpu = devices.StrictDevice(AMPLE)
    executor, batch = DeviceExecutor(gpu), make_batch()
    handle = executor.scatter([batch])
    assert len(handle) == 10
    assert all(piece.rows is not None for piece in handle)
    assert sum(piece.n_rows for piece in handle) == 1000
    assert_close(run(executor, [batch]), em_pass(MODEL, make_theta(), batch))
    assert gpu.log == []  # nothing was streamed


def test_pieces_are_streamed_if_they_do_not(small_pieces):
    gpu = devices.StrictDevice(free=30_000)
    executor, batch = DeviceExecutor(gpu), make_batch()
    handle = executor.scatter([batch])
    assert len(handle) > 3
    assert all(piece.rows is None for piece in handle)
    assert_close(run(executor, [batch]), em_pass(MODEL, make_theta(), batch))
    run(executor, [batch])
    assert [name for kind, name in gpu.log if kind == "slot"] == [0, 1]  # of all passes
    assert gpu.placed < 8 * 1000


def test_both_ways_give_the_same_bits(small_pieces):
    batch = make_batch()
    needed = 8 * 5 * 1000
    found = []
    for free in (AMPLE, needed):
        executor = DeviceExecutor(devices.StrictDevice(free))
        handle = executor.scatter([batch])
        assert (handle[0].rows is not None) == (free == AMPLE)
        assert len(handle) == 10
        found.append(run(executor, [batch]))
    for name, value in found[0].items():
        assert np.array_equal(value, found[1][name]), name


def test_slots_take_turns(small_pieces):
    """A piece is copied while the one before is worked on, and never into a slot in use.

    The slots of the device here refuse a wrong order, and overwrite with NaN what they held.
    """
    gpu = devices.StrictDevice(free=40_000)
    run(DeviceExecutor(gpu), [make_batch()])
    steps = [entry for entry in gpu.log if entry[0] != "slot"]
    assert steps[:8] == [
        ("load", 0), ("ready", 0), ("done", 0), ("load", 1),
        ("ready", 1), ("done", 1), ("load", 0), ("ready", 0),
    ]  # fmt: skip
    assert [kind for kind, _ in steps].count("load") == 10


def test_what_was_placed_serves_the_next_start():
    gpu = devices.StrictDevice()
    executor, batch = DeviceExecutor(gpu), make_batch()
    first = executor.scatter([batch])
    placed = gpu.placed
    assert executor.scatter([batch]) is first
    assert gpu.placed == placed
    other = make_batch(seed=3)
    assert executor.scatter([other]) is not first
    assert gpu.placed > placed
    executor.close()
    assert executor.scatter([batch]) is not first


def test_a_function_that_is_no_pass_sees_the_rows_in_memory(small_pieces):
    batch = make_batch()
    for free in (AMPLE, 30_000):
        executor = DeviceExecutor(devices.StrictDevice(free))
        total = executor.map_reduce(
            lambda part: {"n": part.n_rows, "y": float(part.y.sum())}, executor.scatter([batch])
        )
        assert total["n"] == 1000
        assert total["y"] == pytest.approx(batch.y.sum())


def test_no_blocks_are_refused():
    executor = DeviceExecutor(devices.StrictDevice())
    with pytest.raises(ValueError, match="data source is empty"):
        executor.map_reduce(lambda part: {}, executor.scatter([]))


def test_sums_stay_on_the_device_until_all_work_is_given():
    executor = DeviceExecutor(devices.StrictDevice())
    (piece,) = executor.scatter([make_batch()])
    pending = device_pass(MODEL, make_theta(), piece)
    assert isinstance(pending, Pending)
    assert all(
        isinstance(value, float | type(executor.device.xp.zeros(1)))
        for value in pending.sums.values()
    )


def test_arrays_of_other_kinds_are_converted():
    batch = make_batch()
    odd = dataclasses.replace(
        batch, y=batch.y.astype(np.float32), designs={"mean": np.asfortranarray(batch.X)}
    )
    found = run(DeviceExecutor(devices.StrictDevice()), [odd])
    assert_close(found, em_pass(MODEL, make_theta(), odd))


@pytest.mark.parametrize("free", [AMPLE, 30_000])
@pytest.mark.parametrize("shared", [True, False])
def test_designs_that_are_not_made_yet(small_pieces, free, shared):
    batch = make_batch()
    raw = np.asfortranarray(batch.X[:, 1:], dtype=np.float32)
    lazy = Columns(
        raw, 0, 1000, np.array([-1, 0, 1]), np.array([0.0, 0.5, -0.25]), np.array([1.0, 2.0, 0.3])
    )
    gate = lazy if shared else lazy.dense()
    batch = dataclasses.replace(batch, designs={"mean": lazy}, Z=gate)
    gpu = devices.StrictDevice(free)
    executor = DeviceExecutor(gpu)
    executor.scatter([batch])
    # y, weights, and one design or two
    assert gpu.placed == (8 * 1000 * (5 if shared else 8) if free == AMPLE else 0)
    assert_close(run(executor, [batch]), em_pass(MODEL, make_theta(), batch.dense()))


# --- kernels or array operations ----------------------------------------------------------------


@pytest.mark.skipif(devices.compiler is None, reason="no C++ compiler here")
@pytest.mark.parametrize(
    ("p", "k", "same", "capability", "kernel"),
    [
        (3, 2, True, 90, "fused"),
        (3, 2, True, 75, "elementwise"),  # no tensor cores for doubles
        (3, 2, False, 90, "elementwise"),  # a gate with columns of its own
        (17, 2, True, 90, "elementwise"),
        (3, 6, True, 90, "elementwise"),
        (3, 9, True, 90, None),
        (3, 2, True, 0, None),
    ],
)
def test_the_kernel_that_serves(p, k, same, capability, kernel):
    gpu = devices.HostCudaDevice(capability=capability)
    batch, theta = make_batch(300, p), make_theta(p, k)
    if not same:
        batch = dataclasses.replace(batch, Z=batch.X.copy())
    found = run(DeviceExecutor(gpu), [batch], theta)
    assert gpu.kernels == ([kernel, "reduce"] if kernel else [])
    assert_close(found, em_pass(MODEL, theta, batch))


@pytest.mark.skipif(devices.compiler is None, reason="no C++ compiler here")
@pytest.mark.parametrize("optional", ["unit", "log_prior"])
def test_units_and_evidence_go_by_array_operations(optional):
    gpu, batch, theta = devices.HostCudaDevice(), make_batch(60), make_theta()
    if optional == "unit":
        unit = np.repeat(np.arange(20), 3)
        batch = dataclasses.replace(
            batch, unit=unit, Z=batch.X[::3].copy(), weight=batch.weight[::3]
        )
    else:
        evidence = np.random.default_rng(0).normal(size=(60, 2))
        batch = dataclasses.replace(batch, log_prior=evidence)
    found = run(DeviceExecutor(gpu), [batch], theta)
    assert gpu.kernels == []
    assert_close(found, em_pass(MODEL, theta, batch))


@pytest.mark.skipif(devices.compiler is None, reason="no C++ compiler here")
def test_kernels_on_streamed_pieces(small_pieces):
    gpu, batch = devices.HostCudaDevice(free=40_000), make_batch()
    gpu.slot = functools.partial(_numpy_slot, gpu)
    assert_close(run(DeviceExecutor(gpu), [batch]), em_pass(MODEL, make_theta(), batch))
    assert gpu.kernels == ["fused", "reduce"] * 10
    assert [kind for kind, _ in gpu.log].count("load") == 10


class _numpy_slot(devices.StrictSlot):
    def __init__(self, gpu, n_numbers):
        super().__init__(gpu, len(gpu.log) % 2, n_numbers)

    def load(self, arrays):
        held, self.held = self.held, []
        super().load([])
        for array in held:
            array[...] = np.nan
        self.held = [np.array(array) for array in arrays]
        return self.held


# --- whole fits ---------------------------------------------------------------------------------


def fake_gpu(monkeypatch, gpu):
    """Let ``backend='cupy'`` find this device."""
    monkeypatch.setattr(cupy_device, "load_cupy", lambda: None)
    monkeypatch.setattr(cupy_device, "CupyDevice", lambda: gpu)


def test_a_fit_on_the_device(monkeypatch, small_pieces):
    fake_gpu(monkeypatch, devices.StrictDevice(free=40_000))
    batch, theta = make_batch(), make_theta()
    found = fit_em(MODEL, batch, theta, backend="cupy", monitor=Monitor(300))
    plain = fit_em(MODEL, batch, theta, backend="numpy", monitor=Monitor(300))
    assert found.status == plain.status == "converged"
    assert found.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-10)
    assert_allclose(MODEL.pack(found.theta), MODEL.pack(plain.theta), atol=1e-4)
    assert (np.diff(found.history) >= -1e-9 * abs(found.log_likelihood)).all()


def test_an_estimator_on_the_device(monkeypatch):
    gpu = devices.StrictDevice()
    fake_gpu(monkeypatch, gpu)
    batch = make_batch(200)
    X, y = batch.X[:, 1:], batch.y
    options = {"n_init": 3, "random_state": 0}
    found = mx.MoERegressor(backend="cupy", **options).fit(X, y)
    plain = mx.MoERegressor(backend="numpy", **options).fit(X, y)
    assert found.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-6)
    assert_allclose(found.coef_, plain.coef_, atol=1e-3)
    # Three starts and one copy of y, the design of three columns, and the weights.
    assert [size for size in gpu.sizes if size >= 8 * 200] == [8 * 200, 3 * 8 * 200, 8 * 200]


def test_starts_on_a_sample_leave_the_device_alone(monkeypatch):
    """Rows enough for lazy designs and a sample: only runs on all rows are the device's."""
    monkeypatch.setattr(_data, "_START_ROWS", 400)
    monkeypatch.setattr(_data, "_BLOCK_ROWS", 700)
    gpu = devices.StrictDevice()
    fake_gpu(monkeypatch, gpu)
    batch = make_batch(3000)
    options = {"n_init": 6, "random_state": 0}
    found = mx.MoERegressor(backend="cupy", **options).fit(batch.X[:, 1:], batch.y)
    plain = mx.MoERegressor(**options).fit(batch.X[:, 1:], batch.y)
    assert (found.restarts_["status"] == "screened").any()
    assert found.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-6)
    assert [size for size in gpu.sizes if size > 8 * 100] == [24_000, 3 * 24_000, 24_000]


class FakeCupyArray:
    """What the library asks of an array of CuPy: its module's name, and ``get``."""

    __module__ = "cupy"

    def __init__(self, values):
        self.values = values

    def get(self):
        return self.values


def test_cupy_arrays_are_taken(monkeypatch):
    gpu = devices.StrictDevice()
    fake_gpu(monkeypatch, gpu)
    batch = make_batch(200)
    X, y = batch.X[:, 1:], batch.y
    options = {"gate": "constant", "n_init": 1, "random_state": 0}
    est = mx.MoERegressor(**options)
    est.fit(FakeCupyArray(X), FakeCupyArray(y), FakeCupyArray(batch.weight))
    assert gpu.placed > 0
    assert est.backend == "auto"
    plain = mx.MoERegressor(**options).fit(X, y, batch.weight)
    assert est.log_likelihood_ == pytest.approx(plain.log_likelihood_, abs=1e-6)
    assert_allclose(est.predict(FakeCupyArray(X)), est.predict(X))
    placed = gpu.placed
    mx.MoERegressor(backend="numba", **options).fit(FakeCupyArray(X), FakeCupyArray(y))
    assert gpu.placed == placed


# --- without a GPU ------------------------------------------------------------------------------


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


def test_without_cupy_the_extra_is_named(no_cupy):
    batch = make_batch(50)
    for attempt in (
        lambda: check_available("cupy"),
        lambda: fit_em(MODEL, batch, make_theta(), backend="cupy"),
        lambda: mx.MoERegressor(backend="cupy").fit(batch.X[:, 1:], batch.y),
    ):
        with pytest.raises(BackendUnavailableError, match=r'pip install "mixexperts\[cupy\]"'):
            attempt()
    assert issubclass(BackendUnavailableError, ImportError)
    assert issubclass(BackendUnavailableError, RuntimeError)


@pytest.mark.parametrize("answer", [0, "no CUDA-capable device is detected"])
def test_without_a_gpu_it_is_said(monkeypatch, answer):
    class CUDARuntimeError(RuntimeError):
        pass

    class runtime:
        @staticmethod
        def getDeviceCount():
            if isinstance(answer, str):
                raise CUDARuntimeError(answer)
            return answer

    runtime.CUDARuntimeError = CUDARuntimeError
    fake = type(sys)("cupy")
    fake.cuda = type(sys)("cupy.cuda")
    fake.cuda.runtime = runtime
    monkeypatch.setitem(sys.modules, "cupy", fake)
    with pytest.raises(BackendUnavailableError, match=f"needs an NVIDIA GPU.*{answer}"):
        check_available("cupy")


def test_the_other_backends_ask_for_nothing(no_cupy):
    for backend in ("auto", "numba", "numpy"):
        check_available(backend)
    with pytest.raises(ValueError, match="known backends: 'auto', 'numba', 'numpy', 'cupy'"):
        check_available("cuda")


def test_an_unknown_gate_is_refused():
    class Other(Constant):
        name = ""

    with pytest.raises(UnsupportedCombinationError, match=r"no part for the gate.*'softmax'"):
        choose_pass(Model(Other(), Gaussian()), "cupy")
