"""Saving fitted estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted


class Saving:
    """Methods that write a fitted estimator to a file."""

    if TYPE_CHECKING:

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Arguments of the constructor, as scikit-learn gives them."""

    def to_state(self) -> dict[str, Any]:
        """Parameters and fitted attributes, for :meth:`save`.

        Returns
        -------
        dict
            ``params`` (arguments of the constructor) and ``fitted`` (attributes by name).
        """
        fitted = {
            name: value
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_")
        }
        return {"params": self.get_params(deep=False), "fitted": fitted}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Any:
        """Inverse of :meth:`to_state`.

        Parameters
        ----------
        state : dict
            What :meth:`to_state` returned.

        Returns
        -------
        MoERegressor
        """
        est = cls(**state["params"])
        for name, value in state["fitted"].items():
            setattr(est, name, value)
        return est

    def save(self, path: Any) -> None:
        """Write the fitted estimator to a file that :func:`mixexperts.load` reads.

        The file is a zip of arrays and a JSON header with a schema number; no pickle.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced.

        Raises
        ------
        NotFittedError
            If there is no fit to save.
        TypeError
            If an argument is of a kind that cannot be written, such as a Generator.
        """
        from mixexperts.io import save

        check_is_fitted(self, "theta_")
        save(self, path)
