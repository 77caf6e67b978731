"""Results of a formula fit: named tables, the summary, and predictions for data frames."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Literal

from mixexperts._archive import saveable
from mixexperts._batch import Array
from mixexperts._result_tables import named, named_means, own_label, several_table
from mixexperts._rows import Rows, union_design

if TYPE_CHECKING:
    import pandas as pd

    from mixexperts.estimators import MoERegressor
    from mixexperts.formula import FormulaSpec
    from mixexperts.predictive import Predictive


@saveable("MoEResults")
class MoEResults:
    """A fitted mixture of experts with names, as :func:`mixexperts.moe` returns it.

    In everything named (tables, plots, columns of data frames) the experts are numbered from
    1 to K in ascending order of their mean fitted response over the rows they explain; in
    arrays expert k is row k - 1.

    Parameters
    ----------
    estimator : MoERegressor
        The fitted scikit-learn estimator behind the results.
    spec : FormulaSpec
        The formula with what it learned from the data of the fit.
    criteria : dict of str to float
        ``aic``, ``bic`` and ``icl`` on the data of the fit.
    n_dropped : int, default=0
        Rows left out because of missing values.
    selection : DataFrame, optional
        Criteria against the number of experts, if several were fitted.
    data, offset : DataFrame and ndarray of shape (n,), optional
        The n rows used, by reference, and their offset if it came as an array. Neither is saved.
    groups : str or ndarray of shape (n,), optional
        Column of the groups of rows that share one expert, or their labels (not saved).
    evidence : dict, optional
        ``log_prior`` and ``partial_labels`` of the n rows; not saved.

    Attributes
    ----------
    estimator, spec, n_dropped, selection, data, evidence, formula
        As given; the formula is that of experts and gate.
    llf, aic, bic, icl : float
        Log-likelihood and criteria (lower is better) on the data of the fit.
    nobs, df_model, df_resid : float, int, float
        Rows used, or the sum of their weights; free parameters; the difference.
    ngroups : float or None
        Groups of rows that share one expert, the n of BIC.
    converged, restarts : bool, DataFrame
        Whether the best start converged; one row per start.
    """

    def __init__(
        self,
        estimator: MoERegressor,
        spec: FormulaSpec,
        criteria: dict[str, float],
        *,
        n_dropped: int = 0,
        selection: pd.DataFrame | None = None,
        data: pd.DataFrame | None = None,
        offset: Array | None = None,
        groups: Any = None,
        evidence: dict[str, Any] | None = None,
    ) -> None:
        self.estimator = estimator
        self.spec = spec
        self.n_dropped = n_dropped
        self.selection = selection
        self.data = data
        self._criteria = criteria
        # An offset given as an array belongs to the data of the fit, and goes where they go.
        self._fit_offset = offset
        self._groups, self.evidence = groups, evidence or {}

    def __getstate__(self) -> dict[str, Any]:
        groups = self._groups if isinstance(self._groups, str) else None
        gone: dict[str, Any] = {"data": None, "_fit_offset": None, "evidence": {}}
        return {**vars(self), **gone, "_groups": groups}

    def to_state(self) -> dict[str, Any]:
        """What a saved file holds; the data are not in it.

        Returns
        -------
        dict
        """
        state = self.__getstate__()
        state["spec"] = self.spec.to_state()
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MoEResults:
        """Inverse of :meth:`to_state`."""
        from mixexperts.formula import FormulaSpec

        results = cls.__new__(cls)
        vars(results).update({"_groups": None, "evidence": {}, **state})
        results.spec = FormulaSpec.from_state(state["spec"])
        return results

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file that :func:`mixexperts.load` reads; data are not saved.

        Parameters
        ----------
        path : path-like
            As in :meth:`mixexperts.MoERegressor.save`, which also names the errors.
        """
        from mixexperts.io import save

        save(self, path)

    # --- numbers -----------------------------------------------------------------------------

    @property
    def formula(self) -> str:
        """Formula of the fit."""
        return self.spec.formula

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return len(self.estimator.mass_)

    @property
    def llf(self) -> float:
        """Log-likelihood."""
        return float(self.estimator.log_likelihood_)

    @property
    def aic(self) -> float:
        """Akaike's criterion; lower is better."""
        return self._criteria["aic"]

    @property
    def bic(self) -> float:
        """Schwarz's criterion; lower is better."""
        return self._criteria["bic"]

    @property
    def icl(self) -> float:
        """Integrated completed likelihood (BIC plus twice the entropy); lower is better."""
        return self._criteria["icl"]

    @property
    def nobs(self) -> float:
        """Number of rows used, or the sum of their weights."""
        est = self.estimator
        return float(getattr(est, "row_weight_sum_", est.weight_sum_))

    @property
    def ngroups(self) -> float | None:
        """Number of groups, or the sum of their weights; None where rows stand alone."""
        grouped = getattr(self.estimator, "has_groups_", False)
        return float(self.estimator.weight_sum_) if grouped else None

    @property
    def df_model(self) -> int:
        """Number of free parameters."""
        return int(self.estimator.n_parameters_)

    @property
    def df_resid(self) -> float:
        """``nobs - df_model``."""
        return self.nobs - self.df_model

    @property
    def converged(self) -> bool:
        """Whether the best start converged."""
        return bool(self.estimator.converged_)

    @property
    def restarts(self) -> pd.DataFrame:
        """One row per start."""
        return self.estimator.restarts_

    @property
    def expert_table(self) -> pd.DataFrame:
        """Expert parameters, one column per expert: terms (``y1: x`` of several y) and scales."""
        import pandas as pd

        est = self.estimator
        if est.model_.expert.multivariate:
            return several_table(est, self.spec.y_names, self._experts())
        rows: dict[str, Array] = {}
        if est.frame_.expert_map.intercept:
            rows[own_label("Intercept", est.expert_terms_)] = est.intercept_
        rows |= dict(zip(est.expert_terms_, est.coef_.T, strict=True))
        for name in est.model_.expert.param_names:
            if name != "coef":
                rows[own_label(name, est.expert_terms_)] = getattr(est, f"{name}_")
        return pd.DataFrame.from_dict(rows, orient="index", columns=self._experts())

    @property
    def gate_table(self) -> pd.DataFrame:
        """Gate parameters, one column per expert.

        Coefficients of a softmax gate, zero for the last expert; weights, means, variances and
        covariances of a Gaussian gate; coefficients of the branches that lead to an expert for a
        tree, missing where it does not lie under a split.
        """
        import pandas as pd

        est = self.estimator
        gate, terms = est.model_.gate, est.gate_terms_
        raw = est.frame_.raw(est.model_, est.theta_)
        own = gate.own_rows(raw, est.frame_.gate_map)
        rows = {own_label(name, terms): values for name, values in own.items()}
        if "gate_coef" in raw:
            rows |= dict(zip(terms, raw["gate_coef"].T, strict=True))
        return pd.DataFrame.from_dict(rows, orient="index", columns=self._experts())

    @property
    def params(self) -> pd.Series:
        """All free parameters, indexed by part (``expert`` or ``gate``), expert and term.

        What is no free parameter is left out: the reference's coefficients of a softmax gate,
        the last weight of a Gaussian gate, repeated entries of a tree.
        """
        from mixexperts._tables import free_parameters

        return free_parameters(self)

    def odds_ratios(self) -> pd.DataFrame:
        """Factors by which the odds of an expert against the last change per unit of a column.

        Returns
        -------
        DataFrame
            One row per term of the gate, one column per expert but the last.

        Raises
        ------
        UnsupportedCombinationError
            If the gate's log odds are not linear in its columns; the message says why.
        """
        from mixexperts._tables import odds_ratios

        return odds_ratios(self)

    def _experts(self) -> pd.Index:
        import pandas as pd

        return pd.RangeIndex(1, self.n_experts + 1, name="expert")

    # --- predictions -------------------------------------------------------------------------

    def design(
        self,
        data: pd.DataFrame | None = None,
        *,
        response: bool = False,
        offset: Any = None,
        groups: Any = None,
        missing: Literal["drop", "raise", "none"] = "raise",
    ) -> Rows:
        """Columns that the estimator sees for data (by default those of the fit), and y.

        Parameters
        ----------
        data : DataFrame, optional
        response : bool, default=False
            Whether to evaluate the response too.
        offset : array-like of shape (n,), optional
            By default the offset of the fit, if there was one.
        groups : str or array-like of shape (n,), optional
            With ``response``, and of a fit that had groups: by default their column.
        missing : {"raise", "drop", "none"}, default="raise"
            What to do with rows that lack a value.

        Returns
        -------
        Rows
            With ``X`` (m, n_columns), ``y`` and ``offset`` (m,) or None, of the m rows kept.

        Raises
        ------
        ValueError
            If data, columns, the offset or (with ``"raise"``) values are missing, or a factor
            has a level that the fit never saw.
        """
        frame = self._data(data)
        if offset is None and data is None:
            offset = self._fit_offset
        if not response or self.ngroups is None:
            groups = None
        elif groups is None and (data is None or isinstance(self._groups, str)):
            groups = self._groups
        built = self.spec.transform(
            frame,
            response=response,
            offset=offset,
            groups=groups,
            missing=missing,
            partial=self.estimator.model_.expert.allows_missing,
        )
        columns = union_design(built, frame.index[built.rows])
        extra = built.extra.get("offset"), built.rows, frame.index, built.extra.get("groups")
        return Rows(columns, built.y, *extra)

    def _data(self, data: pd.DataFrame | None) -> pd.DataFrame:
        if data is not None:
            import pandas as pd

            return data if isinstance(data, pd.DataFrame) else pd.DataFrame(data)
        if self.data is None:
            raise ValueError("data is missing: a loaded model holds no data; pass a data frame")
        return self.data

    def predict(self, data: pd.DataFrame | None = None, *, offset: Any = None) -> Any:
        """Mean of the response for each row of a data frame (binomial: probability of success).

        Parameters
        ----------
        data : DataFrame, optional
            Rows to predict; by default those of the fit. Columns are matched by name. Rows
            with missing values give NaN.
        offset : array-like of shape (n,), optional
            By default the offset column of the fit, if there was one.

        Returns
        -------
        Series of length n (of d responses a DataFrame (n, d)), indexed as ``data``

        Raises
        ------
        ValueError
            As in :meth:`design`.
        """
        rows = self.design(data, offset=offset, missing="drop")
        mean = rows.spread(self.estimator.predict(rows.X, offset=rows.offset))
        return named_means(mean, rows.index, self.spec.y_names)

    def predict_experts(
        self, data: pd.DataFrame | None = None, *, offset: Any = None
    ) -> pd.DataFrame:
        """Mean of each expert for each row.

        Parameters
        ----------
        data, offset
            As in :meth:`predict`, which also names the errors.

        Returns
        -------
        DataFrame of shape (n, K), or of d responses (n, K d)
            Indexed as ``data``; NaN where values are missing.
        """
        rows = self.design(data, offset=offset, missing="drop")
        return self._named(self.estimator.predict_experts(rows.X, offset=rows.offset), rows)

    def gate_proba(self, data: pd.DataFrame | None = None, *, offset: Any = None) -> pd.DataFrame:
        """Mixing weights of each row given its features.

        Parameters
        ----------
        data, offset
            As in :meth:`predict`, which also names the errors.

        Returns
        -------
        DataFrame of shape (n, K)
            Indexed as ``data``; NaN where values are missing.
        """
        rows = self.design(data, offset=offset, missing="drop")
        return self._named(self.estimator.gate_proba(rows.X), rows)

    def posterior(
        self, data: pd.DataFrame | None = None, *, offset: Any = None, groups: Any = None
    ) -> pd.DataFrame:
        """Responsibilities: probabilities of the experts given features and response.

        Parameters
        ----------
        data, offset
            As in :meth:`predict`, which also names the errors. Evidence about the experts
            counts for the data of the fit.
        groups : str or array-like of shape (n,), optional
            Groups of the rows, of a fit that had them; by default their column.

        Returns
        -------
        DataFrame of shape (n, K)
            Indexed as ``data``; NaN where values are missing.
        """
        rows = self.design(data, response=True, offset=offset, groups=groups, missing="drop")
        known = self.evidence if data is None else {}
        resp = self.estimator.responsibilities(
            rows.X, rows.y, offset=rows.offset, groups=rows.groups, **known
        )
        return self._named(resp, rows)

    def predictive(
        self, data: pd.DataFrame | None = None, *, offset: Any = None, trials: Any = None
    ) -> Predictive:
        """Predictive distribution of the response for each row.

        Parameters
        ----------
        data, offset
            As in :meth:`predict`.
        trials : str, int or array-like of shape (n,), optional
            Trials of binomial experts, or the column that holds them: the distribution is that
            of the successes. By default one trial.

        Returns
        -------
        Predictive

        Raises
        ------
        ValueError
            As in :meth:`design`, also for missing values: a distribution has no NaN.
        """
        rows = self.design(data, offset=offset)
        if isinstance(trials, str):
            frame = self._data(data)
            if trials not in frame.columns:
                raise ValueError(f"trials={trials!r} is not a column of data")
            trials = frame[trials]
        return self.estimator.predictive(rows.X, offset=rows.offset, trials=trials)  # type: ignore[no-any-return]

    def _named(self, values: Array, rows: Rows) -> pd.DataFrame:
        return named(rows.spread(values), rows.index, self.spec.y_names)

    # --- reading -----------------------------------------------------------------------------

    def plot(self, kind: str = "fit", **options: Any) -> Any:
        """Draw the fit; see :mod:`mixexperts.plots`.

        Parameters
        ----------
        kind : {"fit", "gate", "history", "restarts", "selection", "posterior"}, default="fit"
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
        kinds = ("fit", "gate", "history", "restarts", "selection", "posterior")
        if kind not in kinds:
            raise ValueError(f"kind={kind!r} is not known; known kinds: {', '.join(kinds)}")
        return getattr(plots, f"plot_{kind}")(self, **options)

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, in sentences.

        Returns
        -------
        list of str
        """
        from mixexperts._summary import notes

        return notes(self)

    def summary(self) -> Any:
        """Summary in the manner of statsmodels: fit, experts, gate, notes.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            Prints as text; ``as_html()`` and ``as_latex()`` give the other forms.
        """
        from mixexperts._summary import summary

        return summary(self)

    def __repr__(self) -> str:
        return (
            f"MoEResults({self.formula!r}, n_experts={self.n_experts}, llf={self.llf:.4f}, "
            f"bic={self.bic:.4f}, status={self.estimator.status_!r})"
        )

    def _repr_html_(self) -> str:
        import html

        from mixexperts._summary import summary

        markup: str = summary(self, html.escape).as_html()
        return markup
