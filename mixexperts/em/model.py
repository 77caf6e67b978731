"""The model that EM fits, and one pass over a block of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Stats, Theta
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_
from mixexperts.penalties.base import NoPenalty, Penalty

#: From log(gate x expert) (u, K) and the block: responsibilities, and terms of the objective (u,).
EStep: TypeAlias = Callable[[Array, Batch], tuple[Array, Array]]


# Log of the most unseen units for one that was sampled: with less chance a unit is impossible.
_MOST_UNSEEN = 28.0


@saveable("model")
@dataclass(frozen=True)
class Model:
    """A gate, a family of experts, and their penalties.

    Parameters
    ----------
    gate : Gate
        Gives the mixing weights.
    expert : Expert
        Family of the experts.
    gate_penalty, expert_penalty : Penalty, default=NoPenalty()
        Taken off the log-likelihood as a sum over the rows, not as a mean.
    """

    gate: Gate
    expert: Expert
    gate_penalty: Penalty = field(default_factory=NoPenalty)
    expert_penalty: Penalty = field(default_factory=NoPenalty)

    def __post_init__(self) -> None:
        if self.expert.truncates and self.gate.objective == "joint":
            raise UnsupportedCombinationError(
                f"{self.expert.name!r} experts of a population do not go with the gate "
                f"{self.gate.name!r}, which models the features: the window selects these, too. "
                "Use gate='softmax', or of='expert'"
            )

    def rescaled(self, factor: float) -> Model:
        """The same model with its penalties times a factor, such as a share of the weight."""
        return replace(
            self,
            gate_penalty=self.gate_penalty.scaled(factor),
            expert_penalty=self.expert_penalty.scaled(factor),
        )

    def n_params(self, theta: Theta) -> int:
        """Number of free parameters of gate and experts."""
        return self.gate.n_params(theta.gate) + self.expert.n_params(theta.expert)

    def pack(self, theta: Theta) -> Array:
        """All free parameters as one unconstrained vector (P,), the gate's first."""
        return np.concatenate([self.gate.pack(theta.gate), self.expert.pack(theta.expert)])

    def unpack(self, vector: Array, like: Theta) -> Theta:
        """Inverse of :meth:`pack`."""
        cut = self.gate.n_params(like.gate)
        return Theta(
            self.gate.unpack(vector[:cut], like.gate),
            self.expert.unpack(vector[cut:], like.expert),
        )

    def permute(self, theta: Theta, order: Array) -> Theta:
        """The same mixture; expert k is the one that ``order`` (K,) names at k."""
        return Theta(self.gate.permute(theta.gate, order), self.expert.permute(theta.expert, order))

    def at_boundary(self, theta: Theta) -> bool:
        """Whether an expert or its gate has collapsed onto the boundary of the parameters."""
        return bool(
            self.expert.at_boundary(theta.expert).any() or self.gate.at_boundary(theta.gate).any()
        )

    def penalty_value(self, theta: Theta) -> float:
        """Value of both penalties."""
        value = 0.0
        for room, penalty, params in self.penalized_rooms(theta):
            coef = room.penalized_coef(params)
            value += penalty.value(coef, room.penalized(coef.shape[1]))
        return value

    def penalized_rooms(self, theta: Theta) -> list[tuple[Gate | Expert, Penalty, Any]]:
        """Gate and expert with their penalties and parameters, where there is a penalty."""
        rooms: list[tuple[Gate | Expert, Penalty, Any]] = [
            (self.gate, self.gate_penalty, theta.gate),
            (self.expert, self.expert_penalty, theta.expert),
        ]
        return [room for room in rooms if not room[1].is_null and "coef" in room[2]]

    def log_joint(self, theta: Theta, batch: Batch) -> Array:
        """Log of gate weight times expert density of each unit, (u, K)."""
        return self._log_terms(theta, batch, self.gate.log_score(theta.gate, batch))

    def log_conditional(self, theta: Theta, batch: Batch) -> Array:
        """The same given the gate's features, (u, K): their own density is left out.

        Differs from :meth:`log_joint` by a constant in each row, and only for gates whose
        objective is joint.
        """
        return self._log_terms(theta, batch, self.gate.log_prob(theta.gate, batch))

    def _log_terms(self, theta: Theta, batch: Batch, gate: Array) -> Array:
        terms = batch.sum_units(self.expert.log_prob(theta.expert, batch))
        terms += gate
        if batch.log_prior is not None:
            terms += batch.log_prior
        if self.expert.truncates:  # the likelihood is that of the units that were sampled
            terms -= np.logaddexp.reduce(self.log_sampled(theta, batch), axis=1, keepdims=True)
        return terms

    def log_sampled(self, theta: Theta, batch: Batch) -> Array:
        """Log of gate weight times the expert's chance that a unit is sampled, (u, K)."""
        inside = batch.sum_units(self.expert.log_inside(theta.expert, batch))
        log_sampled: Array = inside + self.gate.log_prob(theta.gate, batch)
        return log_sampled

    def map_step(self, theta: Theta, stats: Stats) -> Theta:
        """The M-step: new parameters from the statistics taken at ``theta``.

        With ``em_pass`` the map of Dempster, Laird and Rubin (1977).
        """
        return Theta(
            self.gate.update(theta.gate, part(stats, "gate"), self.gate_penalty),
            self.expert.update(theta.expert, part(stats, "expert"), self.expert_penalty),
        )

    def score(self, theta: Theta, stats: Stats) -> Array:
        """Gradient (P,) of the observed penalised objective with respect to :meth:`pack`.

        By Fisher's identity it is that of the expected complete one at ``theta``, where the
        statistics were taken.
        """
        score = np.concatenate(
            [
                self.gate.score(theta.gate, part(stats, "gate")),
                self.expert.score(theta.expert, part(stats, "expert")),
            ]
        )
        cut = self.gate.n_params(theta.gate)
        for room, penalty, params in self.penalized_rooms(theta):
            coef = room.penalized_coef(params)
            pull = penalty.gradient(coef, room.penalized(coef.shape[1]))
            if room is self.gate:
                score[:cut] -= self.gate.pull(params, pull)
            else:
                pull = self.expert.penalty_score(params, pull)
                score[cut : cut + pull.size] -= pull
        return score


