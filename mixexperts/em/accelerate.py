"""Anderson acceleration of the EM map, to be used behind a safeguard."""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeAlias

import numpy as np

from mixexperts._batch import Array

_CONDITION = 1e-10


class Accelerator(Protocol):
    """Proposes the next point from a point and its image under the EM map; serves one run."""

    def propose(self, point: Array, image: Array) -> Array | None:
        """Next point, or None where plain EM should go on."""

    def reset(self) -> None:
        """Forget the past, after a proposal was refused."""


Memory: TypeAlias = tuple[tuple[Array, Array] | None, list[Array], list[Array]]


class Anderson:
    """Anderson acceleration (type II) with a bounded memory.

    The proposal is the image of the EM map minus the combination of past changes that
    best cancels the current residual in least squares.

    Parameters
    ----------
    memory : int, default=10
        Number of past passes kept.

    References
    ----------
    Walker, H. F. and Ni, P. (2011). Anderson acceleration for fixed-point iterations. SIAM
    Journal on Numerical Analysis 49, 1715-1735.
    Henderson, N. C. and Varadhan, R. (2019). Damped Anderson acceleration with restarts and
    monotonicity control for accelerating EM and EM-like algorithms. Journal of Computational
    and Graphical Statistics 28, 834-846.
    """

    def __init__(self, memory: int = 10) -> None:
        self.memory = memory
        self._last: tuple[Array, Array] | None = None
        self._residual_change: deque[Array] = deque(maxlen=memory)
        self._image_change: deque[Array] = deque(maxlen=memory)

    def propose(self, point: Array, image: Array) -> Array | None:
        residual = image - point
        if self._last is not None:
            last_image, last_residual = self._last
            self._residual_change.append(residual - last_residual)
            self._image_change.append(image - last_image)
        self._last = (image, residual)
        if not self._residual_change:
            return None
        changes = np.stack(self._residual_change, axis=1)
        mix, *_ = np.linalg.lstsq(changes, residual, rcond=_CONDITION)
        proposal: Array = image - np.stack(self._image_change, axis=1) @ mix
        return proposal if np.isfinite(proposal).all() else None

    def state(self) -> Memory:
        """The memory, for a checkpoint."""
        return self._last, list(self._residual_change), list(self._image_change)

    def restore(self, memory: Memory) -> None:
        """Take a memory over."""
        self._last = memory[0]
        self._residual_change.extend(memory[1])
        self._image_change.extend(memory[2])

    def reset(self) -> None:
        self._last = None
        self._residual_change.clear()
        self._image_change.clear()
