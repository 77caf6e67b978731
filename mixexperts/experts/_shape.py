"""Scalar parameters of experts, such as scales and dispersions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixexperts._batch import Array


@dataclass(frozen=True)
class Shape:
    """A scalar parameter of each expert, such as a scale, a dispersion or degrees of freedom.

    The engine moves ``t = log(value - origin)`` or, for ``transform="identity"``, the value.

    Attributes
    ----------
    name : str
    lower, upper : float
        The engine keeps the value between them.
    transform : {"log", "identity"}
    origin : float
    follows_scale : bool
        The value is in units of the response: it is multiplied when the response is.
    boundary, upper_boundary : bool
        At ``lower``, or at ``upper``, the density is a spike, and the fit degenerate.
    held : bool
        Starts keep the value of :meth:`LinearExpert.start_shapes`: the few rows of an expert at
        its start tell too little of it.
    """

    name: str
    lower: float
    upper: float
    transform: Literal["log", "identity"] = "log"
    origin: float = 0.0
    follows_scale: bool = False
    boundary: bool = False
    upper_boundary: bool = False
    held: bool = False

    def free(self, value: Array) -> Array:
        """The unconstrained parameter t."""
        return np.log(value - self.origin) if self.transform == "log" else value

    def value(self, free: Array) -> Array:
        """Inverse of :meth:`free`, kept between the bounds."""
        with np.errstate(over="ignore"):
            value = np.exp(np.minimum(free, 700.0)) if self.transform == "log" else free
        return np.clip(value + self.origin * (self.transform == "log"), self.lower, self.upper)

    def check_fixed(self, value: Any) -> None:
        """Raise if a given value is neither None nor a number that the shape may take."""
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(
                f"{self.name} must be None (estimated) or a number, got {value!r} of type "
                f"{type(value).__name__}"
            )
        if not self.lower <= value <= self.upper:
            raise ValueError(
                f"{self.name}={value!r} lies outside {self.lower:g} to {self.upper:g}; give a "
                "number between, or None to estimate it"
            )
