"""Loaders of the shipped data sets, one function for each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, overload

from mixexperts.datasets._card import DatasetCard, card, data_path, dataset_names

if TYPE_CHECKING:
    import pandas as pd

_SECTIONS = """

Parameters
----------
return_card : bool, default False
    Return the card as well.

Returns
-------
pandas.DataFrame or tuple of (pandas.DataFrame, DatasetCard)
    Table of {n_rows} rows and {n_columns} columns, named as in the csv; with
    ``return_card=True`` also the card, which holds units, source, licence and
    published fits.

Examples
--------
>>> from mixexperts import datasets
>>> datasets.load_{name}().shape
({n_rows}, {n_columns})
"""


class Loader(Protocol):
    """Type of the ``load_*`` functions."""

    __name__: str

    @overload
    def __call__(self, return_card: Literal[False] = False) -> pd.DataFrame: ...
    @overload
    def __call__(self, return_card: Literal[True]) -> tuple[pd.DataFrame, DatasetCard]: ...
    @overload
    def __call__(self, return_card: bool) -> pd.DataFrame | tuple[pd.DataFrame, DatasetCard]: ...


@overload
def load_dataset(name: str, return_card: Literal[False] = False) -> pd.DataFrame: ...
@overload
def load_dataset(name: str, return_card: Literal[True]) -> tuple[pd.DataFrame, DatasetCard]: ...
@overload
def load_dataset(
    name: str, return_card: bool
) -> pd.DataFrame | tuple[pd.DataFrame, DatasetCard]: ...
def load_dataset(
    name: str, return_card: bool = False
) -> pd.DataFrame | tuple[pd.DataFrame, DatasetCard]:
    """Load a shipped data set by name.

    Parameters
    ----------
    name : str
        Name of the set, one of ``list_datasets()["name"]``.
    return_card : bool, default False
        Return the card as well.

    Returns
    -------
    pandas.DataFrame or tuple of (pandas.DataFrame, DatasetCard)
        The table, shape ``(card.n_rows, card.n_columns)``, columns named as in the csv.
        Columns with listed levels are categorical (first level is the reference), other
        texts are stripped of padding, coded gaps are NaN.

    Raises
    ------
    ValueError
        If no set has this name.

    Examples
    --------
    >>> from mixexperts import datasets
    >>> datasets.load_dataset("tonedata").shape
    (150, 2)
    """
    import pandas as pd

    about = card(name)
    # Only the declared code means missing: a country or company called "NA" stays text.
    frame = pd.read_csv(
        data_path(name),
        dtype=dict.fromkeys(about.categories, "str"),
        keep_default_na=False,
        na_values={column: [str(about.missing_code)] for column in about.missing},
    )
    for column in frame.columns:
        if column in about.categories:
            levels = list(about.categories[column])
            frame[column] = pd.Categorical(frame[column], categories=levels)
        elif not pd.api.types.is_numeric_dtype(frame[column]):
            frame[column] = frame[column].str.strip()
    return (frame, about) if return_card else frame


def list_datasets() -> pd.DataFrame:
    """List the shipped data sets.

    Returns
    -------
    pandas.DataFrame
        One row per set with columns ``name``, ``n_rows``, ``n_columns``, ``title`` and
        ``formula`` (suggested), sorted by name.

    Examples
    --------
    >>> from mixexperts import datasets
    >>> "tonedata" in set(datasets.list_datasets()["name"])
    True
    """
    import pandas as pd

    columns = ["name", "n_rows", "n_columns", "title", "formula"]
    cards = [card(name) for name in dataset_names()]
    return pd.DataFrame([[getattr(c, key) for key in columns] for c in cards], columns=columns)


def _loader(n_rows: int, n_columns: int) -> Callable[[Callable[[], None]], Loader]:
    """Turn a documented stub ``load_x`` into a loader of the set ``x``."""

    def decorate(stub: Callable[[], None]) -> Loader:
        name = stub.__name__.removeprefix("load_")

        @overload
        def load(return_card: Literal[False] = False) -> pd.DataFrame: ...
        @overload
        def load(return_card: Literal[True]) -> tuple[pd.DataFrame, DatasetCard]: ...
        @overload
        def load(return_card: bool) -> pd.DataFrame | tuple[pd.DataFrame, DatasetCard]: ...
        def load(
            return_card: bool = False,
        ) -> pd.DataFrame | tuple[pd.DataFrame, DatasetCard]:
            return load_dataset(name, return_card)

        load.__name__ = stub.__name__
        load.__qualname__ = stub.__qualname__
        load.__doc__ = (inspect.getdoc(stub) or "") + _SECTIONS.format(
            name=name, n_rows=n_rows, n_columns=n_columns
        )
        return load

    return decorate


@_loader(202, 13)
def load_ais() -> None:
    """Load blood and body measurements of 202 Australian athletes.

    Telford and Cunningham (1991), by way of Cook and Weisberg (1994). Lengths in cm,
    weights in kg, body fat in percent.
    """


@_loader(44, 4)
def load_betablocker() -> None:
    """Load deaths in a 22-centre trial of beta-blockers after myocardial infarction.

    Yusuf et al. (1985). Binomial counts, two rows per centre.
    """


@_loader(915, 6)
def load_biochemists() -> None:
    """Load article counts of 915 doctoral students in biochemistry.

    Long (1990). Counts over the last three years of the doctorate.
    """


@_loader(21, 2)
def load_candy() -> None:
    """Load the frequencies of candy packs bought in seven days.

    Dillon and Kumar (1994). ``Freq`` is the number of persons of each row.
    """


@_loader(28, 3)
def load_co2_gnp() -> None:
    """Load CO2 emission and gross national product per head of 28 countries, 1996.

    Hurn, Justel and Robert (2003).
    """


@_loader(797, 5)
def load_dmft() -> None:
    """Load decayed, missing and filled teeth of 797 children in a caries trial.

    Boehning et al. (1999). Counts with many zeros.
    """


@_loader(236, 9)
def load_epil() -> None:
    """Load two-week seizure counts of 59 epileptics, four per subject.

    Thall and Vail (1990). Repeated measures: ``subject`` names the group.
    """


@_loader(88, 3)
def load_ethanol() -> None:
    """Load the nitrogen oxides in the exhaust of an ethanol engine, 88 runs.

    Brinkman (1981). ``NOx`` in micrograms per joule, the two ratios without unit.
    """


@_loader(32, 2)
def load_fabricfault() -> None:
    """Load the faults in 32 rolls of fabric.

    Bissell (1972). Length in metres, faults as counts.
    """


@_loader(272, 2)
def load_faithful() -> None:
    """Load 272 eruptions of the Old Faithful geyser.

    Haerdle (1991). Both columns in minutes.
    """


@_loader(82, 1)
def load_galaxies() -> None:
    """Load the velocities of 82 galaxies of the Corona Borealis region.

    Postman, Huchra and Geller (1986), as tabulated by Roeder (1990). In km/s.
    """


@_loader(70, 4)
def load_patent() -> None:
    """Load patents and research spending of 70 companies in 1976.

    Wang, Cockburn and Puterman (1998). Company names come without the csv's padding.
    """


@_loader(18, 2)
def load_salmonella() -> None:
    """Load revertant colonies of Salmonella TA98 under six doses of quinoline.

    Margolin, Kaplan and Zeiger (1981). Three plates per dose.
    """


@_loader(140, 4)
def load_seizure() -> None:
    """Load the daily seizure counts of one patient over 140 days.

    Wang et al. (1996). ``log(Hours)`` of observation is the offset.
    """


@_loader(136, 3)
def load_tempanomalies() -> None:
    """Load global annual land temperature anomalies, 1880-2015.

    NASA Goddard Institute for Space Studies. Degrees Celsius relative to 1951-1980; the
    four years without a five-year mean are NaN in ``5-YearMean``.
    """


@_loader(150, 2)
def load_tonedata() -> None:
    """Load 150 tunings of a stretched tone by one musician.

    Cohen (1980). Two ratios without unit; the classic mixture of two lines.
    """


@_loader(27, 4)
def load_tribolium() -> None:
    """Load the eggs left uneaten by Tribolium beetles in 27 trials.

    Wang and Puterman (1998). Binomial counts out of ``Total``.
    """


@_loader(426, 2)
def load_trypanosome() -> None:
    """Load dose and death of 426 trypanosomes.

    Ashford and Walker (1972). One row per organism, ``Dead`` is 0 or 1.
    """
