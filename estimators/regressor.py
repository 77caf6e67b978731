"""Mixture-of-experts regression."""

from __future__ import annotations

from typing import Any

from mixexperts._archive import saveable
from mixexperts.estimators._base import BaseMoE
from mixexperts.estimators._regression import Regression


@saveable("MoERegressor")
class MoERegressor(Regression, BaseMoE):
    r"""Mixture-of-experts regression fitted by maximum likelihood.

    .. math:: p(y \mid x) = \sum_{k=1}^K g_k(x)\, f_k(y \mid x)

    with mixing weights :math:`g_k` from a gate and densities :math:`f_k` from experts, fitted
    by EM from several starts.

    Parameters
    ----------
    n_experts : int, default=2
        Number of experts K.
    gate : str or Gate, default="softmax"
        ``"softmax"`` (weights depend on x), ``"gaussian"`` (the distribution of x is modelled
        too), ``"constant"`` (a finite mixture of regressions), ``"tree"`` (softmax gates in a
        tree), ``"sigmoid"``, ``"cosine"``, ``"top_k"``, ``"dselect_k"``, or an instance from
        :mod:`mixexperts.gates` such as ``Gaussian(covariance="tied")``.
    expert : str or Expert, default="gaussian"
        Family of the experts: ``"gaussian"``, ``"poisson"`` (counts), ``"binomial"`` (shares of
        successes, or zeros and ones), or an instance from :mod:`mixexperts.experts` such as
        ``Gaussian(degree=2)``.
    gate_features, expert_features : list of str or int, slice, mask or None, default=None
        Columns that the gate and the experts see; None means all.
    init : str, array-like, dict, estimator or list of these, default="auto"
        Where EM starts. Names: ``"kmeans"`` (on x and y), ``"residual"`` (quantiles of the
        residuals of one expert), ``"random"`` (random cells of the (x, y) space),
        ``"elemental"`` (experts fitted to a few rows each), ``"small_em"`` (the best of many
        short runs), ``"split"`` (grown from one expert by splitting the worst explained), and
        ``"auto"``, which takes these kinds in turn. Dearer ones: ``"cem"`` (the best of short runs
        of classification EM), ``"anneal"``, ``"evolve"`` (grown with annealing),
        ``"split_merge"`` (experts are merged and split as long as the likelihood rises). Or
        labels (n,), responsibilities (n, K), a dict of parameters (``intercept``, ``coef``,
        ``scale`` if the family has one and, optionally, the gate's, by the names of the
        attributes without underscore), a fitted model of at most K experts (its worst explained
        are split), or a list of these.
    n_init : int, default=10
        Number of starts.
    algorithm : {"em", "cem", "sem", "daem"} or Algorithm, default="em"
        How a start is run: EM; classification EM, which gives each row to one expert and maximises
        the classification likelihood; stochastic EM, which draws labels and then polishes the
        best draw by EM; deterministic annealing, whose last stage is EM. Or an instance from
        :mod:`mixexperts.em.variants`.
    max_iter : int, default=1000
        Largest number of passes over the data per start.
    tol : float, default=1e-8
        A start has converged when one more EM step is predicted to gain no more than this, in
        units of log-likelihood: the gradient times the step. Where plain EM gains a share
        ``1 - r`` of what is left with each step, about ``tol / (2 (1 - r))`` is left.
    accelerate : bool, default=True
        Anderson acceleration, and Newton steps at the end of a run, guarded so that the
        log-likelihood never falls. False is plain EM, whose gain alone then judges convergence.
    backend : {"auto", "numba", "numpy", "cupy"}, default="auto"
        Kernels that do the work. ``"auto"`` takes the fused numba pass where there is one;
        ``"cupy"`` an NVIDIA GPU (``pip install "mixexperts[cupy]"``), which ``"auto"`` takes
        too if X is a CuPy array.
    chunk_rows : int or None, default=None
        Rows per chunk of data that are read and prepared anew in every pass, so that no copy of
        X is made. None prepares arrays once, and chooses for sources and ``numpy.memmap``,
        which are always read in chunks. A converged fit does not depend on it. (Labels for more
        than 20,000 rows of a source or a ``numpy.memmap`` are used on a sample of that many.)
    n_jobs : int or None, default=None
        Starts run in parallel, as in joblib.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts.
    verbose : int, default=0
        1 shows a progress bar with the best log-likelihood so far, 2 also a line per start.
    warm_start : bool, default=False
        Start from the previous fit alone, if there is one with the same number of experts.
    checkpoint : path-like or None, default=None
        File that keeps finished starts and the running one's parameters. An interrupted fit
        goes on from it when fitted again with the same data and settings.
    gate_penalty, expert_penalty : Penalty, str or None, default=None
        For instance ``mixexperts.penalties.Ridge(1e-3)``, on the coefficients of the
        standardised columns; intercepts and scales are never penalised.

    Attributes
    ----------
    coef_ : ndarray of shape (n_experts, n_terms), or (n_experts, d, n_terms)
        Coefficients of the experts on the scale of X and y as given (of the linear predictor
        for counts). With ``degree > 1`` the
        terms are all monomials; ``expert_terms_`` names them. Of d responses one matrix each.
    intercept_, scale_ : ndarray of shape (n_experts,), or (n_experts, d)
        Intercepts, and for Gaussian experts standard deviations, on the scale of y.
    covariance_ : ndarray of shape (n_experts, d, d)
        Of Gaussian experts with d responses, in place of ``scale_``: their covariances given x.
    gate_coef_ : ndarray of shape (n_experts, n_gate_features)
        Coefficients of the gate; the last row is zero (reference), but for sigmoid gates and
        softmax gates with an activation or with ``features``.
    gate_intercept_ : ndarray of shape (n_experts,)
    gate_weights_, gate_means_, gate_covariances_ : ndarray
        Of a Gaussian gate, in place of the two above: weights (n_experts,), means (n_experts, d)
        and covariances of the d gate features, on their scale as given: (n_experts, d, d), (d, d)
        if tied, (n_experts, d) if diagonal, (n_experts,) if spherical.
    gate_role_, gate_temperature_ : ndarray
        Of softmax gates with an activation or with ``features``: the entry of ``features`` that an
        expert uses, (n_experts,), -1 for the reference; and an estimated temperature.
    gate_leaf_, gate_split_intercept_, gate_split_coef_ : ndarray
        Of a tree: the leaf of each expert (n_experts,), and the coefficients of its splits, in
        place of those of the gate; see :class:`mixexperts.gates.Tree`.
    gate_code_, gate_selector_intercept_, gate_selector_coef_ : ndarray
        Of a DSelect-k gate: codes (n_experts, n_bits) and coefficients of its selectors; see
        :class:`mixexperts.gates.DSelectK`.
    gate_odds_ratios_ : ndarray of shape (n_experts, n_gate_features)
        Of gates with log odds linear in the features: the factor by which the odds of an expert
        against the last change per unit of a column.
    log_likelihood_, objective_ : float
        Log-likelihood, and the same less the penalties (with ``algorithm="cem"`` the
        classification likelihood less these); sums over rows. Of y given x; with a
        Gaussian gate of (x, y), with x the gate's features.
    history_ : ndarray of shape (n_accepted,)
        Objective after each accepted pass of the best start; it never falls. With annealing of
        the last stage.
    trajectory_ : ndarray of shape (n_draws,)
        Of stochastic EM, the objective along the chain of the best start.
    n_iter_ : int
        Passes over the data of the best start; ``history_`` is shorter where steps were refused.
    status_ : str
        ``converged``, ``max_iter``, ``degenerate``, ``diverged`` or ``monotonicity_lost``; or
        ``online`` after :meth:`partial_fit`.
    online_ : Online
        After :meth:`partial_fit`, where learning stands.
    converged_, separated_ : bool
        Whether ``status_`` is ``converged``; whether the gate separates some
        experts perfectly, so that some of its coefficients have no finite maximum.
    separated_experts_ : ndarray of bool of shape (n_experts,)
        Experts of counts whose coefficients have no finite maximum.
    flags_ : tuple of str
        What is degenerate, in words.
    mass_ : ndarray of shape (n_experts,)
        Effective rows of each expert; with groups, effective groups.
    restarts_ : DataFrame
        One row per start: ``init``, ``log_likelihood``, ``objective``, ``status``, ``n_iter``,
        ``min_share``, ``min_scale``, ``flag``, ``reached_best``. With more than 20,000 rows all
        starts run on a sample first, and those that lead to its three best optima on all rows,
        as do parameters given in ``init``; the others have status ``screened``, no
        log-likelihood, no passes, and the shares and scales that they had on the sample.
    n_parameters_ : int
        Number of free parameters.
    weight_sum_, row_weight_sum_ : float
        Sums of the weights, over groups if there are any (the n of BIC), and over rows.
    has_offset_, has_groups_, has_log_prior_ : bool
        Whether the fit had an offset; predictions then need one too. Whether it had groups;
        responsibilities, log densities and criteria then need them too. Whether it had
        ``log_prior`` or ``partial_labels``.
    expert_terms_, gate_terms_ : tuple of str
        Names of the columns of ``coef_`` and ``gate_coef_``.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Experts are ordered by their mean fitted response over the rows they explain (weighted by
    the responsibilities), lowest first (of several responses by that of the first); in the order
    of their numbers where ``log_prior`` or ``partial_labels`` speak of them.

    With a free scale per expert the likelihood is unbounded: an expert can collapse on a few
    rows. A solution with an expert on fewer effective rows than its parameters + 1, or with
    a scale at the floor of ``Gaussian.scale_floor`` times the standard deviation of y, is
    flagged ``degenerate`` and never preferred to a sound one. A Gaussian gate has a floor on
    its covariances too.

    References
    ----------
    Jacobs, R. A., Jordan, M. I., Nowlan, S. J. and Hinton, G. E. (1991). Adaptive mixtures of
    local experts. Neural Computation 3, 79-87.
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete
    data via the EM algorithm. Journal of the Royal Statistical Society B 39, 1-38.

    Examples
    --------
    >>> import mixexperts as mx
    >>> df = mx.datasets.load_tonedata()
    >>> est = mx.MoERegressor(n_experts=2, gate="constant", random_state=0)
    >>> round(est.fit(df[["stretchratio"]], df["tuned"]).log_likelihood_, 3)
    141.198
    >>> est.coef_.round(2)
    array([[0.04],
           [0.99]])
    """

    def __init__(
        self,
        n_experts: int = 2,
        *,
        gate: Any = "softmax",
        expert: Any = "gaussian",
        gate_features: Any = None,
        expert_features: Any = None,
        init: Any = "auto",
        n_init: int = 10,
        algorithm: Any = "em",
        max_iter: int = 1000,
        tol: float = 1e-8,
        accelerate: bool = True,
        backend: str = "auto",
        chunk_rows: int | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
        checkpoint: Any = None,
        gate_penalty: Any = None,
        expert_penalty: Any = None,
    ) -> None:
        self.n_experts = n_experts
        self.gate = gate
        self.expert = expert
        self.gate_features = gate_features
        self.expert_features = expert_features
        self.init = init
        self.n_init = n_init
        self.algorithm = algorithm
        self.max_iter = max_iter
        self.tol = tol
        self.accelerate = accelerate
        self.backend = backend
        self.chunk_rows = chunk_rows
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.gate_penalty = gate_penalty
        self.expert_penalty = expert_penalty

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
    ) -> MoERegressor:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features), or Source
            Features, numeric and finite. A source from :mod:`mixexperts.sources` gives features,
            response, weights and offsets; it is read in chunks, as a ``numpy.memmap`` is.
        y : array-like of shape (n,) or (n, d)
            Response, finite; left out with a source. Binomial experts take zeros and ones, or
            the two columns successes and failures. With Gaussian experts d columns are d
            responses, of which some may be missing (NaN), but not all of a row.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0: a row of weight 2 counts as the row twice.
        offset : array-like of shape (n,), optional
            Known part of every expert's linear predictor: of the mean in units of y, or for
            counts of the log mean (log exposure) or the log odds. Of d responses (n, d).
        groups : array-like of shape (n,), optional
            Labels of subjects that were measured repeatedly, in any order: the rows of a group
            share one expert. The gate's features and the weights must be constant in a group (or
            ``sample_weight`` has one entry per group, in order of first appearance).
        log_prior : array-like of shape (n, n_experts) or (n_groups, n_experts), optional
            Evidence about the expert of each row from elsewhere, ``log p(evidence | expert)``,
            added to the log of the mixing weight; ``-inf`` rules an expert out.
        partial_labels : array-like of shape (n,), optional
            Known experts: 0 to K - 1, and -1, NaN or None where the expert is not known. Counts
            as ``log_prior``; with either, experts keep their numbers and are not sorted.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used; the message names it.

        Warns
        -----
        RankDeficientWarning
            If a design lacks full rank; names the columns.
        DegenerateFitWarning, ConvergenceWarning, SeparationWarning
            If the best solution is degenerate, not converged, or its gate is separated.
        """
        self._fit(X, y, sample_weight, offset, groups, log_prior, partial_labels)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
        power: float = 0.6,
        average: bool = True,
    ) -> MoERegressor:
        """Learn from one more block of rows, which is then forgotten.

        The first block is fitted as :meth:`fit` does, so it should hold some hundred rows that
        are typical of all; after :meth:`fit` learning goes on from there. Centres and scales of
        columns, and the numbers of the experts, stay those of the first block.

        Parameters
        ----------
        X, y, sample_weight, offset, groups, log_prior, partial_labels
            As in :meth:`fit`; arrays. Rows of a group come in one block.
        power : float, default=0.6
            Step sizes fall as the weight seen, in units of the block's, to minus this power, in
            (0.5, 1].
        average : bool, default=True
            Whether the parameters reported are an average along the way, weighted towards its
            end, which has less noise than the last ones.

        Returns
        -------
        self
            With ``status_ == "online"``; ``history_`` holds the mean log-likelihood of each block
            at the parameters before it, and ``log_likelihood_`` their sum over all rows.

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used; the message names it.
        """
        extra = {"groups": groups, "log_prior": log_prior, "partial_labels": partial_labels}
        self._partial_fit(X, y, sample_weight, offset, extra, power, average)
        return self
