"""Docstrings of the public names: sections that are there, agree with the code, give shapes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import mixexperts as mx

validation = pytest.importorskip("numpydoc.validate", reason="numpydoc is in the docs extra")
docscrape_sphinx = importlib.import_module("numpydoc.docscrape_sphinx")

#: numpydoc's checks that are held; the others are matters of taste (see also, examples, ...).
CHECKS = {
    "GL05": "tabs", "GL06": "unknown section", "GL07": "order of sections", "GL08": "no docstring",
    "GL09": "deprecation", "GL10": "directive", "SS01": "no summary", "SS04": "leading spaces",
    "SS06": "summary over several lines",
    "PR01": "parameter not documented", "PR02": "unknown parameter", "PR03": "order of parameters",
    "PR10": "space before the colon", "YD01": "yields", "RT01": "no Returns",
}  # fmt: skip
ROOMS = ("datasets", "em", "experts", "gates", "penalties", "plots", "sources")
_ARRAY = re.compile(r"array|DataFrame|Series")
_SHAPE = re.compile(r"\(|scalar|mapping|list|dict|iterable|sequence|DataFrame|Series|labels")


def public() -> Iterator[tuple[str, Any]]:
    """Public classes and functions, and the public methods that a class defines itself."""
    owners: dict[str, Any] = {f"mixexperts.{n}": getattr(mx, n) for n in mx.__all__ if n[0] != "_"}
    for room in ROOMS:
        module = importlib.import_module(f"mixexperts.{room}")
        owners |= {f"mixexperts.{room}.{name}": getattr(module, name) for name in module.__all__}
    errors = importlib.import_module("mixexperts.errors")
    owners |= {
        f"mixexperts.errors.{name}": value
        for name, value in vars(errors).items()
        if inspect.isclass(value)
    }
    for name, value in owners.items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield name, value
        if inspect.isclass(value):
            for own in sorted(dir(value)):
                method = inspect.getattr_static(value, own)
                inside = getattr(getattr(value, own, None), "__module__", "") or ""
                if own[0] != "_" and inspect.isfunction(method) and inside.startswith("mixexperts"):
                    yield f"{name}.{own}", method


NAMES = dict(public())


def _protocol(name: str) -> bool:
    """Whether a name is a method of a component, such as ``mixexperts.gates.Softmax.update``."""
    return name.count(".") > 2 and name.split(".")[1] in ("em", "experts", "gates", "penalties")


def problems(value: Any) -> list[str]:
    """What is wrong with a docstring, one line each."""
    doc = docscrape_sphinx.get_doc_object(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = validation.validate(doc)["errors"]
    wrong = [f"{code}: {text}" for code, text in found if code in CHECKS]
    if dataclasses.is_dataclass(value):
        # The fields of a dataclass may stand under Attributes.
        known = {part.strip() for item in doc["Attributes"] for part in item.name.split(",")}
        fields = {name for name in inspect.signature(value).parameters if name[0] != "_"}
        if fields <= known:
            wrong = [text for text in wrong if not text.startswith("PR01")]
    for section in ("Parameters", "Returns", "Attributes"):
        for item in doc[section]:
            kind = item.type or item.name
            if _ARRAY.search(kind) and not _SHAPE.search(f"{kind} {' '.join(item.desc)}"):
                wrong.append(f"{section}: {item.name or kind!r} has no shape")
    return wrong


@pytest.mark.parametrize("name", [name for name in NAMES if not _protocol(name)])
def test_docstring(name: str) -> None:
    assert problems(NAMES[name]) == []


@pytest.mark.parametrize("name", [name for name in NAMES if _protocol(name)])
def test_protocol_method_is_described(name: str) -> None:
    """Methods of components are described once, by the protocol; a subclass inherits the words."""
    owner, _, method = name.rpartition(".")
    assert inspect.getdoc(getattr(NAMES[owner], method))
