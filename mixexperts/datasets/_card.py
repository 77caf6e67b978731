"""Cards of the shipped data sets: where a table comes from and what is known about it."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

_DATA_PACKAGE = "mixexperts.datasets.data"


@dataclass(frozen=True)
class PublishedFit:
    """A fit of a shipped data set by other software, to compare with.

    Parameters
    ----------
    family : str
        Family of the experts.
    formula : str
        ``response ~ expert terms | gate terms`` in the column names of the csv;
        ``| 1`` means constant mixing weights.
    n_experts : int
        Number of experts.
    log_likelihood : float
        Maximised log-likelihood (natural logarithm, summed over rows). With two or
        more experts it is the best value known, not a proven maximum.
    df : int
        Number of free parameters.
    bic : float
        ``-2 * log_likelihood + df * log(n)``.
    software : str
        Programs and versions.
    source : str
        Where the number was printed, or how it was obtained.
    note : str
        Deviations from the plain model, if any.
    """

    family: str
    formula: str
    n_experts: int
    log_likelihood: float
    df: int
    bic: float
    software: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        """Return one line with the model and its numbers."""
        return (
            f"{self.formula}, {self.family}, {self.n_experts} expert(s): log-likelihood "
            f"{self.log_likelihood:.4f}, df {self.df}, BIC {self.bic:.4f}"
        )


@dataclass(frozen=True)
class DatasetCard:
    """What is known about a shipped data set.

    Parameters
    ----------
    name : str
        Name, as in ``load_dataset(name)``.
    title : str
        One line.
    file : str
        File name of the csv.
    n_rows, n_columns : int
        Shape of the table.
    columns : mapping of str to str
        Meaning and unit of each column, in file order.
    source : str
        Primary citation of the measurements.
    obtained_from : str
        Where the table as shipped was read.
    licence : str
        What is known of the licence.
    family : str
        Family of the experts that suits the response.
    formula : str
        Suggested formula, ``response ~ expert terms | gate terms``.
    offset, groups, weights : str
        Offset expression, column of repeated measures, column of frequencies;
        empty where there is none.
    notes : tuple of str
        Peculiarities of the table.
    categories : mapping of str to tuple of str
        Levels of the categorical columns; the first is the reference level.
    missing : mapping of str to int
        Number of missing values of each column that has any.
    missing_code : float or None
        Number that stands for a missing value in the csv.
    published : tuple of PublishedFit
        Fits to compare with.
    """

    name: str
    title: str
    file: str
    n_rows: int
    n_columns: int
    columns: Mapping[str, str] = field(hash=False)
    source: str
    obtained_from: str
    licence: str
    family: str
    formula: str
    offset: str = ""
    groups: str = ""
    weights: str = ""
    notes: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    missing: Mapping[str, int] = field(default_factory=dict, hash=False)
    missing_code: float | None = None
    published: tuple[PublishedFit, ...] = ()

    def __str__(self) -> str:
        """Return the card as text of at most 88 columns."""
        lines = [f"{self.name}: {self.title}", f"{self.n_rows} rows, {self.n_columns} columns", ""]
        for column, meaning in self.columns.items():
            levels = ", ".join(self.categories.get(column, ()))
            lines += _item(f"{column}: {meaning}" + (f" [{levels}]" if levels else ""))
        lines.append("")
        extras = {"offset": self.offset, "groups": self.groups, "weights": self.weights}
        hint = "".join(f", {key}={value}" for key, value in extras.items() if value)
        lines += _entry("Formula", f"{self.formula} (family {self.family}{hint})")
        lines += _entry("Source", self.source)
        lines += _entry("Obtained from", self.obtained_from)
        lines += _entry("Licence", self.licence)
        if self.notes:
            lines.append("Notes:")
            for note in self.notes:
                lines += _item(note)
        if self.published:
            lines.append("Published fits:")
            for fit in self.published:
                note = f"; {fit.note}" if fit.note else ""
                lines += _item(f"{fit} [{fit.software}; {fit.source}{note}]")
        return "\n".join(lines)


def card(name: str) -> DatasetCard:
    """Return the card of a shipped data set.

    Parameters
    ----------
    name : str
        Name of the set, one of ``list_datasets()["name"]``.

    Returns
    -------
    DatasetCard
        Source, licence, columns and published fits; ``print`` shows it as text.

    Raises
    ------
    ValueError
        If no set has this name.

    Examples
    --------
    >>> from mixexperts import datasets
    >>> datasets.card("tempanomalies").n_rows
    136
    """
    text = resources.files(_DATA_PACKAGE).joinpath(f"{_check_name(name)}.toml")
    return _from_toml(tomllib.loads(text.read_text(encoding="utf-8")))


def data_path(name: str) -> Path:
    """Return the path of the csv file of a shipped data set.

    Parameters
    ----------
    name : str
        Name of the set, one of ``list_datasets()["name"]``.

    Returns
    -------
    pathlib.Path
        The csv as shipped: padded strings and codes for missing values are as found.

    Raises
    ------
    ValueError
        If no set has this name.
    FileNotFoundError
        If the package is not installed as plain files.

    Examples
    --------
    >>> from mixexperts import datasets
    >>> datasets.data_path("tonedata").name
    'tonedata.csv'
    """
    file = card(name).file
    path = Path(str(resources.files(_DATA_PACKAGE).joinpath(file)))
    if not path.is_file():
        raise FileNotFoundError(
            f"name: the csv of {name!r} is not at {path}; expected a file on disk. "
            "Install mixexperts unpacked, not from inside a zip archive."
        )
    return path


def dataset_names() -> list[str]:
    """Return the names of all shipped data sets, sorted."""
    entries = resources.files(_DATA_PACKAGE).iterdir()
    return sorted(e.name.removesuffix(".toml") for e in entries if e.name.endswith(".toml"))


def _check_name(name: object) -> str:
    known = dataset_names()
    if not isinstance(name, str):
        raise TypeError(
            f"name: got {type(name).__name__}, expected a str. Pass one of {', '.join(known)}."
        )
    if name not in known:
        lowered = name.lower().removeprefix("load_")
        near = difflib.get_close_matches(lowered, known, n=1, cutoff=0.5)
        action = f"Did you mean {near[0]!r}?" if near else "See list_datasets()."
        raise ValueError(
            f"name: no data set is called {name!r}; expected one of {', '.join(known)}. {action}"
        )
    return name


def _from_toml(raw: dict[str, Any]) -> DatasetCard:
    values = {f.name: raw[f.name] for f in fields(DatasetCard) if f.name in raw}
    values["notes"] = tuple(raw.get("notes", ()))
    values["categories"] = {key: tuple(v) for key, v in raw.get("categories", {}).items()}
    values["published"] = tuple(PublishedFit(**entry) for entry in raw.get("published", ()))
    return DatasetCard(**values)


def _entry(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label}: {text}", width=88, subsequent_indent="  ")


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, width=88, initial_indent="  - ", subsequent_indent="    ")
