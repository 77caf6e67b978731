"""Devices without a GPU: one that refuses what the array API lacks, one that runs CUDA C++ here.

The second compiles the very source of the kernels with the C++ compiler of this machine. The
threads of a block are fibers that take turns at each barrier; a tensor core instruction is an
exchange between the fibers of a warp; a copy into shared memory that was begun is made when it is
waited for; shared memory starts out as NaN.
"""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import array_api_strict
import numpy as np

PRELUDE = r"""
#include <math.h>
#include <string.h>
#include <ucontext.h>
#include <functional>
#include <utility>
#include <vector>

#define HOST 1
#define __global__
#define __constant__
#define __shared__ static
#define __launch_bounds__(...)
#define DEVICE static inline
#define DYNAMIC_SHARED(name) double *name = dynamic_shared.data()
#define __syncthreads() meet(&block_barrier, n_threads)

namespace {
struct Dim { unsigned x; };
struct Barrier { int arrived, generation; };
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  std::vector<std::pair<double *, const double *>> copies;
  bool finished;
};
Dim threadIdx, blockIdx, gridDim;
int n_threads;
std::vector<Fiber> fibers;
std::vector<double> dynamic_shared;
Barrier block_barrier, warp_barrier[32];
double left[32][32], right[32][32];
ucontext_t scheduler;
std::function<void()> body;

void give_way() {
  unsigned self = threadIdx.x;
  swapcontext(&fibers[self].context, &scheduler);
}
void meet(Barrier *barrier, int size) {
  int generation = barrier->generation;
  if (++barrier->arrived == size) {
    barrier->arrived = 0;
    barrier->generation++;
  } else {
    while (barrier->generation == generation) give_way();
  }
}
void copy_async(double *to, const double *from) {
  *to = NAN;
  fibers[threadIdx.x].copies.emplace_back(to, from);
}
void wait_copies() {
  for (auto &copy : fibers[threadIdx.x].copies) *copy.first = *copy.second;
  fibers[threadIdx.x].copies.clear();
}
void mma(double *c, double a, double b) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  left[warp][lane] = a;
  right[warp][lane] = b;
  meet(&warp_barrier[warp], 32);
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < 4; k++)
      c[i] += left[warp][lane / 4 * 4 + k] * right[warp][(2 * (lane % 4) + i) * 4 + k];
  meet(&warp_barrier[warp], 32);
}
void start_fiber() {
  body();
  fibers[threadIdx.x].finished = true;
}
void run(int blocks, int threads, int shared_bytes, std::function<void()> kernel) {
  n_threads = threads;
  gridDim.x = blocks;
  body = std::move(kernel);
  for (int block = 0; block < blocks; block++) {
    blockIdx.x = block;
    dynamic_shared.assign(shared_bytes / 8, NAN);
    fibers = std::vector<Fiber>(threads);
    block_barrier = Barrier();
    memset(warp_barrier, 0, sizeof warp_barrier);
    for (auto &fiber : fibers) {
      fiber.stack.resize(1 << 16);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &scheduler;
      makecontext(&fiber.context, start_fiber, 0);
    }
    for (int alive = threads; alive;) {
      alive = 0;
      for (int i = 0; i < threads; i++) {
        // Forwards and backwards: a barrier that is missing shows in one of them.
        int t = block % 2 ? threads - 1 - i : i;
        if (fibers[t].finished) continue;
        threadIdx.x = t;
        swapcontext(&scheduler, &fibers[t].context);
        alive += !fibers[t].finished;
      }
    }
  }
}
}  // namespace
"""