def part(stats: Stats, room: str) -> Stats:
    """The statistics of one room, ``"gate"`` or ``"expert"``, with their own names."""
    prefix = f"{room}."
    return {
        name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)
    }


def em_pass(model: Model, theta: Theta, batch: Batch, e_step: EStep | None = None) -> Stats:
    """Everything an EM iteration needs from one block of rows; the values add over blocks.

    Another ``e_step`` gives other responsibilities, and an ``objective`` beside the
    log-likelihood.
    """
    batch = batch.dense()
    joint = model.log_joint(theta, batch)
    variant: dict[str, float] = {}
    other = None
    if e_step is not None:
        other, terms = e_step(joint.copy(), batch)
        variant = {"objective": float(np.sum(np.where(batch.weight > 0, batch.weight * terms, 0)))}
    resp, log_density = numpy_.e_step(joint)
    resp = resp if other is None else other
    resp *= batch.weight[:, None]
    # A unit of weight zero counts for nothing, even where its density is zero.
    log_likelihood = float(np.sum(np.where(batch.weight > 0, batch.weight * log_density, 0.0)))
    expert = model.expert.accumulate(theta.expert, batch, batch.spread_units(resp))
    units = {} if batch.unit is None else {"mass": resp.sum(axis=0)}  # else those of the experts
    if model.expert.truncates:
        unseen, inside = unseen_units(model, theta, batch)
        spread = (batch.spread_units(part) for part in (unseen, inside))
        missed = model.expert.accumulate_unseen(theta.expert, batch, *spread)
        expert = {name: value + missed.get(name, 0.0) for name, value in expert.items()}
        resp, weight = resp + unseen, batch.weight + unseen.sum(axis=1)
        gate = model.gate.accumulate(theta.gate, replace(batch, weight=weight), resp)
    else:
        gate = model.gate.accumulate(theta.gate, batch, resp)
    return {
        **units,
        **variant,
        "log_likelihood": log_likelihood,
        "weight": float(batch.weight.sum()),
        **{f"gate.{name}": value for name, value in gate.items()},
        **{f"expert.{name}": value for name, value in expert.items()},
    }


def unseen_units(model: Model, theta: Theta, batch: Batch) -> tuple[Array, Array]:
    """Expected numbers of units that were not sampled, and the posterior of one that was.

    For a unit with a chance T to be sampled there were ``(1 - T) / T`` on average that were not
    (McLachlan and Jones 1988). Both (u, K) are times the weights of the units.
    """
    log_sampled = model.log_sampled(theta, batch)
    inside, log_chance = numpy_.e_step(log_sampled.copy())
    prob = np.exp(model.gate.log_prob(theta.gate, batch))
    missed = np.maximum(prob - np.exp(log_sampled), 0.0)
    per_unit = np.exp(np.minimum(-log_chance, _MOST_UNSEEN))
    weight = np.where(batch.weight > 0.0, batch.weight, 0.0)[:, None]
    return weight * missed * per_unit[:, None], weight * inside


def health(model: Model, theta: Theta, stats: Stats) -> tuple[str, ...]:
    """Reasons why a solution is degenerate, empty if it is sound."""
    mass = stats["expert.mass"]
    needed = np.broadcast_to(model.expert.n_params_each(theta.expert), mass.shape) + 1
    reasons = [
        f"expert {k + 1} rests on {mass[k]:.3g} effective rows, fewer than its parameters "
        f"+ 1 = {needed[k]}"
        for k in np.flatnonzero(mass < needed * (1.0 - 1e-9))
    ]
    units, rows = stats.get("gate.mass", mass), model.gate.rows_needed(theta.gate)
    reasons += [
        f"expert {k + 1} rests on {units[k]:.3g} effective rows, fewer than the {rows} that its "
        "part of the gate needs"
        for k in np.flatnonzero(units < rows * (1.0 - 1e-9))
    ]
    collapsed = model.expert.collapsed(theta.expert, part(stats, "expert"))
    reasons += [
        f"expert {k + 1} {model.expert.boundary_reason_of(int(k))}"
        for k in np.flatnonzero(collapsed)
    ]
    reasons += [
        f"expert {k + 1} {model.gate.boundary_reason()}"
        for k in np.flatnonzero(model.gate.at_boundary(theta.gate))
    ]
    return tuple(reasons)
