"""Names of experts and gates: a class that states its ``name`` is known by it."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any

from mixexperts._archive import saveable

_FAMILIES: dict[str, dict[str, type]] = {"expert": {}, "gate": {}, "penalty": {}}
_PACKAGES = {
    "expert": "mixexperts.experts",
    "gate": "mixexperts.gates",
    "penalty": "mixexperts.penalties",
}

# Penalties with zeros need a solver of their own.
_SPARSE = ("lasso", "l1", "elastic_net", "elasticnet", "adaptive", "group", "mcp", "scad")
_SPARSE_HINT = (
    "penalties that set coefficients to zero (lasso, elastic net, adaptive, group, MCP, SCAD) "
    "belong to LassoMoERegressor and LassoMoEClassifier"
)


def register(family: str, cls: type) -> None:
    """Enter a component class under the name it states.

    Raises
    ------
    ValueError
        If another class holds that name already.
    """
    name = cls.__dict__.get("name")
    if not name:
        return
    known = _FAMILIES[family]
    other = known.get(name)
    same = other is not None and (other.__module__, other.__qualname__) == (
        cls.__module__,
        cls.__qualname__,
    )
    if other is not None and not same:
        raise ValueError(
            f"{family} name {name!r} is taken by {other.__module__}.{other.__qualname__}; "
            f"give {cls.__module__}.{cls.__qualname__} another name"
        )
    known[name] = cls
    saveable(f"{family}:{name}")(cls)


def all_components(family: str) -> dict[str, type]:
    """All registered classes of a family (``"expert"``, ``"gate"``, ``"penalty"``) by name."""
    package = importlib.import_module(_PACKAGES[family])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_FAMILIES[family].items()))


def resolve(family: str, value: Any, argument: str) -> Any:
    """Turn a name or an instance into an instance; a list of experts, one family for each.

    Raises
    ------
    ValueError
        If the name is not known; the message lists the known ones.
    TypeError
        If the value is neither a name nor a component.
    """
    known = all_components(family)
    if family == "expert" and isinstance(value, list | tuple):
        return known["mixed"](tuple(value))
    if isinstance(value, str):
        if value in known:
            return known[value]()
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if family == "penalty" and value.lower().replace("-", "_").replace(" ", "_") in _SPARSE:
            hint = f"{_SPARSE_HINT}; "
        raise ValueError(
            f"{argument}={value!r} is not a known {family}; {hint}known names: "
            + ", ".join(repr(name) for name in known)
        )
    if isinstance(value, type) and value in known.values():
        raise TypeError(f"{argument} is the class {value.__name__}; pass {value.__name__}()")
    if isinstance(value, tuple(known.values())):
        return value
    if family == "penalty" and type(value).__name__ == "SparsePenalty":
        raise TypeError(f"{argument} is a SparsePenalty; {_SPARSE_HINT}")
    raise TypeError(
        f"{argument} must be a name or an instance of a {family}, got {type(value).__name__}; "
        "known names: " + ", ".join(repr(name) for name in known)
    )
