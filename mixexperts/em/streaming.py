"""Passes over rows that are read anew each time, and never all in memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mixexperts._batch import Batch, Stats, TreeSum, add_stats
from mixexperts.sources.base import Block
from mixexperts.sources.prefetch import Prefetch

# Chunks that each thread may have in hand or waiting.
_AHEAD = 2


@dataclass(frozen=True)
class Stream:
    """Rows as the engine sees them, read anew in every pass; stands for a sequence of batches.

    Attributes
    ----------
    read : callable
        Begins a pass: gives the chunks, the same in every pass.
    prepare : callable
        Makes a chunk a :class:`Batch`.
    n_rows : int
    weight : float
        Sum of the weights.
    show : bool
        Whether passes show a progress bar; not in other processes.
    log_jacobian : float
        What the bar adds to the log-likelihood.
    """

    read: Callable[[], Iterator[Block]]
    prepare: Callable[[Block], Batch]
    n_rows: int
    weight: float
    show: bool = False
    log_jacobian: float = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "show": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class StreamExecutor:
    """Evaluates the chunks of a :class:`Stream` on threads while another one reads ahead.

    The statistics are added in the order of the chunks, so that the result does not depend on
    the number of threads; only those of about log2 of the chunks are held.

    Parameters
    ----------
    n_threads : int
        Threads that evaluate.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool: ThreadPoolExecutor | None = None
        if n_threads > 1:
            self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="mixexperts")
        self._bar: PassBar | None = None

    def scatter(self, stream: Stream) -> Stream:
        """Nothing is placed: the rows are read when they are needed. A run begins."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if stream.show:
            self._bar = PassBar(stream.n_rows, stream.log_jacobian)
        return stream

    def map_reduce(self, function: Callable[[Batch], Stats], handle: Stream) -> Stats:
        """Apply ``function`` to every chunk and add the results in a fixed tree order."""

        def work(chunk: Block) -> Stats:
            return function(handle.prepare(chunk))

        total = TreeSum(add_stats)
        waiting: deque[Future[Stats]] = deque()
        if self._bar is not None:
            self._bar.begin()
        with Prefetch(handle.read, _AHEAD) as chunks:
            try:
                for chunk in chunks:
                    if self._pool is None:
                        total.add(work(chunk))
                    else:
                        waiting.append(self._pool.submit(work, chunk))
                        if len(waiting) >= _AHEAD * self.n_threads:
                            total.add(waiting.popleft().result())
                    if self._bar is not None:
                        self._bar.advance(chunk.n_rows)
                for future in waiting:
                    total.add(future.result())
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise
        stats = total.total()
        if self._bar is not None:
            self._bar.end(stats.get("log_likelihood"))
        return stats

    def close(self) -> None:
        """End the threads and the bar."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._bar is not None:
            self._bar.close()


class PassBar:
    """Progress of the passes over a stream: which pass, rows per second, log-likelihood.

    Parameters
    ----------
    n_rows : int or None
        Rows of a pass; None if that is not known.
    log_jacobian : float, default=0
        Added to the log-likelihood.
    label : str, default="pass"
        Name of a pass.
    """

    def __init__(self, n_rows: int | None, log_jacobian: float = 0.0, label: str = "pass") -> None:
        from tqdm.auto import tqdm

        self._label = label
        self._log_jacobian = log_jacobian
        self._passes = 0
        self._rows = 0
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._highest = -math.inf
        self._value = ""
        # At most 80 columns in all.
        bar = "|{bar:10}| {percentage:3.0f}% " if n_rows else ""
        self._bar = tqdm(total=n_rows, leave=False, bar_format="  " + bar + "{desc}")

    def begin(self) -> None:
        """A pass begins."""
        self._passes += 1
        self._started = time.perf_counter()
        self._bar.n = self._bar.last_print_n = 0

    def advance(self, n_rows: int) -> None:
        """So many rows more were read."""
        self._rows += n_rows
        seconds = self._seconds + time.perf_counter() - self._started
        rate = _short(self._rows / max(seconds, 1e-9))
        text = f"{self._label} {self._passes}, {rate} rows/s{self._value}"
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(n_rows)

    def end(self, log_likelihood: float | None) -> None:
        """The pass ended at so large a log-likelihood; the highest so far is shown."""
        self._seconds += time.perf_counter() - self._started
        if log_likelihood is not None and log_likelihood > self._highest:
            self._highest = log_likelihood
            self._value = f", log-likelihood {log_likelihood + self._log_jacobian:.2f}"

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _short(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.1f}{unit}"
    return f"{value:.0f}"
