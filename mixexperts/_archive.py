"""Files of arrays and a JSON header: what a saved model or a checkpoint is made of."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mixexperts.errors import ArchiveError

#: Version of the layout. A reader refuses a newer one and must read every older one.
SCHEMA = 1
_HEADER = "header.json"
#: Rooms whose classes may stand in a file, imported in turn until the class is found.
_ROOMS = (
    "experts",
    "gates",
    "penalties",
    "em",
    "estimators",
    "formula",
    "results",
    "_class_results",
)
_SAVEABLE: dict[str, type] = {}
_KEYS: dict[type, str] = {}

T = TypeVar("T")


def saveable(key: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: objects of the class may be saved, under a key that never changes.

    The state is what ``to_state()`` returns and ``from_state()`` takes, if the class has
    them, and the fields of the dataclass otherwise.
    """

    def enter(cls: type[T]) -> type[T]:
        _SAVEABLE[key] = cls
        _KEYS[cls] = key
        return cls

    return enter


def write_archive(path: str | os.PathLike[str], kind: str, tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, strings, numbers, arrays and saveable objects.

    The file is a zip of ``header.json`` and ``.npy`` members and holds no pickles. It is
    complete or not there at all: it is written beside the target and then renamed.

    Raises
    ------
    TypeError
        If the tree holds anything else.
    """
    arrays: list[np.ndarray] = []
    header: dict[str, Any] = {"format": "mixexperts", "schema": SCHEMA, "kind": kind}
    header["tree"] = _encode(tree, arrays)
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    name = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with name.open("xb") as raw, zipfile.ZipFile(raw, "w") as archive:
            archive.writestr(_HEADER, json.dumps(header))
            for i, array in enumerate(arrays):
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"{i}.npy", buffer.getvalue())
        name.replace(target)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def read_archive(path: str | os.PathLike[str], kind: str | None = None) -> tuple[str, Any]:
    """Read ``(kind, tree)`` back.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ArchiveError
        If the file is damaged, is not an archive of mixexperts, is of another kind than
        asked for, or of a newer schema.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no file {source}")
    try:
        with zipfile.ZipFile(source) as archive:
            header = json.loads(archive.read(_HEADER))
            names = sorted(
                (n for n in archive.namelist() if n.endswith(".npy")),
                key=lambda n: int(n.removesuffix(".npy")),
            )
            arrays = [np.load(io.BytesIO(archive.read(n)), allow_pickle=False) for n in names]
    except Exception as error:  # a damaged zip fails in a dozen ways
        raise ArchiveError(f"{source} is not a complete mixexperts file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != "mixexperts":
        raise ArchiveError(f"{source} was not written by mixexperts")
    if not {"schema", "kind", "tree"} <= set(header) or not isinstance(header["schema"], int):
        raise ArchiveError(f"{source} has an incomplete header")
    if header["schema"] > SCHEMA:
        raise ArchiveError(
            f"{source} has schema {header['schema']}, newer than the schema {SCHEMA} that this "
            "version reads; update mixexperts"
        )
    if kind is not None and header["kind"] != kind:
        raise ArchiveError(f"{source} holds a {header['kind']}, expected a {kind}")
    try:
        return header["kind"], _decode(header["tree"], arrays)
    except ArchiveError:
        raise
    except Exception as error:  # a tree that does not match its arrays or classes
        raise ArchiveError(f"{source} does not hold what its header says: {error}") from error


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            flat = [_encode(item, arrays) for item in value.ravel()]
            return {"__strings__": flat, "shape": list(value.shape)}
        arrays.append(value)
        return {"__array__": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"__tuple__": [_encode(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, dict):
        # Pairs keep keys that are not strings, such as integer or tuple levels of a factor.
        pairs = [[_encode(key, arrays), _encode(item, arrays)] for key, item in value.items()]
        return {"__dict__": pairs}
    if type(value) in _KEYS:
        if hasattr(value, "to_state"):
            state = value.to_state()
        else:
            state = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"__object__": _KEYS[type(value)], "state": _encode(state, arrays)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.random.RandomState):
        return {"__random_state__": _encode(value.get_state(), arrays)}
    if type(value).__name__ == "DataFrame":
        columns = {name: value[name].to_numpy() for name in value.columns}
        index = _encode(value.index.to_numpy(), arrays)
        return {
            "__frame__": _encode(columns, arrays), "index": index, "name": value.index.name
        }  # fmt: skip
    raise TypeError(
        f"cannot save a {type(value).__module__}.{type(value).__qualname__}; only numbers, "
        "strings, None, arrays and nestings of them can be written"
    )


def _decode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    (tag, content), *_ = value.items()
    if tag == "__array__":
        return arrays[content]
    if tag == "__strings__":
        flat = np.empty(len(content), dtype=object)
        flat[:] = [_decode(item, arrays) for item in content]
        return flat.reshape(value.get("shape", [len(content)]))
    if tag == "__tuple__":
        return tuple(_decode(item, arrays) for item in content)
    if tag == "__object__":
        return _object(content, _decode(value["state"], arrays))
    if tag == "__random_state__":
        random_state = np.random.RandomState()
        random_state.set_state(_decode(content, arrays))
        return random_state
    if tag == "__frame__":
        import pandas as pd

        index = pd.Index(_decode(value["index"], arrays), name=value["name"])
        return pd.DataFrame(_decode(content, arrays), index=index)
    return {_decode(key, arrays): _decode(item, arrays) for key, item in content}


def _object(key: str, state: dict[str, Any]) -> Any:
    for room in _ROOMS:
        if key in _SAVEABLE:
            break
        importlib.import_module(f"mixexperts.{room}")
    cls = _SAVEABLE.get(key)
    if cls is None:
        raise ArchiveError(
            f"the file holds a {key!r}, which this installation does not know; install or import "
            "the package that defines it"
        )
    if hasattr(cls, "from_state"):
        return cls.from_state(state)
    return cls(**state)
