"""Penalised mixtures of experts that choose their penalty."""

from __future__ import annotations

from typing import Any

from mixexperts._archive import saveable
from mixexperts.estimators._classification import Classification
from mixexperts.estimators._lasso_cv import LassoCVBase
from mixexperts.estimators._regression import Regression
from mixexperts.estimators.lasso import LassoMoEClassifier, LassoMoERegressor


@saveable("LassoMoERegressorCV")
class LassoMoERegressorCV(Regression, LassoCVBase):
    """Penalised mixture-of-experts regression whose penalty and K are chosen from the data.

    Fits paths of :class:`LassoMoERegressor` for each number of experts and each ratio of the two
    strengths, and chooses among all their points by cross-validated log-likelihood or by an
    information criterion. The chosen fit is the point of the path of all rows.

    Parameters
    ----------
    n_experts : int or sequence of int, default=2
        Numbers of experts to try.
    alphas : sequence of float, default=None
        Strengths of the experts' penalty, for all numbers of experts and ratios. None makes a grid
        for each: ``n_alphas`` values from the smallest at which all slopes zero is stationary down
        to ``alpha_min_ratio`` times that, evenly on the log scale.
    n_alphas : int, default=30
    alpha_min_ratio : float in (0, 1), default=None
        None: 0.01, or 0.05 if there are at least as many columns as rows.
    gate_ratio : float or sequence of float, default=(0.5, 1.0, 2.0)
        Ratios of the two strengths to try: ``gate_alpha`` is ``gate_ratio`` times ``alpha`` times
        the standard deviation of y (of Gaussian and other experts of a response that may be
        rescaled; times 1 for counts, and with ``by_scale``), so that the unit of y does not
        matter. One expert has no coefficients of a gate, and one path: that of the first ratio.
    cv : int, splitter or iterable of pairs of row numbers, default=5
        Folds of ``criterion="cv"``. Those of a number are drawn by ``random_state``, from rows in
        the order of the response so that all hold it alike; splitters are those of scikit-learn.
    criterion : {"cv", "bic", "ebic", "mbic", "aic"}, default="cv"
        ``"cv"``: the mean log-likelihood of held-out rows, per unit of weight. The others are of
        the path of all rows, without folds; :class:`LassoPath` has their formulas. BIC is the
        cheap choice with few columns, EBIC with many.
    ebic_gamma : float in [0, 1], default=0.5
        Of EBIC; the larger, the sparser.
    one_se : bool, default=False
        With ``criterion="cv"``, take the point with the fewest degrees of freedom (``df`` of all
        rows) whose mean score lies within one standard error of the best.
    l1_ratio, penalty, concavity, penalty_weights, gate_penalty_weights, groups
        As in :class:`LassoMoERegressor`. Of the adaptive lasso ``alpha`` is that of pilot and fit.
    standardize, by_scale, gate_coding, expert, expert_features, gate_features
        As in :class:`LassoMoERegressor`. Columns are standardised in each fold anew; ``"auto"``
        goes by all rows.
    init : str, default="auto"
        Kind of starts that compete along the path. Every fold makes starts of its own, so that no
        fit has seen the rows that judge it.
    n_init, max_iter, tol : int, int, float
        As in :class:`LassoMoERegressor`; ``n_init`` starts at some points of each path.
    relax : bool, default=False
        Judge, and report, the dense refits of all points.
    n_jobs : int or None, default=None
        Paths fitted in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of folds and starts.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    alpha_, gate_alpha_, gate_ratio_ : float
    n_experts_ : int
        What was chosen.
    best_estimator_ : LassoMoERegressor
        The fit at the chosen point. All of its fitted attributes are also attributes here.
    alphas_ : ndarray of shape (n_alphas,)
        Grid of the chosen number of experts and ratio, descending.
    alpha_max_ : float
        The largest of all grids; NaN where ``alphas`` were given.
    best_index_ : int
        Row of ``cv_results_``, and ``point`` of ``path_``.
    cv_results_ : DataFrame
        One row per point of all paths of all rows, columns as in ``LassoPath.table``; with
        ``criterion="cv"`` also ``mean_score``, ``std_error``, ``failed_folds`` (without a finite
        score), and ``fold1``, ``fold2``, ...
    path_ : DataFrame
        Slopes of all points that are not zero, as in ``LassoPath.frame``.
    coef_, intercept_, scale_, gate_coef_, ...
        As in :class:`LassoMoERegressor`.

    See Also
    --------
    mixexperts.plots.plot_cv : Scores against ``alpha``.
    mixexperts.plots.plot_path : Coefficients against ``alpha``.

    Notes
    -----
    The score of a point is the mean over the folds, weighted by their weights; its standard error
    comes from the spread of the folds, with divisor ``n_folds - 1``. Where a held-out row has no
    density under a fit, the point is never chosen, and ``fit`` says so. A column that does not vary
    in the training rows of a fold has no coefficient there. Degenerate solutions are never
    preferred to sound ones.

    The fit does not know that its penalty was chosen: for inference see
    :func:`mixexperts.stability_selection` and :func:`mixexperts.sample_splitting`.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 30))
    >>> first = X[:, 0] + 0.5 * rng.standard_normal(200) > 0.0
    >>> y = np.where(first, 3.0 + 2.0 * X[:, 1], -3.0 * X[:, 2]) + rng.standard_normal(200)
    >>> est = mx.LassoMoERegressorCV(2, gate_ratio=1.0, criterion="ebic", random_state=0).fit(X, y)
    >>> [int(j) for j in np.flatnonzero(np.abs(est.coef_).max(axis=0) > 1.0)]
    [1, 2]
    """

    _single = LassoMoERegressor

    def __init__(
        self,
        n_experts: Any = 2,
        *,
        alphas: Any = None,
        n_alphas: int = 30,
        alpha_min_ratio: float | None = None,
        gate_ratio: Any = (0.5, 1.0, 2.0),
        cv: Any = 5,
        criterion: str = "cv",
        ebic_gamma: float = 0.5,
        one_se: bool = False,
        l1_ratio: float = 1.0,
        penalty: str = "lasso",
        concavity: float | None = None,
        penalty_weights: Any = None,
        gate_penalty_weights: Any = None,
        groups: Any = None,
        standardize: bool = True,
        by_scale: bool | str = "auto",
        gate_coding: str = "symmetric",
        expert: Any = "gaussian",
        expert_features: Any = None,
        gate_features: Any = None,
        init: str = "auto",
        n_init: int = 10,
        max_iter: int = 1000,
        tol: float = 1e-7,
        relax: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_experts = n_experts
        self.alphas = alphas
        self.n_alphas = n_alphas
        self.alpha_min_ratio = alpha_min_ratio
        self.gate_ratio = gate_ratio
        self.cv = cv
        self.criterion = criterion
        self.ebic_gamma = ebic_gamma
        self.one_se = one_se
        self.l1_ratio = l1_ratio
        self.penalty = penalty
        self.concavity = concavity
        self.penalty_weights = penalty_weights
        self.gate_penalty_weights = gate_penalty_weights
        self.groups = groups
        self.standardize = standardize
        self.by_scale = by_scale
        self.gate_coding = gate_coding
        self.expert = expert
        self.expert_features = expert_features
        self.gate_features = gate_features
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.relax = relax
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, offset: Any = None
    ) -> LassoMoERegressorCV:
        """Fit all paths, choose, and take over the chosen fit.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            Features, numeric, finite and dense.
        y : array-like of shape (n,)
            Response, finite, as in :meth:`LassoMoERegressor.fit`.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0; the scores of held-out rows are weighted too.
        offset : array-like of shape (n,), optional
            As in :meth:`LassoMoERegressor.fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, or no point has a finite score; the
            message names it.

        Warns
        -----
        UserWarning
            If the choice stands at the end of the grid, or some folds have no finite score.
        DegenerateFitWarning, ConvergenceWarning
            If the chosen solution is degenerate, or not converged.
        """
        self._fit(X, y, sample_weight, offset)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags


