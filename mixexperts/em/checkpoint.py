"""Checkpoints of a fit with many starts: what is done, and where the running start stands."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixexperts._archive import SCHEMA, read_archive, saveable, write_archive
from mixexperts._batch import Batch, Theta, dense
from mixexperts.em.accelerate import Memory
from mixexperts.em.engine import EMResult

_SECONDS_BETWEEN_WRITES = 5.0


def fingerprint(blocks: Sequence[Batch], settings: str) -> str:
    """Digest of the data and of the settings that decide what a start leads to."""
    digest = hashlib.sha256(f"{SCHEMA} {settings}".encode())
    for block in blocks:
        arrays = [block.y, *map(dense, block.designs.values()), dense(block.Z), block.weight]
        arrays += [a for a in (block.unit, block.offset, block.log_prior) if a is not None]
        for array in arrays:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def stored_seed(path: str | os.PathLike[str] | None) -> int | None:
    """Seed in a checkpoint file; None if there is no file yet."""
    if path is None or not Path(path).exists():
        return None
    return int(read_archive(path, "checkpoint")[1]["seed"])


@saveable("running")
@dataclass(frozen=True)
class Running:
    """Where a start stands: parameters, passes, objectives so far, memories of its helpers."""

    theta: Theta
    n_iter: int
    history: list[float]
    memory: Memory
    newton: list[float]


class Checkpoint:
    """A file that holds finished starts and the parameters of the running one.

    Parameters
    ----------
    path : path-like
        The file. If it is there already, its starts are taken over.
    key : str
        Fingerprint of data and settings.
    seed : int
        Seed of the starts; one found in the file takes its place.

    Raises
    ------
    ValueError
        If the file belongs to other data or settings.
    """

    def __init__(self, path: str | os.PathLike[str], key: str, seed: int) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint={str(path)!r}: there is no folder {self.path.parent}")
        self.key = key
        self.seed = seed
        self.done: dict[int, EMResult] = {}
        self.running: dict[int, Running] = {}
        #: Results on the sample, where starts are screened on one.
        self.sampled: dict[int, EMResult] = {}
        self._written = time.monotonic()
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        _, tree = read_archive(self.path, "checkpoint")
        if tree["key"] != self.key:
            raise ValueError(
                f"checkpoint={str(self.path)!r} was written for other data or settings; "
                "give another file name, or remove the file to start afresh"
            )
        self.seed = tree["seed"]
        self.done = tree["done"]
        self.running = tree["running"]
        self.sampled = tree["sampled"]

    def finish(self, index: int, result: EMResult) -> None:
        """Note a finished start."""
        self.done[index] = result
        self.running.pop(index, None)
        self.write()

    def advance(self, index: int, running: Running) -> None:
        """Note where a running start stands; written at most every few seconds."""
        self.running = {index: running}
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write the file."""
        tree: dict[str, Any] = {
            "key": self.key,
            "seed": self.seed,
            "done": self.done,
            "running": self.running,
            "sampled": self.sampled,
        }
        write_archive(self.path, "checkpoint", tree)
        self._written = time.monotonic()
