"""CuPy as a device: arrays, streams and compiled kernels. Imports CuPy when one is made."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.errors import BackendUnavailableError
from mixexperts.kernels.cuda import Plan

# Writing the parameters and starting the kernel that reads them is one step: CuPy loads a source
# once for all threads of a process.
_LAUNCH = threading.Lock()


def load_cupy() -> Any:
    """The module ``cupy``, once it is known to have a device.

    Raises
    ------
    BackendUnavailableError
        If CuPy is not installed, or finds no GPU.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailableError(
            "backend='cupy' needs CuPy, which cannot be imported here "
            f'({error}); install it with: pip install "mixexperts[cupy]"'
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailableError(_no_device(str(error))) from error
    if not n_devices:
        raise BackendUnavailableError(_no_device("0 devices"))
    return cupy


def _no_device(reason: str) -> str:
    return (
        f"backend='cupy' needs an NVIDIA GPU and its driver, but CuPy finds none ({reason}); use "
        "backend='auto'. The extra for CUDA 12 is installed with: pip install \"mixexperts[cupy]\""
    )


class CupyDevice:
    """CuPy's current device; work goes to its current stream.

    Raises
    ------
    BackendUnavailableError
        If CuPy is not installed, or finds no GPU.
    """

    def __init__(self) -> None:
        self.xp = load_cupy()
        device = self.xp.cuda.Device()
        self.capability = int(device.compute_capability)
        self.processors = int(device.attributes["MultiProcessorCount"])
        self._modules: dict[Plan, CupyModule] = {}

    @functools.cached_property
    def _copies(self) -> Any:
        """The stream of copies, which the null stream does not wait for."""
        return self.xp.cuda.Stream(non_blocking=True)

    def place(self, values: Array) -> Any:
        """A contiguous copy on the device."""
        return self.xp.asarray(np.ascontiguousarray(values))

    def to_host(self, values: Any) -> Array:
        """A copy in ordinary memory; waits for the current stream."""
        copy: Array = self.xp.asnumpy(values)
        return copy

    def free_bytes(self) -> int:
        """Free memory of the device, and what CuPy holds in reserve."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free + self.xp.get_default_memory_pool().free_bytes())

    def slot(self, n_numbers: int) -> CupySlot:
        """Room for that many float64 numbers, with page-locked memory to fill it from."""
        return CupySlot(self.xp, self._copies, n_numbers)

    def module(self, plan: Plan) -> CupyModule:
        """The kernels of a plan; CuPy compiles a source once, and keeps it on disk."""
        if plan not in self._modules:
            self._modules[plan] = CupyModule(self.xp, plan)
        return self._modules[plan]


class CupySlot:
    """Room for one piece: page-locked memory, device memory, and the events that order them."""

    def __init__(self, cupy: Any, copies: Any, n_numbers: int) -> None:
        self.cupy = cupy
        self.copies = copies
        room = max(n_numbers, 1)
        self.locked = np.frombuffer(cupy.cuda.alloc_pinned_memory(8 * room), np.float64, room)
        self.memory = cupy.empty(room, dtype=cupy.float64)
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.worked = cupy.cuda.Event(disable_timing=True)
        # The memory may be of an array that work on the current stream still uses.
        self.worked.record(cupy.cuda.get_current_stream())
        self.copied.record(copies)

    def load(self, arrays: Sequence[Array]) -> list[Any]:
        """Begin to copy float64 arrays; waits until the slot's last piece is done with."""
        self.copied.synchronize()  # the page-locked memory may be written to
        at, views = 0, []
        for array in arrays:
            end = at + array.size
            np.copyto(self.locked[at:end].reshape(array.shape), array)
            views.append(self.memory[at:end].reshape(array.shape))
            at = end
        self.copies.wait_event(self.worked)
        self.memory[:at].set(self.locked[:at], stream=self.copies)
        self.copied.record(self.copies)
        return views

    def ready(self) -> None:
        """Let the current stream wait for the copy."""
        self.cupy.cuda.get_current_stream().wait_event(self.copied)

    def done(self) -> None:
        """The next copy shall wait for the work that the current stream has so far."""
        self.worked.record(self.cupy.cuda.get_current_stream())


class CupyModule:
    """Kernels of a plan, started on the current stream."""

    def __init__(self, cupy: Any, plan: Plan) -> None:
        self.cupy = cupy
        self.raw = cupy.RawModule(code=plan.source())
        self.kernels: dict[str, Any] = {}

    def launch(
        self,
        name: str,
        blocks: int,
        threads: int,
        arguments: tuple[Any, ...],
        *,
        shared_bytes: int = 0,
        parameters: Array | None = None,
    ) -> None:
        """Write ``PARAM``, then start a kernel; nothing is waited for."""
        if name not in self.kernels:
            self.kernels[name] = self.raw.get_function(name)
            if shared_bytes:
                self.kernels[name].max_dynamic_shared_size_bytes = shared_bytes
        with _LAUNCH:
            if parameters is not None:
                pointer = self.raw.get_global("PARAM")
                target = self.cupy.ndarray(parameters.shape, self.cupy.float64, pointer)
                target.set(parameters, stream=self.cupy.cuda.get_current_stream())
            self.kernels[name]((blocks,), (threads,), arguments, shared_mem=shared_bytes)