LAUNCHERS = r"""
typedef const double *In;
extern "C" void set_parameters(const double *from) { memcpy(PARAM, from, sizeof PARAM); }
extern "C" int n_parameters() { return sizeof PARAM / 8; }
extern "C" void launch_reduce(int blocks, int threads, int shared, long long rows,
                              long long columns, In in, double *out) {
  run(blocks, threads, shared, [=] { reduce(rows, columns, in, out); });
}
extern "C" void launch_elementwise(int blocks, int threads, int shared, long long n, In eta,
                                   In score, In y, In weight, In constant, double *w, double *v,
                                   double *partial) {
  run(blocks, threads, shared,
      [=] { elementwise(n, eta, score, y, weight, constant, w, v, partial); });
}
#if P > 0
extern "C" void launch_fused(int blocks, int threads, int shared, long long n, In X, In y,
                             In weight, In offset, In constant, double *partial) {
  run(blocks, threads, shared, [=] { fused(n, X, y, weight, offset, constant, partial); });
}
#endif
"""


class StrictDevice:
    """NumPy in the clothes of the array API standard, with a log of what its slots were told."""

    xp = array_api_strict
    capability = 0
    processors = 1

    def __init__(self, free=1 << 40):
        self.free = free
        self.log = []
        self.sizes = []

    @property
    def placed(self):
        """Bytes that were placed so far."""
        return sum(self.sizes)

    def place(self, values):
        self.sizes.append(values.nbytes)
        return self.xp.asarray(np.array(values))

    def to_host(self, values):
        return np.asarray(values._array) if hasattr(values, "_array") else np.array(values)

    def free_bytes(self):
        return self.free

    def slot(self, n_numbers):
        name = sum(entry[0] == "slot" for entry in self.log)
        self.log.append(("slot", name))
        return StrictSlot(self, name, n_numbers)


class StrictSlot:
    """Overwrites what it held with NaN before it copies, as the next piece would."""

    def __init__(self, device, name, n_numbers):
        self.device, self.name, self.n_numbers = device, name, n_numbers
        self.state = "free"
        self.held = []

    def load(self, arrays):
        assert self.state in ("free", "done"), "a copy into a slot that is in use"
        assert sum(array.size for array in arrays) <= self.n_numbers
        for array in self.held:
            array._array[...] = np.nan
        self.held = [self.device.xp.asarray(np.array(array)) for array in arrays]
        self.state = "loaded"
        self.device.log.append(("load", self.name))
        return self.held

    def ready(self):
        assert self.state == "loaded", "work on a slot that nothing was copied into"
        self.state = "ready"
        self.device.log.append(("ready", self.name))

    def done(self):
        assert self.state == "ready"
        self.state = "done"
        self.device.log.append(("done", self.name))


compiler = shutil.which("g++") or shutil.which("clang++")


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="mixexperts-cuda-")


@functools.cache
def compiled(source):
    """CUDA C++ as a library of this machine."""
    text = PRELUDE + source + LAUNCHERS
    stem = Path(_folder().name) / hashlib.sha256(text.encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(text, encoding="utf-8")
    library = stem.with_suffix(".so")
    subprocess.run(
        [compiler, "-O1", "-w", "-shared", "-fPIC", "-o", library, stem.with_suffix(".cpp")],
        check=True,
    )
    return ctypes.CDLL(str(library))


class HostModule:
    """Kernels of a plan, run here; notes which of them were."""

    def __init__(self, plan, log):
        self.library = compiled(plan.source())
        self.log = log

    def launch(self, name, blocks, threads, arguments, *, shared_bytes=0, parameters=None):
        self.log.append(name)
        if parameters is not None:
            assert parameters.size == self.library.n_parameters()
            self.library.set_parameters(_pointer(parameters))
        converted = [
            _pointer(a) if isinstance(a, np.ndarray) else ctypes.c_longlong(int(a))
            for a in arguments
        ]
        launch = getattr(self.library, f"launch_{name}")
        launch(blocks, threads, shared_bytes, *converted)


def _pointer(array):
    assert array.dtype == np.float64
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class HostCudaDevice(StrictDevice):
    """Runs the CUDA kernels on this machine, on NumPy arrays."""

    xp = np
    capability = 90
    processors = 2

    def __init__(self, free=1 << 40, capability=90):
        super().__init__(free)
        self.capability = capability
        self.kernels = []

    def place(self, values):
        self.sizes.append(values.nbytes)
        return np.array(values)

    def to_host(self, values):
        return np.array(values)

    def module(self, plan):
        return HostModule(plan, self.kernels)
