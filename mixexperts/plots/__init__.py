"""Figures of fitted models, and the tidy tables behind them.

Every plot function takes a fitted :class:`~mixexperts.MoERegressor`,
:class:`~mixexperts.MoEClassifier` or :class:`~mixexperts.MoEResults` and returns matplotlib axes;
with ``ax=None`` it makes a figure of the width of a journal's column. The ``*_frame`` functions
return the numbers drawn as data frames and need no matplotlib, for use with any other plotting
library.
"""

from mixexperts.plots.classification import (
    calibration_frame,
    decision_regions_frame,
    plot_calibration,
    plot_decision_regions,
)
from mixexperts.plots.diagnostics import (
    plot_history,
    plot_posterior,
    plot_restarts,
    plot_selection,
)
from mixexperts.plots.fit import plot_fit, plot_gate
from mixexperts.plots.frames import fit_frame, gate_frame, points_frame, posterior_frame
from mixexperts.plots.lasso import plot_cv, plot_path, plot_stability
from mixexperts.plots.lasso_frames import cv_frame, path_frame
from mixexperts.plots.records import history_frame, restarts_frame, selection_frame

__all__ = [
    "calibration_frame",
    "cv_frame",
    "decision_regions_frame",
    "fit_frame",
    "gate_frame",
    "history_frame",
    "path_frame",
    "plot_calibration",
    "plot_cv",
    "plot_decision_regions",
    "plot_fit",
    "plot_gate",
    "plot_history",
    "plot_path",
    "plot_posterior",
    "plot_restarts",
    "plot_selection",
    "plot_stability",
    "points_frame",
    "posterior_frame",
    "restarts_frame",
    "selection_frame",
]
