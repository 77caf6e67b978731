"""Exceptions and warnings. Each exception also is the builtin that a user expects."""

import sys
import warnings


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code, however deep in the package the reason lies."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mixexperts"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class MixExpertsError(Exception):
    """Base of every exception that mixexperts raises of its own."""


class InvalidResponseError(MixExpertsError, ValueError):
    """The response lies outside what the expert family allows."""


class DesignError(MixExpertsError, ValueError):
    """A design matrix, a formula or its columns cannot be used as given."""


class UnseenLevelError(DesignError):
    """New data hold a level of a factor that the fit never saw."""


class UnsupportedCombinationError(MixExpertsError, TypeError):
    """Two components that do not work together, or a missing optional method."""


class InferenceRefusedError(MixExpertsError, ValueError):
    """Standard errors or tests were asked for where the usual ones would mislead."""


class BackendUnavailableError(MixExpertsError, ImportError, RuntimeError):
    """A backend that was asked for is not installed, or has no device to run on."""


class ArchiveError(MixExpertsError, ValueError):
    """A saved file is damaged, of another kind, or of a newer schema."""


class RankDeficientWarning(UserWarning):
    """A design matrix lacks full column rank; coefficients are those of minimum norm."""


class DegenerateFitWarning(UserWarning):
    """Every start ended in a degenerate solution (a collapsed scale or a starved expert)."""


class SeparationWarning(UserWarning):
    """The gate separates the experts perfectly: its coefficients have no finite maximum."""
