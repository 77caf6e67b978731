"""The scikit-learn face of mixexperts."""

if __name__ != "mixexperts.estimators":
    raise ImportError("import mixexperts.estimators; 'estimators' is its source folder")

from mixexperts.estimators._lasso_path import LassoPath
from mixexperts.estimators.classifier import MoEClassifier
from mixexperts.estimators.lasso import LassoMoEClassifier, LassoMoERegressor
from mixexperts.estimators.lasso_cv import LassoMoEClassifierCV, LassoMoERegressorCV
from mixexperts.estimators.regressor import MoERegressor

__all__ = [
    "LassoMoEClassifier",
    "LassoMoEClassifierCV",
    "LassoMoERegressor",
    "LassoMoERegressorCV",
    "LassoPath",
    "MoEClassifier",
    "MoERegressor",
]
