"""EM on a GPU: where blocks of rows live, and the pass that runs there.

:class:`DeviceExecutor` places blocks on a device, or streams them through it where they do not
fit; :func:`device_pass` runs the pass of :mod:`mixexperts.kernels.array_api`, or the CUDA kernels
of :mod:`mixexperts.kernels.cuda` where they serve. What a device has to offer is a
:class:`Device`; the library has one for CuPy.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mixexperts._batch import Array, Batch, Stats, Theta, dense, tree_sum
from mixexperts.em.model import Model
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.kernels import array_api, cuda
from mixexperts.kernels.array_api import GATES, Rows

#: Bytes of the pieces that blocks are cut into. Sums go piece by piece, whether the pieces stay
#: on the device or come and go.
PIECE_BYTES = 1 << 29
# Pieces' worth of memory that a pass may need besides the data, and the share of the free memory
# that is counted on.
_SCRATCH_PIECES = 4
_USABLE = 0.9


class Slot(Protocol):
    """Room for one piece on the device, filled through page-locked memory."""

    def load(self, arrays: Sequence[Array]) -> list[Any]:
        """Begin to copy float64 arrays; waits until the slot's last piece is done with."""

    def ready(self) -> None:
        """Let work given from now on wait for the copy."""

    def done(self) -> None:
        """The next copy into this slot shall wait for the work given so far."""


class Device(Protocol):
    """What the executor and the pass need of a device."""

    #: Namespace with the functions of the array API standard.
    xp: Any
    #: Compute capability times ten, as 90; 0 if there are no CUDA kernels.
    capability: int
    #: Number of multiprocessors.
    processors: int

    def place(self, values: Array) -> Any:
        """A copy on the device."""

    def to_host(self, values: Any) -> Array:
        """A copy in ordinary memory, once all work that it depends on is done."""

    def free_bytes(self) -> int:
        """Memory that can still be had."""

    def slot(self, n_numbers: int) -> Slot:
        """Room for that many float64 numbers."""

    def module(self, plan: cuda.Plan) -> cuda.Module:
        """The kernels of a plan, compiled."""


@dataclass(frozen=True)
class Placed(Batch):
    """A block of rows in ordinary memory together with its arrays on a device.

    Attributes
    ----------
    device : Device
    total : float
        Sum of the weights.
    rows : Rows or None
        The arrays on the device; None while they are not there.
    """

    device: Any = None
    total: float = 0.0
    rows: Any = None


@dataclass(frozen=True)
class Pending:
    """Sums of a block that are still on the device, and how they become statistics."""

    sums: Mapping[str, Any]
    finish: Callable[[Mapping[str, Any]], Stats]


# --- placement ---------------------------------------------------------------------------------


