"""The pass of EM in CUDA: one kernel that reads each row once, for designs of few columns.

Two kernels share the arithmetic of a row, plain C that a C++ compiler takes as well:

``fused``
    Up to 16 columns and 4 experts, the gate constant or on the experts' design. A block of 128
    threads brings 128 rows into shared memory (``cp.async``, two buffers), each thread does the
    E-step of one row, and the warps then add up the Grams of all weights on the double precision
    tensor cores. With w (8 x 4) the weights of four rows and x (4 x 8) their columns,
    ``mma.m8n8k4`` of (w times column a) and x is row a of eight Grams at once. Nothing of size n
    is written.
``elementwise``
    Any number of columns: predictors come in, weights of Grams and cross products go out; the
    products are left to the matrix library.

Sums over threads, warps and blocks are in a fixed order without atomic operations: the same
device gives the same bits.

A pass over n rows of p columns has to read ``8 n (p + 2)`` bytes. Its arithmetic, for p = 11 and
three experts, is about 1000 multiply-adds per row on the tensor cores (of which half are padding
and the upper triangles) and some 400 on the ordinary units, most of them in 6 exponentials and a
logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mixexperts._batch import Array
from mixexperts.kernels.array_api import MAX_ETA, Rows
from mixexperts.kernels.cuda_source import SOURCE

#: Codes of the families in the source.
FAMILIES = {"gaussian": 0, "poisson": 1, "binomial": 2}
#: Threads of a block, and rows of a tile.
THREADS = 128
#: Most columns and experts of the fused kernel; least compute capability.
MAX_COLUMNS, MAX_EXPERTS, CAPABILITY = 16, 4, 80
#: Most experts of the elementwise kernel, whose rows stay in registers.
MAX_ELEMENTWISE = 8
_REDUCE_THREADS, _REDUCE_COLUMNS = 256, 32


class Module(Protocol):
    """The compiled source of a plan on a device."""

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
        """Write ``PARAM``, then start a kernel on device arrays and NumPy scalars.

        Both are done in the order of the work given to the device; nothing is waited for.
        """


@dataclass(frozen=True)
class Plan:
    """What a kernel is compiled for.

    Attributes
    ----------
    family : str
        Name in :data:`FAMILIES`.
    softmax : bool
        Whether the gate is a softmax; else constant.
    n_experts : int
    n_columns : int
        Columns of the design that the fused kernel reads; 0 for the elementwise kernel alone.
    response_columns : int
        1, or 2 for successes and failures.
    offset, constant : bool
        Whether rows have an offset, and a part of the log density that depends on y alone.
    """

    family: str
    softmax: bool
    n_experts: int
    n_columns: int
    response_columns: int
    offset: bool
    constant: bool

    @property
    def n_free(self) -> int:
        """Experts with gate coefficients."""
        return self.n_experts - 1 if self.softmax else 0

    @property
    def n_grams(self) -> int:
        """Weights of Gram matrices: the experts', then the gate's blocks a >= b."""
        return self.n_experts + self.n_free * (self.n_free + 1) // 2

    @property
    def n_crosses(self) -> int:
        """Weights of cross products: the experts', then the gate's."""
        return self.n_experts + self.n_free

    @property
    def n_sums(self) -> int:
        """Sums without a design: log-likelihood, masses, extras, fitted."""
        return 1 + 3 * self.n_experts

    @property
    def _groups(self) -> int:
        return -(-self.n_grams // 8)

    @property
    def _blocks(self) -> int:
        p = self.n_columns
        return p if p <= 8 else 2 * p - 8

    @property
    def n_out(self) -> int:
        """Numbers that the fused kernel leaves."""
        column_blocks = -(-self.n_columns // 8)
        return (self._groups * self._blocks + column_blocks) * 64 + self.n_sums

    @property
    def resident(self) -> int:
        """Blocks of the fused kernel that a multiprocessor holds: its registers allow no more."""
        return 3 if self.n_columns <= 12 else 2

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of the fused kernel."""
        sides = self.response_columns + 1 + self.offset + self.constant
        working = 2 * THREADS * (self.n_columns | 1) + 2 * sides * THREADS
        working += 8 * (self._groups + 1) * (THREADS + 4)
        return 8 * max(working, self.n_out, self.n_sums * THREADS)

    def source(self) -> str:
        """The source for this plan."""
        values = {
            "K": self.n_experts, "P": self.n_columns, "FAMILY": FAMILIES[self.family],
            "SOFTMAX": int(self.softmax), "YC": self.response_columns,
            "OFFSET": int(self.offset), "CONSTANT": int(self.constant), "MAX_ETA": MAX_ETA,
            "RESIDENT": self.resident,
        }  # fmt: skip
        return "".join(f"#define {name} {value}\n" for name, value in values.items()) + SOURCE

    def parameters(self, coef: Array, aux: Array | None, gate: Array) -> Array:
        """The vector ``PARAM``: gate coefficients (K, p), or log weights (K,) if constant."""
        scale = np.ones(self.n_experts) if aux is None else aux
        log_weight = np.zeros(self.n_experts) if self.softmax else gate
        parts = [1.0 / scale, -np.log(scale) - 0.5 * np.log(2.0 * np.pi), log_weight]
        if self.n_columns:
            parts += [coef.ravel(), gate[: self.n_free].ravel() if self.softmax else gate[:0]]
        return np.concatenate(parts)

    def unpack_sums(self, values: Array) -> dict[str, Any]:
        """Sums without a design by the names of ``block_sums``."""
        mass, extra, fitted = values[1:].reshape(3, self.n_experts)
        sums = {"log_likelihood": values[0], "mass": mass, "extra": extra, "fitted": fitted}
        return sums if self.softmax else {**sums, "gate_mass": mass}

    def unpack(self, out: Array) -> dict[str, Any]:
        """What the fused kernel left, by the names of ``block_sums``."""
        p, k = self.n_columns, self.n_experts
        tiles = out[: -self.n_sums].reshape(-1, 8, 8)
        grams = np.zeros((8 * self._groups, p, p))
        for group in range(self._groups):
            mine = tiles[group * self._blocks :][: self._blocks]
            for a in range(p):
                for s in range(a // 8 + 1):
                    block = mine[p + a - 8 if s else a]
                    columns = slice(8 * s, min(8 * s + 8, a + 1))
                    lower = block[:, : columns.stop - columns.start]
                    grams[8 * group : 8 * group + 8, a, columns] = lower
                    grams[8 * group : 8 * group + 8, columns, a] = lower
        cross = np.concatenate(list(tiles[self._groups * self._blocks :]), axis=1)[:, :p]
        sums = self.unpack_sums(out[-self.n_sums :])
        sums |= {"gram": grams[:k], "cross": cross[:k]}
        if self.n_free:
            sums["information"] = grams[k : self.n_grams]
            sums["gradient"] = cross[k : self.n_crosses]
        return sums


def run_fused(module: Module, plan: Plan, rows: Rows, parameters: Array, processors: int) -> Any:
    """Start the fused kernel; its result (n_out,) stays on the device and adds over blocks."""
    xp, n = rows.xp, rows.y.shape[0]
    blocks = min(-(-n // THREADS), plan.resident * processors)
    partial = xp.empty((blocks, plan.n_out), dtype=xp.float64)
    # What a plan does not have is not read: any array stands for it.
    constant = rows.constants[plan.family] if plan.constant else rows.weight
    offset = rows.offset if plan.offset else rows.weight
    module.launch(
        "fused",
        blocks,
        THREADS,
        (np.int64(n), rows.X, rows.y, rows.weight, offset, constant, partial),
        shared_bytes=plan.shared_bytes,
        parameters=parameters,
    )
    return _reduce(module, xp, partial)


def run_elementwise(
    module: Module,
    plan: Plan,
    rows: Rows,
    parameters: Array,
    processors: int,
    eta: Any,
    score: Any,
) -> tuple[Any, Any, Any]:
    """Sums (n_sums,), weights of Grams (n, n_grams) and of cross products (n, n_crosses).

    ``eta`` (n, K) holds the predictors of the experts, offsets included, and ``score``
    (n, K - 1) those of a softmax gate (None if there are none).
    """
    xp, n = rows.xp, rows.y.shape[0]
    blocks = min(-(-n // THREADS), 16 * processors)
    grams = xp.empty((n, plan.n_grams), dtype=xp.float64)
    crosses = xp.empty((n, plan.n_crosses), dtype=xp.float64)
    partial = xp.empty((blocks, plan.n_sums), dtype=xp.float64)
    constant = rows.constants[plan.family] if plan.constant else rows.weight
    score = rows.weight if score is None else xp.ascontiguousarray(score)
    module.launch(
        "elementwise",
        blocks,
        THREADS,
        (
            np.int64(n),
            xp.ascontiguousarray(eta),
            score,
            rows.y,
            rows.weight,
            constant,
            grams,
            crosses,
            partial,
        ),
        parameters=parameters,
    )
    return _reduce(module, xp, partial), grams, crosses


def _reduce(module: Module, xp: Any, partial: Any) -> Any:
    n_rows, n_columns = partial.shape
    out = xp.empty((n_columns,), dtype=xp.float64)
    blocks = -(-n_columns // _REDUCE_COLUMNS)
    arguments = (np.int64(n_rows), np.int64(n_columns), partial, out)
    module.launch("reduce", blocks, _REDUCE_THREADS, arguments)
    return out
