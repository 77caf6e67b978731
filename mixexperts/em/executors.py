"""Where blocks of rows live and how their statistics are summed, on one machine."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mixexperts._batch import Batch, Stats, tree_sum
from mixexperts.em.streaming import Stream, StreamExecutor
from mixexperts.errors import UnsupportedCombinationError

if TYPE_CHECKING:
    from mixexperts.em.device import DeviceExecutor


class _OneBlasThread:
    """Limits BLAS to one thread while somebody needs it.

    The limit holds for the whole process: fits in several threads share it, the first sets it
    and the last lifts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._limit = _thread_pools().limit(limits=1, user_api="blas")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._limit.restore_original_limits()


one_blas_thread = _OneBlasThread()


@functools.cache
def _thread_pools() -> Any:
    """The thread pools of this process; finding them takes milliseconds, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class SerialExecutor:
    """Runs a function over blocks one after the other, in this process."""

    def scatter(self, blocks: Iterable[Batch]) -> tuple[Batch, ...]:
        """Place the blocks where the work happens; here they stay where they are."""
        return tuple(blocks)

    def map_reduce(self, function: Callable[[Batch], Stats], handle: Sequence[Batch]) -> Stats:
        """Apply ``function`` to every block and add the results in a fixed tree order."""
        return tree_sum([function(block) for block in handle])

    def close(self) -> None:
        """Nothing to release."""


class ThreadExecutor:
    """Runs a function over blocks on threads; for kernels that release the interpreter lock.

    The blocks, and the order in which their statistics are added, do not depend on the number
    of threads, and so neither does the result.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="mixexperts")

    def scatter(self, blocks: Iterable[Batch]) -> tuple[Batch, ...]:
        """Place the blocks where the work happens; here they stay where they are."""
        return tuple(blocks)

    def map_reduce(self, function: Callable[[Batch], Stats], handle: Sequence[Batch]) -> Stats:
        """Apply ``function`` to every block and add the results in a fixed tree order."""
        return tree_sum(list(self._pool.map(function, handle)))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def local_executor(n_blocks: int) -> SerialExecutor | ThreadExecutor:
    """Threads for several blocks, if there may be more than one."""
    n_threads = 1 if n_blocks == 1 else min(n_blocks, allowed_threads())
    return ThreadExecutor(n_threads) if n_threads > 1 else SerialExecutor()


def allowed_threads() -> int:
    """Threads that the machine and ``OMP_NUM_THREADS`` allow.

    joblib sets that variable in its workers, so that parallel starts do not multiply threads.
    """
    from joblib import cpu_count

    limit = os.environ.get("OMP_NUM_THREADS", "")
    allowed = int(limit) if limit.isdigit() and int(limit) > 0 else cpu_count()
    return int(min(cpu_count(), allowed))


def executor_for(
    backend: str, blocks: Sequence[Batch] | Stream, n_threads: int | None
) -> SerialExecutor | ThreadExecutor | StreamExecutor | DeviceExecutor:
    """Where a backend works: on the GPU, or on at most ``n_threads`` threads.

    Raises
    ------
    UnsupportedCombinationError
        If the GPU is asked to read a stream.
    """
    if isinstance(blocks, Stream):
        if backend == "cupy":
            raise UnsupportedCombinationError(
                "backend='cupy' takes arrays in memory, which it streams to the GPU by itself; "
                "leave out chunk_rows, or use backend='auto' with a source"
            )
        return StreamExecutor(n_threads or allowed_threads())
    if backend == "cupy":
        from mixexperts.em.device import DeviceExecutor

        return DeviceExecutor()
    return local_executor(min(len(blocks), n_threads or len(blocks)))


def total_weight(blocks: Sequence[Batch] | Stream) -> float:
    """Sum of the weights of all rows."""
    if isinstance(blocks, Stream):
        return blocks.weight
    return sum(float(block.weight.sum()) for block in blocks)
