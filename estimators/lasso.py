"""Penalised mixtures of experts, for regression and for classification."""

from __future__ import annotations

from typing import Any

from mixexperts._archive import saveable
from mixexperts.estimators._classification import Classification
from mixexperts.estimators._labels import class_codes, classes_of, labels, refuse_one, row_weight
from mixexperts.estimators._lasso import LassoBase
from mixexperts.estimators._lasso_path import LassoPathMixin
from mixexperts.estimators._lasso_problem import Problem
from mixexperts.estimators._regression import Regression


@saveable("LassoMoERegressor")
class LassoMoERegressor(LassoPathMixin, Regression, LassoBase):
    r"""Mixture-of-experts regression with penalties on the experts and on the softmax gate.

    Maximises, over the coefficients :math:`b_{kj}` of the experts and :math:`a_{kj}` of the gate
    on standardised columns,

    .. math:: \frac1W \sum_i w_i \log p(y_i \mid x_i)
        - \mathrm{alpha} \sum_{k, j} \mathrm{pen}(b_{kj})
        - \mathrm{gate\_alpha} \sum_{k, j} \mathrm{pen}(a_{kj})

    with :math:`W = \sum_i w_i`, n without weights. Intercepts, scales and shapes are free. Columns
    may be many more than rows.

    Parameters
    ----------
    n_experts : int, default=2
        Number of experts K.
    alpha, gate_alpha : float, default=0.02
        Strengths of the penalties on experts and gate, per row: the lambda and gamma of papers
        that penalise the sum over the rows are ``W * alpha`` and ``W * gate_alpha``. ``alpha``
        is stated for y in its own unit: for y / 1000 the same fit is that with ``1000 * alpha``;
        with ``by_scale`` it has no unit.
    l1_ratio : float, default=1.0
        Elastic net: ``pen(b) = l1_ratio |b| + (1 - l1_ratio) / 2 b ** 2``, as in scikit-learn;
        for Gaussian and other experts of a response that may be rescaled the square is taken in
        units of the standard deviation of y.
    penalty : {"lasso", "adaptive", "group", "mcp", "scad"}, default="lasso"
        ``"lasso"``: with ``l1_ratio`` the elastic net. ``"adaptive"``: see the notes.
        ``"group"``: a column (or the columns of a group) enters all experts and the gate or none
        of them; the penalty is the sum over groups of ``sqrt(size * (alpha ** 2 |b| ** 2 +
        gate_alpha ** 2 |a| ** 2))``. ``"mcp"`` and ``"scad"`` are concave: they leave large
        coefficients unshrunk.
    concavity : float or None, default=None
        Of MCP, > 1, by default 3; of SCAD, > 2, by default 3.7; both for the standardised
        response. Power of the adaptive weights, by default 1.
    penalty_weights, gate_penalty_weights : array-like of shape (n_features,), default=None
        Factors >= 0 of the penalty of each column of X; 0 leaves a column unpenalised.
    groups : array-like of shape (n_features,), default=None
        With ``penalty="group"``, labels of the columns: those with the same label, such as the
        dummies of a factor, enter together. None: each column by itself.
    standardize : bool, default=True
        Whether the penalty sees coefficients times the standard deviations of their columns
        (weighted, with divisor W). They are reported on the scale of X in any case. False
        penalises the columns as they are.
    by_scale : bool or "auto", default="auto"
        Whether the penalty sees the experts' coefficients divided by the scale of their expert,
        ``pen(b_kj / scale_k)``, and ``alpha`` has no unit; for Gaussian experts. ``"auto"`` does so
        where there are at least as many columns as rows, since there is no maximum otherwise; see
        the notes.
    gate_coding : {"symmetric", "reference"}, default="symmetric"
        ``"symmetric"``: the penalty acts on K rows of gate coefficients, so that the fit does not
        depend on the numbers of the experts. ``"reference"``: on K - 1 rows, that of the last
        expert being zero, as papers have it; which expert is the last is part of the fit.
    expert : str or Expert, default="gaussian"
        Family of the experts, by name or an instance from :mod:`mixexperts.experts`:
        ``"gaussian"``, ``"poisson"``, ``"binomial"``, and families with one linear predictor, such
        as ``"gamma"`` or ``"student_t"``.
    expert_features, gate_features : list of str or int, slice, mask or None, default=None
        Columns that the experts and the gate may use; None means all.
    init : str, array-like, dict, estimator or list of these, default="auto"
        Where a fit starts, as in :class:`MoERegressor`.
    n_init : int, default=10
        Number of starts that are made where ``init`` is a name.
    max_iter : int, default=1000
        Largest number of iterations per start.
    tol : float, default=1e-7
        A start has converged when its optimality conditions hold this closely, see
        ``kkt_violation_``.
    relax : bool, default=False
        Whether the coefficients that are not zero are fitted again without penalty, each
        expert's and the gate's own. ``coef_`` and what follows from it are then those.
    n_jobs : int or None, default=None
        Used where many fits are made, as in joblib; a single fit runs on one core, because its
        starts are compared with each other on the way.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts.
    verbose : int, default=0
        1 prints a line on the best start, 2 one per start.
    warm_start : bool, default=False
        Start from the previous fit alone, if there is one with the same number of experts.

    Attributes
    ----------
    coef_ : ndarray of shape (n_experts, n_terms)
        Coefficients of the experts on the scale of X and y as given.
    intercept_ : ndarray of shape (n_experts,)
    scale_ : ndarray of shape (n_experts,)
        Of Gaussian experts, in the unit of y; other families have their own shapes.
    gate_coef_ : ndarray of shape (n_experts, n_gate_features)
        As they are penalised. Of rows that give the same mixing weights those with the smallest
        penalty, and of these the ones of smallest sum of squares: with the lasso and two experts
        the second row is minus the first. With ``gate_coding="reference"`` the last row is zero.
    gate_intercept_ : ndarray of shape (n_experts,)
        Sums to zero; with ``gate_coding="reference"`` the last is zero.
    lasso_coef_, lasso_gate_coef_ : ndarray
        With ``relax=True`` the penalised coefficients, shaped like ``coef_`` (n_experts, n_terms)
        and ``gate_coef_``.
    active_, gate_active_ : ndarray of bool
        Which coefficients are not zero, shaped like ``coef_`` (n_experts, n_terms) and
        ``gate_coef_``.
    support_ : ndarray of bool of shape (n_features,)
        Columns that an expert or the gate uses.
    n_nonzero_ : int
        Slopes that are not zero. Of the gate's K rows at most K - 1 count for a column: only
        their differences matter.
    by_scale_ : bool
        Whether the penalty saw coefficients by their expert's scale.
    df_, n_parameters_ : int
        Degrees of freedom that AIC, BIC and ICL use: ``n_nonzero_`` and the intercepts, scales
        and shapes (Zou, Hastie and Tibshirani 2007 for the lasso of one Gaussian expert; the same
        count is used for all penalties).
    kkt_violation_ : float
        Largest distance, per unit of weight and on standardised columns and response, of the
        gradient of the log-likelihood from what the penalty allows; zero at a stationary point.
    log_likelihood_, objective_ : float
        Log-likelihood, and the same less the penalties, sums over rows. With ``relax=True`` the
        first is that of the second fit, the other that of the penalised one.
    history_ : ndarray of shape (n_accepted,)
        Objective after each iteration of the best start; it never falls.
    n_iter_, status_, converged_, flags_ : int, str, bool, tuple of str
        Iterations of the best start, how it ended, and what is degenerate, in words.
    mass_ : ndarray of shape (n_experts,)
        Effective rows of each expert.
    restarts_ : DataFrame
        One row per start, columns as in :class:`MoERegressor`; of the adaptive lasso the starts
        of its pilot.
    expert_terms_, gate_terms_ : tuple of str
        Names of the columns of ``coef_`` and ``gate_coef_``.
    weight_sum_, row_weight_sum_, has_offset_, has_groups_, has_log_prior_
        As in :class:`MoERegressor`.
    separated_, separated_experts_
        As in :class:`MoERegressor`, of coefficients that the penalty does not hold: those of a
        refit with ``relax=True``, of MCP and SCAD, and of columns of weight 0.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Experts are ordered by their mean fitted response over the rows they explain, lowest first;
    with ``gate_coding="reference"`` all but the last.

    The adaptive lasso (Zou 2006) first fits the lasso with the same ``alpha`` and ``gate_alpha``,
    from all starts, and then once more from there with weights ``1 / |b| ** concavity``, where
    ``b`` is the pilot's coefficient on the columns as the penalty sees them, in units of the
    standard deviation of y (of the linear predictor for counts; of the expert's scale with
    ``by_scale=True``). Columns of the gate have one weight each, of the mean size of their rows.
    What the pilot leaves out stays out.

    With at least as many columns as an expert has rows, Gaussian experts can interpolate: for any
    ``alpha`` the objective then grows without bound as a scale goes to zero, since the absolute
    values stay finite. Fits that ran there are flagged ``degenerate`` and never preferred to sound
    ones, but below some ``alpha`` there may be no others. With ``by_scale=True`` (Städler, Bühlmann
    and van de Geer 2010) interpolation costs more than it gains, whatever the number of columns;
    what stays is the spike of any Gaussian mixture, an expert on a row or two. MCP and SCAD are
    flat for large coefficients and have no bound either way.

    Columns that are constant are refused, columns that are copies of each other are not: which of
    them the lasso takes is arbitrary, a ridge share (``l1_ratio < 1``) takes them alike.

    There are no standard errors: the usual ones do not hold after a choice of columns by the same
    data.

    References
    ----------
    Khalili, A. (2010). New estimation and feature selection methods in mixture-of-experts models.
    Canadian Journal of Statistics 38, 519-539.
    Chamroukhi, F. and Huynh, B.-T. (2019). Regularized maximum likelihood estimation and feature
    selection in mixtures-of-experts models. Journal de la Société Française de Statistique 160.
    Städler, N., Bühlmann, P. and van de Geer, S. (2010). l1-penalization for mixture regression
    models. TEST 19, 209-256.
    Zou, H. (2006). The adaptive lasso and its oracle properties. Journal of the American
    Statistical Association 101, 1418-1429.
    Zou, H., Hastie, T. and Tibshirani, R. (2007). On the degrees of freedom of the lasso. Annals
    of Statistics 35, 2173-2192.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 30))
    >>> first = X[:, 0] + 0.5 * rng.standard_normal(200) > 0.0
    >>> y = np.where(first, 3.0 + 2.0 * X[:, 1], -3.0 * X[:, 2]) + rng.standard_normal(200)
    >>> est = mx.LassoMoERegressor(2, alpha=0.05, gate_alpha=0.03, random_state=0).fit(X, y)
    >>> [int(j) for j in np.flatnonzero(np.abs(est.coef_).max(axis=0) > 1.0)]
    [1, 2]
    """

    def __init__(
        self,
        n_experts: int = 2,
        alpha: float = 0.02,
        gate_alpha: float = 0.02,
        *,
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
        init: Any = "auto",
        n_init: int = 10,
        max_iter: int = 1000,
        tol: float = 1e-7,
        relax: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.n_experts = n_experts
        self.alpha = alpha
        self.gate_alpha = gate_alpha
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
        self.warm_start = warm_start

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, offset: Any = None
    ) -> LassoMoERegressor:
        """Fit the mixture at one point of the penalties.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            Features, numeric, finite and dense.
        y : array-like of shape (n,)
            Response, finite. Binomial experts take zeros and ones, or the two columns successes
            and failures, (n, 2).
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0: a row of weight 2 counts as the row twice.
        offset : array-like of shape (n,), optional
            Known part of every expert's linear predictor: of the mean in units of y, or for
            counts of the log mean (log exposure) or the log odds.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, or a column is constant; the message
            names it.

        Warns
        -----
        DegenerateFitWarning, ConvergenceWarning
            If the best solution is degenerate, or not converged.
        """
        self._fit(X, y, sample_weight, offset)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags


