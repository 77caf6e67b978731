"""The CuPy device on a stand-in for CuPy: NumPy arrays, lazy copies, kernels compiled for here.

The stand-in has what the device calls, by CuPy's names and arguments. Work given to a stream is
done as late as possible, when something behind it is waited for: a wait that is missing shows.
"""

import functools
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mixexperts._batch import Batch, Theta
from mixexperts.em import Model, device, fit_em
from mixexperts.em.cupy_device import CupyDevice
from mixexperts.em.device import DeviceExecutor, device_pass
from mixexperts.em.model import em_pass
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

_spec = importlib.util.spec_from_file_location(
    "_mixexperts_devices", Path(__file__).parents[1] / "_devices.py"
)
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)

pytestmark = pytest.mark.skipif(devices.compiler is None, reason="no C++ compiler here")
MODEL = Model(Softmax(), Gaussian())


class Stream:
    def __init__(self, *, non_blocking=False):
        self.queue = []
        self.n_done = 0

    def flush(self, upto=None):
        while self.n_done < (len(self.queue) if upto is None else upto):
            self.n_done += 1
            self.queue[self.n_done - 1]()

    def wait_event(self, event):
        stream, upto = event.stream, event.upto
        self.queue.append(lambda: stream.flush(upto))


class Event:
    def __init__(self, *, disable_timing=False):
        pass

    def record(self, stream):
        self.stream, self.upto = stream, len(stream.queue)

    def synchronize(self):
        self.stream.flush(self.upto)


class DeviceArray(np.ndarray):
    """Arithmetic waits for the current stream; ``set`` reads its argument when the copy is made."""

    current = Stream()

    def set(self, values, stream):
        target = self.view(np.ndarray)
        stream.queue.append(lambda: target.__setitem__(..., values))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        self.current.flush()
        inputs = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        return getattr(ufunc, method)(*inputs, **options).view(DeviceArray)


class Kernel:
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, module, name, log):
        self.module, self.name, self.log = module, name, log

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.log.append(self.name)
        arguments = tuple(a.view(np.ndarray) if isinstance(a, np.ndarray) else a for a in arguments)
        launch = functools.partial(
            self.module.launch, self.name, *grid, *block, arguments, shared_bytes=shared_mem
        )
        DeviceArray.current.queue.append(launch)


class RawModule:
    def __init__(self, log, code):
        self.log = log
        self.host = devices.HostModule(SimpleNamespace(source=lambda: code), [])

    def get_function(self, name):
        return Kernel(self.host, name, self.log)

    def get_global(self, name):
        assert name == "PARAM"
        return self.host


def stand_in(free, log):
    """A module ``cupy`` with the names that the device uses."""
    current = DeviceArray.current = Stream()

    class Parameters:
        def __init__(self, shape, dtype, pointer):
            assert dtype is np.float64
            assert shape == (pointer.library.n_parameters(),)
            self.library = pointer.library

        def set(self, values, stream):
            assert stream is current
            staged = np.array(values)  # what is not page-locked is read at once
            stream.queue.append(lambda: self.library.set_parameters(devices._pointer(staged)))

    cupy = type(sys)("cupy")
    for name in ("float64", "zeros"):
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray = Parameters
    cupy.empty = lambda shape, dtype: np.full(shape, np.nan, dtype).view(DeviceArray)
    cupy.asarray = np.array
    cupy.asnumpy = lambda values: (current.flush(), np.array(values))[1]
    cupy.RawModule = lambda *, code: RawModule(log, code)
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 1000)
    cupy.cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        get_current_stream=lambda: current,
        alloc_pinned_memory=bytearray,
        Device=lambda: SimpleNamespace(
            compute_capability="90", attributes={"MultiProcessorCount": 2}
        ),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            memGetInfo=lambda: (free, 1 << 40),
            CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        ),
    )
    return cupy


def problem(n=900, p=4, k=2):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    label = rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 1]))
    y = np.where(label, 1.0 + X[:, 1], -1.0 - X[:, 1]) + 0.3 * rng.standard_normal(n)
    gate = np.vstack([rng.standard_normal((k - 1, p)), np.zeros((1, p))])
    theta = Theta({"coef": gate}, {"coef": rng.standard_normal((k, p)), "scale": np.ones(k)})
    return Batch(y, {"mean": X}, X, rng.uniform(0.5, 2.0, n)), theta


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(device, "PIECE_BYTES", 200 * 8 * 6)


def test_what_the_device_says_of_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(5000, []))
    gpu = CupyDevice()
    assert (gpu.capability, gpu.processors, gpu.free_bytes()) == (90, 2, 6000)


@pytest.mark.parametrize("free", [1 << 40, 60_000], ids=["placed", "streamed"])
def test_a_pass(monkeypatch, small_pieces, free):
    log = []
    monkeypatch.setitem(sys.modules, "cupy", stand_in(free, log))
    batch, theta = problem()
    executor = DeviceExecutor()
    handle = executor.scatter([batch])
    assert (handle[0].rows is None) == (free == 60_000)
    expected = em_pass(MODEL, theta, batch)
    for _ in range(2):  # the second pass uses slots and kernels again
        found = executor.map_reduce(lambda part: device_pass(MODEL, theta, part), handle)
        for name, value in expected.items():
            assert_allclose(found[name], value, rtol=0, atol=1e-11 * np.abs(value).max())
    assert log == ["fused", "reduce"] * (2 * len(handle))
    executor.close()


def test_a_block_without_an_executor(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(1 << 40, []))
    batch, theta = problem(300)
    found, expected = device_pass(MODEL, theta, batch), em_pass(MODEL, theta, batch)
    assert found["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-12)


def test_a_whole_fit(monkeypatch, small_pieces):
    log = []
    monkeypatch.setitem(sys.modules, "cupy", stand_in(60_000, log))
    batch, theta = problem()
    found = fit_em(MODEL, batch, theta, backend="cupy")
    plain = fit_em(MODEL, batch, theta, backend="numpy")
    assert found.status == plain.status == "converged"
    assert found.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-10)
    assert log.count("fused") > 5
