"""Results of a formula fit to classes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array
from mixexperts._result_tables import own_label
from mixexperts._rows import Rows
from mixexperts.errors import DesignError, InvalidResponseError
from mixexperts.results import MoEResults

if TYPE_CHECKING:
    import pandas as pd


@saveable("label_column")
@dataclass(frozen=True, eq=False)
class LabelColumn:
    """A column of labels, and the codes that the formula sees in its place.

    Attributes
    ----------
    name : str
        Name of the column.
    classes : ndarray of shape (n_classes,)
        Its labels in order.
    ordered : bool
        Whether that order is the column's own, of an ordered Categorical.
    """

    name: str
    classes: Array
    ordered: bool = False

    @classmethod
    def of(cls, formula: str, data: pd.DataFrame) -> LabelColumn | None:
        """The column that is the left side of a formula; None if that is an expression."""
        import pandas as pd

        name = str(formula).partition("~")[0].strip().strip("`")
        if name not in data.columns:
            return None
        column = data[name]
        if column.ndim != 1 or column.isna().all():
            raise DesignError(f"the response {name!r} must be one column that holds labels")
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
            present = set(column.dropna())
            return cls(name, np.array([c for c in dtype.categories if c in present]), True)
        return cls(name, np.unique(np.asarray(column.dropna())))

    def coded(self, data: pd.DataFrame) -> pd.DataFrame:
        """The data with codes in place of labels, NaN where these are missing."""
        import pandas as pd

        if self.name not in data.columns:
            raise DesignError(f"data lacks the response {self.name!r}")
        column = data[self.name]
        index: Any = pd.Index(self.classes)
        code = index.get_indexer(np.asarray(column)).astype(np.float64)
        unseen = (code < 0.0) & ~column.isna().to_numpy()
        if unseen.any():
            row = int(np.flatnonzero(unseen)[0])
            known = ", ".join(map(str, self.classes))
            raise InvalidResponseError(
                f"the response {self.name!r} holds the class {column.iloc[row]!s} in row {row}, "
                f"which the fit never saw; its classes are {known}"
            )
        code[code < 0.0] = np.nan
        return data.assign(**{self.name: code})

    def labels(self, code: Any) -> Any:
        """Labels of codes (m,), as an estimator takes them."""
        import pandas as pd

        index = np.asarray(code).astype(np.int64)
        if self.ordered:
            order: Any = pd.Index(self.classes)
            return pd.Categorical.from_codes(index, categories=order, ordered=True)
        return self.classes[index]


@saveable("MoEClassResults")
class MoEClassResults(MoEResults):
    """A fitted mixture of experts for classes, as :func:`mixexperts.moe` returns it.

    Parameters
    ----------
    estimator : MoEClassifier
        The fitted scikit-learn estimator behind the results.
    spec, criteria, n_dropped, selection, data, offset
        As in :class:`MoEResults`.
    response : LabelColumn, optional
        The column of labels; None where the response is an expression of numbers.
    """

    def __init__(
        self, estimator: Any, *arguments: Any, response: LabelColumn | None = None, **options: Any
    ) -> None:
        super().__init__(estimator, *arguments, **options)
        self._response = response

    @property
    def classes(self) -> Array:
        """Labels of the classes (C,) in order."""
        classes: Array = self.estimator.classes_
        return classes

    @property
    def expert_table(self) -> pd.DataFrame:
        """Expert parameters, one column per expert.

        Multinomial experts: one row per class but the last and term, ``"x [class]"``, the log odds
        against the last class. Ordinal experts: one row per term and per threshold, ``"a | b"``.
        """
        import pandas as pd

        est, names = self.estimator, [str(c) for c in self.classes]
        raw = est.frame_.raw(est.model_, est.theta_)
        terms = est.expert_terms_
        rows: dict[str, Array] = {}
        if raw["coef"].ndim == 3:
            for c, name in enumerate(names[:-1]):
                if est.frame_.expert_map.intercept:
                    rows[f"{own_label('Intercept', terms)} [{name}]"] = raw["intercept"][:, c]
                for j, term in enumerate(terms):
                    rows[f"{term} [{name}]"] = raw["coef"][:, c, j]
        else:
            rows |= dict(zip(terms, raw["coef"].T, strict=True))
            for c in range(len(names) - 1):
                rows[f"{names[c]} | {names[c + 1]}"] = raw["threshold"][:, c]
        return pd.DataFrame.from_dict(rows, orient="index", columns=self._experts())

    def design(
        self,
        data: pd.DataFrame | None = None,
        *,
        response: bool = False,
        offset: Any = None,
        groups: Any = None,
        missing: Literal["drop", "raise", "none"] = "raise",
    ) -> Rows:
        """Columns that the estimator sees for data (by default those of the fit), and labels.

        Parameters
        ----------
        data, response, offset, groups, missing
            As in :meth:`MoEResults.design`, which also names the errors.

        Returns
        -------
        Rows
            With labels (m,) as ``y``.
        """
        if not response or self._response is None:
            return super().design(
                data, response=response, offset=offset, groups=groups, missing=missing
            )
        if data is None:  # what came as arrays goes with the data of the fit
            offset = self._fit_offset if offset is None else offset
            groups = self._groups if groups is None else groups
        frame = self._response.coded(self._data(data))
        rows = super().design(frame, response=True, offset=offset, groups=groups, missing=missing)
        return replace(rows, y=self._response.labels(rows.y))

    def predict(self, data: pd.DataFrame | None = None, *, offset: Any = None) -> pd.Series:
        """The most probable class of each row of a data frame.

        Parameters
        ----------
        data, offset
            As in :meth:`MoEResults.predict`, which also names the errors.

        Returns
        -------
        Series of length n, indexed as ``data``
            Labels; NaN where values are missing.
        """
        import pandas as pd

        rows = self.design(data, offset=offset, missing="drop")
        label = self.estimator.predict(rows.X, offset=rows.offset)
        if len(label) != len(rows.index):
            full = np.full(len(rows.index), np.nan, dtype=object)
            full[rows.kept] = label
            label = full
        return pd.Series(label, index=rows.index, name=self.spec.y_name)

    def predict_proba(
        self, data: pd.DataFrame | None = None, *, offset: Any = None
    ) -> pd.DataFrame:
        """Probabilities of the classes for each row of a data frame.

        Parameters
        ----------
        data, offset
            As in :meth:`MoEResults.predict`, which also names the errors.

        Returns
        -------
        DataFrame of shape (n, C)
            One column per class; NaN where values are missing.
        """
        import pandas as pd

        rows = self.design(data, offset=offset, missing="drop")
        proba = rows.spread(self.estimator.predict_proba(rows.X, offset=rows.offset))
        return pd.DataFrame(proba, index=rows.index, columns=pd.Index(self.classes, name="class"))

    def predict_experts(
        self, data: pd.DataFrame | None = None, *, offset: Any = None
    ) -> pd.DataFrame:
        """Probabilities of the classes under each expert for each row.

        Parameters
        ----------
        data, offset
            As in :meth:`MoEResults.predict`, which also names the errors.

        Returns
        -------
        DataFrame of shape (n, K C)
            Columns by expert, then class; NaN where values are missing.
        """
        import pandas as pd

        rows = self.design(data, offset=offset, missing="drop")
        proba = rows.spread(self.estimator.predict_experts(rows.X, offset=rows.offset))
        columns = pd.MultiIndex.from_product(
            [self._experts(), self.classes], names=["expert", "class"]
        )
        return pd.DataFrame(proba.reshape(len(proba), -1), index=rows.index, columns=columns)

    def plot(self, kind: str = "calibration", **options: Any) -> Any:
        """Draw the fit; see :mod:`mixexperts.plots`.

        Parameters
        ----------
        kind : {"calibration", "decision_regions", "gate", "history", "restarts", "selection", \
                "posterior"}, default="calibration"
        **options
            Passed to the plot function.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError, TypeError
            If ``kind`` or an option cannot be used; the message names it.
        """
        plots = importlib.import_module("mixexperts.plots")
        kinds = (
            "calibration", "decision_regions", "gate", "history", "restarts", "selection",
            "posterior",
        )  # fmt: skip
        if kind not in kinds:
            raise ValueError(
                f"kind={kind!r} is not known for classes; known kinds: {', '.join(kinds)}"
            )
        return getattr(plots, f"plot_{kind}")(self, **options)

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, in sentences.

        Returns
        -------
        list of str
        """
        from mixexperts._summary import notes

        first, *others = notes(self)
        del first
        codes = ", ".join(f"{c} = {name!s}" for c, name in enumerate(self.classes))
        own = ["Experts are numbered by the mean code of the class of their rows, lowest first "
               f"({codes})."]  # fmt: skip
        if self.estimator.model_.expert.nominal:
            own.append(f"Coefficients are log odds against the class {self.classes[-1]!s}.")
        return own + others