@saveable("LassoMoEClassifierCV")
class LassoMoEClassifierCV(Classification, LassoCVBase):
    """Penalised mixture-of-experts classification whose penalty and K are chosen from the data.

    Parameters
    ----------
    n_experts, alphas, n_alphas, alpha_min_ratio
        As in :class:`LassoMoERegressorCV`.
    gate_ratio : float or sequence of float, default=(0.5, 1.0, 2.0)
        Ratios ``gate_alpha / alpha`` to try. One expert has one path, that of the first ratio.
    cv : int, splitter or iterable of pairs of row numbers, default=5
        Folds of ``criterion="cv"``. Those of a number hold each class alike.
    criterion, ebic_gamma, one_se
        As in :class:`LassoMoERegressorCV`.
    l1_ratio, penalty, concavity, penalty_weights, gate_penalty_weights, groups
        As in :class:`LassoMoEClassifier`.
    standardize, gate_coding, expert, expert_features, gate_features
        As in :class:`LassoMoEClassifier`.
    init, n_init, max_iter, tol, relax, n_jobs, random_state, verbose
        As in :class:`LassoMoERegressorCV`.

    Attributes
    ----------
    alpha_, gate_alpha_, gate_ratio_, n_experts_, alphas_, alpha_max_, best_index_
        As in :class:`LassoMoERegressorCV`.
    best_estimator_ : LassoMoEClassifier
        The fit at the chosen point. All of its fitted attributes are also attributes here.
    cv_results_, path_ : DataFrame
        As in :class:`LassoMoERegressorCV`.
    classes_, coef_, intercept_, gate_coef_, ...
        As in :class:`LassoMoEClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 20))
    >>> score = np.where(X[:, 0] > 0.0, 3.0 * X[:, 1], -3.0 * X[:, 1])
    >>> y = np.where(score + rng.logistic(size=300) > 0.0, "yes", "no")
    >>> est = mx.LassoMoEClassifierCV(2, gate_ratio=1.0, criterion="bic", random_state=0)
    >>> est.fit(X, y).predict(X).shape, est.n_experts_
    ((300,), 2)
    """

    _single = LassoMoEClassifier

    def __init__(
        self,
        n_experts: Any = 2,
        *,
        alphas: Any = None,
        n_alphas: int = 30,
        alpha_min_ratio: float | None = None,
        gate_ratio: Any = (0.5, 1.0, 2.0),
        cv: Any = 5,
        criterion: str = "cv",
        ebic_gamma: float = 0.5,
        one_se: bool = False,
        l1_ratio: float = 1.0,
        penalty: str = "lasso",
        concavity: float | None = None,
        penalty_weights: Any = None,
        gate_penalty_weights: Any = None,
        groups: Any = None,
        standardize: bool = True,
        gate_coding: str = "symmetric",
        expert: Any = "multinomial",
        expert_features: Any = None,
        gate_features: Any = None,
        init: str = "auto",
        n_init: int = 10,
        max_iter: int = 1000,
        tol: float = 1e-7,
        relax: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_experts = n_experts
        self.alphas = alphas
        self.n_alphas = n_alphas
        self.alpha_min_ratio = alpha_min_ratio
        self.gate_ratio = gate_ratio
        self.cv = cv
        self.criterion = criterion
        self.ebic_gamma = ebic_gamma
        self.one_se = one_se
        self.l1_ratio = l1_ratio
        self.penalty = penalty
        self.concavity = concavity
        self.penalty_weights = penalty_weights
        self.gate_penalty_weights = gate_penalty_weights
        self.groups = groups
        self.standardize = standardize
        self.gate_coding = gate_coding
        self.expert = expert
        self.expert_features = expert_features
        self.gate_features = gate_features
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.relax = relax
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, offset: Any = None
    ) -> LassoMoEClassifierCV:
        """Fit all paths, choose, and take over the chosen fit.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            Features, numeric, finite and dense.
        y : array-like of shape (n,)
            Labels of the classes, as in :meth:`LassoMoEClassifier.fit`.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0; the scores of held-out rows are weighted too.
        offset : array-like of shape (n,), optional
            As in :meth:`LassoMoEClassifier.fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, a fold lacks a class, or no point has a
            finite score; the message names it.

        Warns
        -----
        UserWarning
            If the choice stands at the end of the grid, or some folds have no finite score.
        DegenerateFitWarning, ConvergenceWarning
            If the chosen solution is degenerate, or not converged.
        """
        self._fit(X, y, sample_weight, offset)
        return self