class DeviceExecutor:
    """Keeps blocks on a device, or streams them through it where they do not fit.

    Blocks are cut into pieces of :data:`PIECE_BYTES`. If all pieces fit, they are copied once
    and stay; else two slots take turns, and the copy of a piece overlaps the work on the one
    before. The pieces, and the order in which they are added, are the same either way (unless
    the device has less than 4.8 GB to spare, where pieces are smaller).

    Parameters
    ----------
    device : Device or None
        None takes CuPy's current device.
    """

    def __init__(self, device: Device | None = None) -> None:
        if device is None:
            from mixexperts.em import cupy_device

            device = cupy_device.CupyDevice()
        self.device = device
        self._blocks: tuple[Batch, ...] = ()
        self._pieces: tuple[Placed, ...] = ()
        self._slots: list[Slot] = []

    def scatter(self, blocks: Sequence[Batch]) -> tuple[Placed, ...]:
        """Place the blocks; those that were placed last are not copied again."""
        known = self._blocks
        if known and len(known) == len(blocks) and all(map(operator.is_, known, blocks)):
            return self._pieces
        self.close()
        free = int(_USABLE * self.device.free_bytes())
        limit = min(PIECE_BYTES, free // (2 * _SCRATCH_PIECES))
        pieces = [self._wrapped(piece) for block in blocks for piece in _cut(block, limit)]
        sizes = [8 * _numbers(piece) for piece in pieces]
        if sum(sizes) + _SCRATCH_PIECES * max(sizes, default=0) <= free:
            place = self.device.place
            pieces = [_with_rows(piece, list(map(place, _arrays(piece)))) for piece in pieces]
        self._blocks, self._pieces = tuple(blocks), tuple(pieces)
        return self._pieces

    def _wrapped(self, batch: Batch) -> Placed:
        fields = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
        return Placed(**fields, device=self.device, total=float(batch.weight.sum()))

    def map_reduce(self, function: Callable[[Batch], Stats], handle: Sequence[Placed]) -> Stats:
        """Apply ``function`` to every piece and add the results in a fixed tree order.

        The work is given to the device piece after piece; only the sums are waited for.
        """
        streamed = any(piece.rows is None for piece in handle)
        results: list[Any] = []
        for piece in self._stream(handle) if streamed else handle:
            results.append(function(piece))
            if not isinstance(results[0], Pending):
                break
        if not (results and isinstance(results[0], Pending)):
            # No pass of this device: it looks at the rows in ordinary memory.
            return tree_sum([*results, *map(function, handle[len(results) :])])
        sums = tree_sum([part.sums for part in results])
        to_host = self.device.to_host
        return results[0].finish(
            {
                name: value if isinstance(value, float) else to_host(value)
                for name, value in sums.items()
            }
        )

    def _stream(self, pieces: Sequence[Placed]) -> Iterator[Placed]:
        if not self._slots:
            room = max(map(_numbers, pieces))
            self._slots = [self.device.slot(room) for _ in range(2)]
        arrays = self._slots[0].load(_arrays(pieces[0]))
        for i, piece in enumerate(pieces):
            slot = self._slots[i % 2]
            slot.ready()
            try:
                yield _with_rows(piece, arrays)
            finally:
                slot.done()
            if i + 1 < len(pieces):
                # Read here while the device works on what the caller has just started.
                arrays = self._slots[(i + 1) % 2].load(_arrays(pieces[i + 1]))

    def close(self) -> None:
        """Forget what was placed; the device gets its memory back."""
        self._blocks, self._pieces, self._slots = (), (), []


def _cut(block: Batch, limit: int) -> tuple[Batch, ...]:
    """The block in pieces of about ``limit`` bytes."""
    per_row = 8 * _numbers(block) / max(block.n_rows, 1)
    return block.split(max(1, int(limit / max(per_row, 1.0))))


def _arrays(batch: Batch) -> list[Array]:
    """The floats of a block in the order that :func:`_with_rows` takes them."""
    gate = None if batch.same_design else dense(batch.Z)
    parts = [batch.y, batch.X, gate, batch.weight, batch.offset, batch.log_prior]
    return [np.ascontiguousarray(part, dtype=np.float64) for part in parts if part is not None]


def _numbers(batch: Batch) -> int:
    """How many floats a block has; the designs need not be there as arrays."""
    per_row = batch.designs["mean"].shape[1] + batch.y.ndim
    per_row += 0 if batch.offset is None else 1
    per_unit = 1 + (0 if batch.same_design else batch.Z.shape[1])
    per_unit += 0 if batch.log_prior is None else batch.log_prior.shape[1]
    return int(batch.n_rows * per_row + batch.n_units * per_unit)


def _with_rows(piece: Placed, arrays: Sequence[Any]) -> Placed:
    """The piece with its arrays on the device."""
    device, rest = piece.device, iter(arrays)
    y, X = next(rest), next(rest)
    Z = X if piece.same_design else next(rest)
    weight = next(rest)
    offset = None if piece.offset is None else next(rest)
    log_prior = None if piece.log_prior is None else next(rest)
    unit: Any = None
    members: tuple[tuple[Any, Any], ...] = ()
    if piece.unit is not None:
        unit = device.place(piece.unit.astype(np.int64))
        members = tuple(
            (device.place(first), device.place(present))
            for first, present in _members(piece.unit, piece.n_units)
        )
    rows = Rows(device.xp, y, X, Z, weight, offset, log_prior, unit, members)
    return dataclasses.replace(piece, rows=rows)


def _members(unit: Array, n_units: int) -> Iterator[tuple[Array, Array]]:
    """First, second, ... row of each unit (u,), and whether there is one (u, 1)."""
    count = np.bincount(unit, minlength=n_units)
    first = np.cumsum(count) - count
    for position in range(int(count.max(initial=0))):
        present = count > position
        yield np.where(present, first + position, 0).astype(np.int64), present[:, None]


# --- the pass ----------------------------------------------------------------------------------


def check_served(model: Model) -> None:
    """Refuse a model whose gate or expert has no part in the pass.

    Raises
    ------
    UnsupportedCombinationError
    """
    for room, known in ((model.gate, GATES), (model.expert, array_api.FAMILIES)):
        if room.name not in known or room.fused_code is None:
            what = "gate" if room is model.gate else "expert"
            raise UnsupportedCombinationError(
                f"backend='cupy' has no part for the {what} {room.name!r}; it serves "
                + ", ".join(map(repr, known))
                + " with their default settings. Use backend='auto'"
            )


def is_served(model: Model) -> bool:
    """Whether gate and expert have parts in the pass."""
    served = model.gate.name in GATES and model.expert.name in array_api.FAMILIES
    return served and model.gate.fused_code is not None and model.expert.fused_code is not None


def device_pass(model: Model, theta: Theta, batch: Batch) -> Any:
    """The same statistics as ``em_pass``, computed on a device.

    Of a :class:`Placed` block they are left there as :class:`Pending`, for the executor to add;
    any other block is copied to CuPy's current device, and the statistics are waited for.
    """
    if isinstance(batch, Placed) and batch.rows is not None:
        return _start(model, theta, batch)
    executor = DeviceExecutor()
    work = functools.partial(device_pass, model, theta)
    return executor.map_reduce(work, executor.scatter([batch]))


def _start(model: Model, theta: Theta, batch: Placed) -> Pending:
    device, rows = batch.device, batch.rows
    weight = {"weight": batch.total}
    plan = _plan(model, theta, batch)
    if plan is None:
        scale = theta.expert.get("scale")
        sums = array_api.block_sums(
            rows,
            _gate_part(model, theta, device),
            model.expert.name,
            device.place(theta.expert["coef"]),
            None if scale is None else device.place(scale),
        )
        return Pending({**weight, **sums}, lambda found: _stats(model, theta, found))
    rows.log_constant(array_api.FAMILIES[plan.family], plan.family)
    coef, gate = theta.expert["coef"], _gate_values(model, theta)
    parameters = plan.parameters(coef, theta.expert.get("scale"), gate)
    if plan.n_columns:
        module = device.module(plan)
        packed = cuda.run_fused(module, plan, rows, parameters, device.processors)
        return Pending(
            {**weight, "packed": packed},
            lambda found: _stats(model, theta, {**found, **plan.unpack(found["packed"])}),
        )
    sums = _elementwise(plan, device, rows, parameters, coef, gate)
    return Pending(
        {**weight, **sums},
        lambda found: _stats(model, theta, {**found, **plan.unpack_sums(found["packed"])}),
    )


def _elementwise(
    plan: cuda.Plan, device: Device, rows: Rows, parameters: Array, coef: Array, gate: Array
) -> dict[str, Any]:
    """Predictors and products by the matrix library, what lies between by a kernel."""
    k = plan.n_experts
    eta = rows.X @ device.place(coef).T
    eta = eta if rows.offset is None else eta + rows.offset[:, None]
    score = rows.Z @ device.place(gate[: plan.n_free]).T if plan.n_free else None
    packed, grams, crosses = cuda.run_elementwise(
        device.module(plan), plan, rows, parameters, device.processors, eta, score
    )
    own = None
    if plan.n_free and rows.Z is not rows.X:
        own = grams[:, k:], crosses[:, k:]
        grams, crosses = grams[:, :k], crosses[:, :k]
    return {"packed": packed, **array_api.products(rows, grams, crosses, k, own)}


def _plan(model: Model, theta: Theta, batch: Placed) -> cuda.Plan | None:
    """What the CUDA kernels are compiled for; None where they do not serve."""
    n_experts, p = theta.expert["coef"].shape
    family, rows = model.expert.name, batch.rows
    plain = batch.unit is None and batch.log_prior is None
    softmax = model.gate.name == "softmax"
    if not (
        batch.device.capability
        and plain
        and n_experts <= cuda.MAX_ELEMENTWISE
        and (softmax or model.gate.name == "constant")
    ):
        return None
    fused = (
        batch.device.capability >= cuda.CAPABILITY
        and 0 < p <= cuda.MAX_COLUMNS
        and n_experts <= cuda.MAX_EXPERTS
        and (not softmax or n_experts == 1 or rows.Z is rows.X)
    )
    columns = 1 if batch.y.ndim == 1 else 2
    return cuda.Plan(
        family,
        softmax,
        n_experts,
        p if fused else 0,
        columns,
        batch.offset is not None,
        family == "poisson" or (family == "binomial" and columns == 2),
    )


def _gate_values(model: Model, theta: Theta) -> Array:
    gate = theta.gate
    values: Array = gate["coef"] if model.gate.name == "softmax" else gate["log_weight"]
    return values


def _gate_part(model: Model, theta: Theta, device: Device) -> array_api.GatePart:
    name = model.gate.name
    if name != "gaussian":
        part: array_api.GatePart = GATES[name](device.place(_gate_values(model, theta)))
        return part
    log_weight, mean, whitening = (theta.gate[key] for key in ("log_weight", "mean", "whitening"))
    if whitening.ndim == 2:  # diagonals alone
        whitening = whitening[:, :, None] * np.eye(whitening.shape[1])
    log_det = np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(axis=1)
    constant = log_weight + log_det - 0.5 * mean.shape[1] * np.log(2.0 * np.pi)
    return array_api.GaussianGate(
        *(device.place(np.ascontiguousarray(values)) for values in (constant, mean, whitening))
    )


# --- statistics --------------------------------------------------------------------------------


def _stats(model: Model, theta: Theta, sums: Mapping[str, Any]) -> Stats:
    """The statistics of ``em_pass`` from the sums over all rows, in ordinary memory."""
    expert = {name: sums[name] for name in ("mass", "gram", "cross", "fitted")}
    if model.expert.name == "gaussian":
        expert["rss"] = sums["extra"]
    units = {"mass": sums["unit_mass"]} if "unit_mass" in sums else {}
    return {
        **units,
        "log_likelihood": float(sums["log_likelihood"]),
        "weight": sums["weight"],
        **{f"gate.{name}": value for name, value in _gate_stats(model, theta, sums).items()},
        **{f"expert.{name}": value for name, value in expert.items()},
    }


def _gate_stats(model: Model, theta: Theta, sums: Mapping[str, Any]) -> dict[str, Any]:
    name = model.gate.name
    if name == "constant":
        return {"mass": sums["gate_mass"]}
    if name == "softmax":
        n_experts, q = theta.gate["coef"].shape
        free = n_experts - 1
        information = np.zeros((free, free, q, q))
        if free:
            a, b = np.tril_indices(free)
            information[a, b] = information[b, a] = sums["information"]
        return {"gradient": sums.get("gradient", np.zeros((0, q))), "information": information}
    second = sums["second"]
    covariance = getattr(model.gate, "covariance", "full")
    if covariance in ("diag", "spherical"):
        second = np.diagonal(second, axis1=1, axis2=2).copy()
        second = second.sum(axis=1) if covariance == "spherical" else second
    return {"mass": sums["gate_mass"], "first": sums["first"], "second": second}
