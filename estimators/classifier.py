"""Mixture-of-experts classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts._archive import saveable
from mixexperts.estimators._class_base import ClassBase
from mixexperts.estimators._classification import Classification
from mixexperts.estimators._labels import classes_of, labels


@saveable("MoEClassifier")
class MoEClassifier(Classification, ClassBase):
    r"""Mixture-of-experts classification fitted by maximum likelihood.

    .. math:: P(y = c \mid x) = \sum_{k=1}^K g_k(x)\, P_k(y = c \mid x)

    with mixing weights :math:`g_k` from a gate and class probabilities :math:`P_k` from experts,
    fitted by EM from several starts.

    Parameters
    ----------
    n_experts : int, default=2
        Number of experts K.
    gate : str or Gate, default="softmax"
        As in :class:`MoERegressor`.
    expert : str or Expert, default="multinomial"
        Family of the experts: ``"multinomial"`` (classes without an order), ``"ordinal"`` (classes
        with one), ``"binomial"`` (two classes), or an instance from :mod:`mixexperts.experts`.
    gate_features, expert_features : list of str or int, slice, mask or None, default=None
        Columns that the gate and the experts see; None means all.
    init, n_init, algorithm, max_iter, tol, accelerate, backend, chunk_rows, n_jobs
        As in :class:`MoERegressor`. A dict of parameters in ``init`` has ``intercept`` (K, C) and
        ``coef`` (K, C, n_terms), or for ordinal experts ``coef`` (K, n_terms) and ``threshold``
        (K, C - 1).
    random_state, verbose, warm_start, checkpoint, gate_penalty, expert_penalty
        As in :class:`MoERegressor`. ``expert_penalty`` acts on the coefficients of all classes
        alike; it keeps slopes finite where features part the classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in the order of the columns of :meth:`predict_proba`: sorted, or for an ordered
        pandas Categorical in its order. Those that only rows of weight zero have are left out.
    coef_ : ndarray of shape (n_experts, n_classes, n_terms)
        Coefficients of the log odds of each class against the last class, on the scale of X;
        zero for the last class. Of ordinal and binomial experts (n_experts, n_terms): of the
        score, or of the log odds of the second class.
    intercept_ : ndarray of shape (n_experts, n_classes) or (n_experts,)
        Ordinal experts have ``threshold_`` (n_experts, n_classes - 1) in its place.
    gate_coef_, gate_intercept_, gate_weights_, gate_means_, gate_covariances_
        As in :class:`MoERegressor`.
    log_likelihood_, objective_, history_, n_iter_, status_, converged_, flags_
        As in :class:`MoERegressor`.
    mass_, restarts_, n_parameters_, weight_sum_, has_offset_
        As in :class:`MoERegressor`.
    separated_ : bool
        Whether the gate separates some experts perfectly.
    separated_experts_ : ndarray of bool of shape (n_experts,)
        Experts whose rows lack a class, or whose features part the classes: some of their
        coefficients have no finite maximum.
    expert_terms_, gate_terms_ : tuple of str
        Names of the columns of ``coef_`` and ``gate_coef_``.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Experts are ordered by the mean fitted code of the class over the rows they explain, where the
    codes 0, 1, ... stand for ``classes_``. With two classes that is the probability of the second.

    Where an expert separates its classes, the likelihood has no maximum and ``fit`` warns. The
    probabilities are then those where the log-likelihood stopped rising, often close to 0 and 1;
    a penalty makes them better calibrated.

    References
    ----------
    Jordan, M. I. and Jacobs, R. A. (1994). Hierarchical mixtures of experts and the EM
    algorithm. Neural Computation 6, 181-214.
    Nguyen, H., Akbarian, P., Nguyen, T. and Ho, N. (2024). A general theory for softmax gating
    multinomial logistic mixture of experts. ICML.

    Examples
    --------
    >>> import mixexperts as mx
    >>> X, y, truth = mx.datasets.make_moe_classification(
    ...     1000,
    ...     coef=[[[1.5, 0.0], [0.0, 1.5], [0.0, 0.0]], [[-1.5, 0.5], [0.5, -1.5], [0.0, 0.0]]],
    ...     intercept=[[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]],
    ...     gate_coef=[[2.0, 1.0], [0.0, 0.0]],
    ...     random_state=0,
    ... )
    >>> est = mx.MoEClassifier(2, n_init=3, random_state=0).fit(X, y)
    >>> est.predict_proba(X[:2]).shape, est.coef_.shape
    ((2, 3), (2, 3, 2))
    """

    def __init__(
        self,
        n_experts: int = 2,
        *,
        gate: Any = "softmax",
        expert: Any = "multinomial",
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

    # --- fitting ---------------------------------------------------------------------------

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
    ) -> MoEClassifier:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, n_features), or Source
            Features, numeric and finite. A source from :mod:`mixexperts.sources` gives features,
            classes as numbers, weights and offsets; its classes are found in a pass of their own.
        y : array-like of shape (n,)
            Labels of the classes: text, numbers or booleans; left out with a source. An ordered
            pandas Categorical gives the order of the classes, otherwise they are sorted.
        sample_weight : array-like of shape (n,), optional
            Case weights >= 0: a row of weight 2 counts as the row twice. For classes of equal
            weight pass ``sklearn.utils.class_weight.compute_sample_weight("balanced", y)``;
            probabilities are then those of such a population.
        offset : array-like of shape (n,), optional
            Known part of every expert's linear predictor: of the log odds of each class against
            the last (multinomial), of the second class against the first (binomial), or of the
            score (ordinal).

        groups, log_prior, partial_labels : array-like
            As in :meth:`MoERegressor.fit`, which gives their shapes (n,) and (n, n_experts).

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, or y holds one class only; the message
            names it.

        Warns
        -----
        RankDeficientWarning
            If a design lacks full rank; names the columns.
        DegenerateFitWarning, ConvergenceWarning, SeparationWarning
            If the best solution is degenerate, not converged, or the gate or an expert is
            separated.
        """
        self._fit(X, y, sample_weight, offset, groups, log_prior, partial_labels)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
        power: float = 0.6,
        average: bool = True,
    ) -> MoEClassifier:
        """Learn from one more block of rows, which is then forgotten.

        Parameters
        ----------
        X, y : array-like of shape (n, n_features) and (n,)
            As in :meth:`fit`.
        classes : array-like of shape (n_classes,), optional
            All classes that blocks will hold, for the first block; by default those it holds.
        sample_weight, offset, groups, log_prior, partial_labels
            As in :meth:`fit`; arrays. Rows of a group come in one block.
        power, average
            As in :meth:`MoERegressor.partial_fit`, which says more of the first block.

        Returns
        -------
        self
            With ``status_ == "online"``.

        Raises
        ------
        ValueError, TypeError
            If an argument or the data cannot be used, or a block holds a class that the first
            call did not name; the message names it.
        """
        extra = {"groups": groups, "log_prior": log_prior, "partial_labels": partial_labels}
        self._announced = None if classes is None else classes_of(labels(classes), None)
        try:
            known = getattr(self, "classes_", None) if hasattr(self, "online_") else None
            announced = self._announced
            if known is not None and announced is not None and not np.array_equal(known, announced):
                raise ValueError(
                    f"classes={announced.tolist()!r} is not what the first call "
                    f"named, {known.tolist()!r}; leave it out, or fit anew"
                )
            self._partial_fit(X, y, sample_weight, offset, extra, power, average)
        finally:
            del self._announced
        return self