@saveable("LassoMoEClassifier")
class LassoMoEClassifier(LassoPathMixin, Classification, LassoBase):
    r"""Mixture-of-experts classification with penalties on the experts and on the softmax gate.

    Maximises the penalised log-likelihood of :class:`LassoMoERegressor`, with class probabilities
    :math:`P_k(y = c \mid x)` in place of the experts' densities.

    Parameters
    ----------
    n_experts, alpha, gate_alpha
        As in :class:`LassoMoERegressor`. The penalty of multinomial experts acts on the
        coefficients of all C classes, so that it knows no reference; with two classes their two
        rows are minus each other.
    l1_ratio, penalty, concavity, penalty_weights, gate_penalty_weights, groups
        As in :class:`LassoMoERegressor`. The adaptive weight of a column is the same for all
        classes of an expert, of the mean size of their coefficients.
    standardize, gate_coding
        As in :class:`LassoMoERegressor`.
    expert : str or Expert, default="multinomial"
        Family of the experts: ``"multinomial"``, or ``"binomial"`` for two classes.
    expert_features, gate_features, init, n_init, max_iter, tol, relax
        As in :class:`LassoMoERegressor`.
    n_jobs, random_state, verbose, warm_start
        As in :class:`LassoMoERegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in the order of the columns of :meth:`predict_proba`.
    coef_ : ndarray of shape (n_experts, n_classes, n_terms)
        Coefficients of all classes, as they are penalised, on the scale of X. Of rows that give
        the same probabilities those with the smallest penalty. Of binomial experts
        (n_experts, n_terms): of the log odds of the second class.
    intercept_ : ndarray of shape (n_experts, n_classes) or (n_experts,)
        Sum to zero over the classes.
    gate_coef_, gate_intercept_, lasso_coef_, lasso_gate_coef_
        As in :class:`LassoMoERegressor`.
    active_, gate_active_, support_, n_nonzero_, df_, n_parameters_
        As in :class:`LassoMoERegressor`; of the C rows of a column at most C - 1 count for each
        expert.
    kkt_violation_, log_likelihood_, objective_, history_, n_iter_, status_, converged_, flags_
        As in :class:`LassoMoERegressor`.
    mass_, restarts_, expert_terms_, gate_terms_, weight_sum_, row_weight_sum_, has_offset_
        As in :class:`LassoMoERegressor`.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Experts are ordered by the mean fitted code of the class over the rows they explain, where the
    codes 0, 1, ... stand for ``classes_``.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 20))
    >>> score = np.where(X[:, 0] > 0.0, 3.0 * X[:, 1], -3.0 * X[:, 1])
    >>> y = np.where(score + rng.logistic(size=300) > 0.0, "yes", "no")
    >>> est = mx.LassoMoEClassifier(2, alpha=0.02, gate_alpha=0.02, random_state=0).fit(X, y)
    >>> est.predict_proba(X).shape, est.coef_.shape
    ((300, 2), (2, 2, 20))
    """

    def __init__(
        self,
        n_experts: int = 2,
        alpha: float = 0.02,
        gate_alpha: float = 0.02,
        *,
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
        init: Any = "auto",
        n_init: int = 10,
        max_iter: int = 1000,
        tol: float = 1e-7,
        relax: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.n_experts = n_experts
        self.alpha = alpha
        self.gate_alpha = gate_alpha
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
        self.warm_start = warm_start

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, offset: Any = None
    ) -> LassoMoEClassifier:
        """Fit the mixture at one point of the penalties.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features)
            Features, numeric, finite and dense.
        y : array-like of shape (n,)
            Labels of the classes: text, numbers or booleans. An ordered pandas Categorical gives
            the order of the classes, otherwise they are sorted.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0: a row of weight 2 counts as the row twice.
        offset : array-like of shape (n,), optional
            Known part of every expert's linear predictor: of the log odds of each class against
            the last (multinomial), or of the second class against the first (binomial).

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, a column is constant, or y holds one class
            only; the message names it.

        Warns
        -----
        DegenerateFitWarning, ConvergenceWarning
            If the best solution is degenerate, or not converged.
        """
        self._fit(X, y, sample_weight, offset)
        return self

    def _problem(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Problem:
        if y is None:
            self._arrays(X, y)  # scikit-learn says what is missing
            raise ValueError("y is missing; give the labels of the classes")
        y = labels(y)
        weight = row_weight(sample_weight, len(y))
        classes = classes_of(y, weight)
        refuse_one(classes, y, weight)
        self._classes = classes  # what the family is told while the rows are checked
        try:
            codes = class_codes(y, classes, weight)
            return super()._problem(X, codes, sample_weight, offset)
        finally:
            del self._classes
