"""Reading ahead on a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# How long an interrupted pass waits for a reader that is itself waiting, as for a network.
_PATIENCE = 2.0


class Prefetch(Generic[T]):
    """An iterator whose items are made ahead on a thread; a context that ends the thread.

    What the reader raises is raised where the items are used.

    Parameters
    ----------
    make : callable
        Gives the iterator that the thread runs through.
    depth : int, default=2
        Items that may wait.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int = 2) -> None:
        self._make = make
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="mixexperts-reader", daemon=True)

    def _read(self) -> None:
        try:
            items = self._make()
            for item in items:
                if not self._put("item", item):
                    break
            if hasattr(items, "close"):
                items.close()  # files are closed by the thread that opened them
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: Any) -> bool:
        if not self._stop.is_set():
            self._queue.put((kind, value))  # `close` makes room for it
        return not self._stop.is_set()

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[T]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Tell the thread to end, and wait for it."""
        self._stop.set()
        while True:  # room for whatever it is about to put
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._thread.join(_PATIENCE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
