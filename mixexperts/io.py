"""Saving and loading fitted models without pickle."""

from __future__ import annotations

import os
from typing import Any

from mixexperts._archive import read_archive, write_archive


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator or a results object to a file.

    The file is a zip of ``.npy`` arrays and a JSON header with a schema number. The data of
    the fit are not in it, but for what the user passed as ``init``.

    Raises
    ------
    TypeError
        If the object is not one that mixexperts can save.
    """
    write_archive(path, type(model).__name__, model)


def load(path: str | os.PathLike[str]) -> Any:
    """Read a model back that was written by its ``save``.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    MoERegressor or MoEResults
        Whatever was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ArchiveError
        If the file is damaged, of a newer schema, or was not written by mixexperts.

    Notes
    -----
    A saved formula is evaluated as Python when it predicts: load models only from people
    whose code you would run.
    """
    _, model = read_archive(path)
    return model
