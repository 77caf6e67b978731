"""Files of arrays and a JSON header: what a saved model or a checkpoint is made of."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mixexperts.errors import ArchiveError

#: Version of the layout. A reader refuses a newer one and must read every older one.
SCHEMA = 1
_HEADER = "header.json"


def write_archive(path: str | os.PathLike[str], kind: str, tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, strings, numbers, None and arrays, atomically.

    The file is a zip of ``header.json`` and ``.npy`` members and holds no pickles. It is
    complete or not there at all: it is written beside the target and then renamed.

    Raises
    ------
    TypeError
        If the tree holds anything else.
    """
    arrays: list[np.ndarray] = []
    header = {"format": "mixexperts", "schema": SCHEMA, "kind": kind, "tree": _encode(tree, arrays)}
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w") as archive:
            archive.writestr(_HEADER, json.dumps(header))
            for i, array in enumerate(arrays):
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"{i}.npy", buffer.getvalue())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
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
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ArchiveError(f"{source} is not a complete mixexperts file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != "mixexperts":
        raise ArchiveError(f"{source} was not written by mixexperts")
    if header["schema"] > SCHEMA:
        raise ArchiveError(
            f"{source} has schema {header['schema']}, newer than the schema {SCHEMA} that this "
            "version reads; update mixexperts"
        )
    if kind is not None and header["kind"] != kind:
        raise ArchiveError(f"{source} holds a {header['kind']}, expected a {kind}")
    return header["kind"], _decode(header["tree"], arrays)


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUS":
            return {"__strings__": _encode(value.tolist(), arrays)}
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
        return np.array(_decode(content, arrays), dtype=object)
    if tag == "__tuple__":
        return tuple(_decode(item, arrays) for item in content)
    return {_decode(key, arrays): _decode(item, arrays) for key, item in content}
