"""Data sets of the mixture-of-experts literature, and generators with known truth.

``load_*`` return a pandas DataFrame; ``card`` tells source, units, licence and published
fits; ``make_*`` draw samples whose true parameters are returned.
"""

from mixexperts.datasets._card import DatasetCard, PublishedFit, card, data_path
from mixexperts.datasets._truth import MoEClassificationTruth, MoECountTruth, MoETruth
from mixexperts.datasets.real import (
    list_datasets,
    load_ais,
    load_betablocker,
    load_biochemists,
    load_candy,
    load_co2_gnp,
    load_dataset,
    load_dmft,
    load_epil,
    load_ethanol,
    load_fabricfault,
    load_faithful,
    load_galaxies,
    load_patent,
    load_salmonella,
    load_seizure,
    load_tempanomalies,
    load_tonedata,
    load_tribolium,
    load_trypanosome,
)
from mixexperts.datasets.sparse import make_sparse_moe, make_wide_moe
from mixexperts.datasets.synthetic import make_moe_classification, make_moe_regression

__all__ = [
    "DatasetCard",
    "MoEClassificationTruth",
    "MoECountTruth",
    "MoETruth",
    "PublishedFit",
    "card",
    "data_path",
    "list_datasets",
    "load_ais",
    "load_betablocker",
    "load_biochemists",
    "load_candy",
    "load_co2_gnp",
    "load_dataset",
    "load_dmft",
    "load_epil",
    "load_ethanol",
    "load_fabricfault",
    "load_faithful",
    "load_galaxies",
    "load_patent",
    "load_salmonella",
    "load_seizure",
    "load_tempanomalies",
    "load_tonedata",
    "load_tribolium",
    "load_trypanosome",
    "make_moe_classification",
    "make_moe_regression",
    "make_sparse_moe",
    "make_wide_moe",
]
