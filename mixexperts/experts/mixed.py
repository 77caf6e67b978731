"""A family per expert."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from mixexperts._registry import resolve
from mixexperts.experts._composite import Composite
from mixexperts.experts._members import regresses
from mixexperts.experts.base import Expert
from mixexperts.experts.gaussian import Gaussian
from mixexperts.experts.student import StudentT


@dataclass(frozen=True)
class Mixed(Composite):
    r"""Experts of different families, expert k from the k-th.

    Parameters
    ----------
    experts : sequence of Expert or str
        Families, one per expert, each as it is written alone. ``expert=[Gaussian(), "poisson"]``
        in an estimator means the same. Those that look at features have the same ``degree`` and
        ``fit_intercept``, and none shares a parameter over experts.

    Notes
    -----
    A parameter that an expert's family lacks is NaN among the attributes of a fit. Only experts
    of the same family with the same settings are put in order after a fit, the others keep the
    places that the list gives them.

    A response may be impossible under some of the experts, as zero is for gamma experts; it must
    be possible under one. Beside continuous families a discrete one, such as ``PointMass``, makes
    the distribution of the response one with atoms: a value that has a probability of its own
    under some expert counts with this probability, and densities of other experts count only at
    the other values.

    References
    ----------
    Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM
    algorithm. Neural Computation 6, 181-214.
    """

    experts: tuple[Expert, ...] = field(default=())
    name: ClassVar[str] = "mixed"

    def __post_init__(self) -> None:
        given: Any = self.experts
        if isinstance(given, str | Expert):
            given = (given,)
        experts = tuple(resolve("expert", one, f"experts[{k}]") for k, one in enumerate(given))
        object.__setattr__(self, "experts", experts)
        if not experts:
            raise ValueError("experts is empty; give one family per expert")
        for k, one in enumerate(experts):
            if isinstance(one, Composite):
                raise TypeError(f"experts[{k}] is itself put together; list its families instead")
            if one.multivariate:
                raise ValueError(
                    f"experts[{k}] ({one.name}) has several responses, but Mixed has one; for "
                    "responses of different kinds use Joint"
                )
            shared = [f.name for f in _switches(one) if getattr(one, f.name) is True]
            if shared:
                raise ValueError(
                    f"experts[{k}] has {shared[0]}=True, but each expert of Mixed stands for "
                    f"itself; leave {shared[0]} out"
                )
        columns = set.intersection(*(set(one.response_columns) for one in experts))
        if not columns:
            listed = ", ".join(f"{e.name} takes {e.response_columns}" for e in experts)
            raise ValueError(f"the experts take responses of different columns: {listed}")
        object.__setattr__(self, "response_columns", tuple(sorted(columns)))
        using = [one for one in experts if regresses(one)]
        for what in ("degree", "fit_intercept"):
            values = {getattr(one, what) for one in using}
            if len(values) > 1:
                raise ValueError(
                    f"the experts have different {what}, but one design serves them all; give "
                    f"the same {what}"
                )
        self._settle(experts)

    @property
    def families(self) -> tuple[Expert, ...]:
        """The family of each expert."""
        return self.experts

    @classmethod
    def example(cls, n_experts: int) -> Mixed:
        """Gaussian and t experts in turn."""
        known = (Gaussian(), StudentT(df=4.0))
        return cls(tuple(known[k % 2] for k in range(n_experts)))

    def family_name(self) -> str:
        return "mixed of " + ", ".join(one.family_name() for one in self.experts)

    def with_intercept(self, fit_intercept: bool) -> Mixed:
        return replace(
            self,
            experts=tuple(
                one.with_intercept(fit_intercept) if regresses(one) else one for one in self.experts
            ),
        )

    def check_experts(self, n_experts: int) -> None:
        if n_experts != len(self.experts):
            listed = ", ".join(one.name for one in self.experts)
            raise ValueError(
                f"n_experts={n_experts}, but expert lists {len(self.experts)} families ({listed}); "
                "give one family per expert"
            )


def _switches(expert: Expert) -> list[Any]:
    """Fields of a family that make experts share a parameter."""
    return [f for f in fields(expert) if f.name.startswith("shared_")]  # type: ignore[arg-type]
