"""Where blocks of rows live and how their statistics are summed, on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mixexperts._batch import Batch, Stats, tree_sum

if TYPE_CHECKING:
    from mixexperts.em.device import DeviceExecutor


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
    """Threads for several blocks, if the machine and ``OMP_NUM_THREADS`` allow more than one.

    joblib sets that variable in its workers, so that parallel starts do not multiply threads.
    """
    if n_blocks == 1:
        return SerialExecutor()
    from joblib import cpu_count

    limit = os.environ.get("OMP_NUM_THREADS", "")
    allowed = int(limit) if limit.isdigit() and int(limit) > 0 else cpu_count()
    n_threads = min(n_blocks, cpu_count(), allowed)
    return ThreadExecutor(n_threads) if n_threads > 1 else SerialExecutor()


def choose_executor(
    backend: str, n_blocks: int
) -> SerialExecutor | ThreadExecutor | DeviceExecutor:
    """Where a backend works: on the GPU, or on threads for at most ``n_blocks`` at once."""
    if backend == "cupy":
        from mixexperts.em.device import DeviceExecutor

        return DeviceExecutor()
    return local_executor(n_blocks)
