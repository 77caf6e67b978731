"""One pass of EM on a GPU beside the same pass on two threads of the CPU.

    pip install "mixexperts[cupy]"
    python tests/benchmarks/gpu.py [--rows 20000000] [--features 10] [--experts 3]

Prints a Markdown table: seconds per pass of each way that the backend has, the bandwidth floor (one
reading of the data at the rate of a copy on the device), and the largest difference from the CPU's
statistics, relative to each. Every time includes the wait for the sums. Exits with 1 if a
difference is above 1e-9.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time

import numpy as np

from mixexperts._batch import Batch, Theta
from mixexperts.em import Model
from mixexperts.em.cupy_device import CupyDevice
from mixexperts.em.device import DeviceExecutor, device_pass
from mixexperts.em.executors import ThreadExecutor
from mixexperts.em.passes import fused_pass
from mixexperts.experts import Gaussian
from mixexperts.gates import Softmax

MODEL = Model(Softmax(), Gaussian())
LARGEST_DIFFERENCE = 1e-9


def problem(n, d, n_experts, seed=0):
    """Rows and parameters; nothing about speed hangs on how well they fit."""
    rng = np.random.default_rng(seed)
    X = np.empty((n, d + 1))
    X[:, 0] = 1.0
    for start in range(0, n, 1 << 20):
        X[start : start + (1 << 20), 1:] = rng.standard_normal((min(1 << 20, n - start), d))
    y = X[:, 1] + rng.standard_normal(n)
    gate = np.vstack([0.3 * rng.standard_normal((n_experts - 1, d + 1)), np.zeros((1, d + 1))])
    coef = 0.5 * rng.standard_normal((n_experts, d + 1))
    theta = Theta({"coef": gate}, {"coef": coef, "scale": np.full(n_experts, 1.5)})
    return Batch(y, {"mean": X}, X, np.ones(n)), theta


def best_of(function, repeats):
    """Smallest wall time of several calls, after one that is not counted, and the result."""
    times, result = [], function()
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times), result


def copy_rate(cupy, n_bytes=1 << 31):
    """Bytes read and written per second by a copy on the device."""
    source = cupy.zeros(n_bytes // 8, dtype=cupy.float64)
    target = cupy.empty_like(source)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = []
    for _ in range(10):
        start.record()
        cupy.copyto(target, source)
        end.record()
        end.synchronize()
        times.append(1e-3 * cupy.cuda.get_elapsed_time(start, end))
    return 2 * source.nbytes / min(times)


def difference(found, expected):
    """Largest difference of two sets of statistics, each relative to its largest entry."""
    return max(
        float(np.abs(found[name] - value).max(initial=0.0))
        / max(float(np.abs(value).max(initial=0.0)), 1e-300)
        for name, value in expected.items()
    )


def ways(device, batch):
    """The ways through the backend: name, executor."""
    plain = device.capability
    yield "fused kernel", DeviceExecutor(device)
    device.capability = min(plain, 75)
    yield "elementwise kernel and cuBLAS", DeviceExecutor(device)
    device.capability = 0
    yield "array operations alone", DeviceExecutor(device)
    device.capability = plain
    # Too little memory for the data: they stream through it.
    device.free_bytes = lambda: batch.X.nbytes
    yield "fused kernel, rows streamed from memory", DeviceExecutor(device)


def measure(device, n, d, n_experts, rate, repeats=5):
    """Rows of the table, and the largest difference."""
    batch, theta = problem(n, d, n_experts)
    cpu = ThreadExecutor(2)
    work = functools.partial(fused_pass, MODEL, theta)
    blocks = batch.split(32768)
    seconds, expected = best_of(lambda: cpu.map_reduce(work, blocks), min(repeats, 3))
    cpu.close()
    floor = batch.n_rows * 8 * (d + 3) / rate
    rows, worst = [["CPU, numba, 2 threads", f"{seconds:.4f}", "1.0x", "", ""]], 0.0
    work = functools.partial(device_pass, MODEL, theta)
    for name, executor in ways(device, batch):
        handle = executor.scatter([batch])
        passing = functools.partial(executor.map_reduce, work, handle)
        took, found = best_of(passing, repeats)
        executor.close()
        differs = difference(found, expected)
        worst = max(worst, differs)
        rows.append(
            [name, f"{took:.5f}", f"{seconds / took:.1f}x", f"{took / floor:.2f}", f"{differs:.1e}"]
        )
    rows.append(["floor: the data read once", f"{floor:.5f}", "", "1.00", ""])
    return rows, worst


def table(header, rows):
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--experts", type=int, default=3)
    options = parser.parse_args()
    device = CupyDevice()
    cupy = device.xp
    rate = copy_rate(cupy)
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    print(
        f"{name}, CuPy {cupy.__version__}; n = {options.rows:,}, d = {options.features}, "
        f"K = {options.experts}, softmax gate, Gaussian experts; a copy on the device moves "
        f"{rate / 1e12:.2f} TB/s\n"
    )
    rows, worst = measure(device, options.rows, options.features, options.experts, rate)
    table(["way", "seconds per pass", "over the CPU", "times the floor", "difference"], rows)
    return int(worst > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
