"""Stability selection: how often a penalised fit takes each column on parts of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.init import keyed_rng
from mixexperts.errors import warn

_ROOMS = ("any", "expert", "gate")
_SOUND = ("converged", "max_iter")


@dataclass(frozen=True)
class StabilitySelection:
    """Shares of the subsamples in which columns were selected.

    Attributes
    ----------
    selection_probability_ : ndarray of shape (n_features,)
        Of each column of X, to be used by any expert or by the gate. It needs no matching of
        experts.
    frame : DataFrame
        One row per column and place: ``term``, ``room`` (``"any"``; ``"expert"``: by some expert,
        or by the one in ``expert``; ``"gate"``), ``expert`` (1 to K, numbered as in
        ``estimator``; 0 where none is meant) and ``probability``. Columns that no subsample used
        in a place are left out.
    estimator : estimator
        The fit of all rows, whose numbers of the experts ``frame`` uses.
    n_selected : float
        Mean number of columns that a subsample selected, the q of the bound.
    n_columns : int
        Columns of X that the experts or the gate may use, the p of the bound.
    n_subsamples, n_used : int
        Subsamples drawn, and those whose fits were sound.
    fraction : float
        Share of the rows in a subsample, as it was asked for.
    pairs : bool
        Whether subsamples are complementary pairs.
    """

    selection_probability_: Array
    frame: Any
    estimator: Any
    n_selected: float
    n_columns: int
    n_subsamples: int
    n_used: int
    fraction: float
    pairs: bool
    _names: tuple[str, ...]

    def selected(self, threshold: float = 0.75, room: str = "any") -> list[str]:
        """Names of the columns selected in at least a share of the subsamples.

        Parameters
        ----------
        threshold : float in (0.5, 1], default=0.75
        room : {"any", "expert", "gate"}, default="any"
            By whom: anybody, some expert, or the gate.

        Returns
        -------
        list of str
            Most often selected first.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used.
        """
        _checked_threshold(threshold)
        if room not in _ROOMS:
            raise ValueError(f"room={room!r} is not known; known: {', '.join(_ROOMS)}")
        rows = self.frame[(self.frame["room"] == room) & (self.frame["expert"] == 0)]
        rows = rows[rows["probability"] >= threshold - 1e-12]
        rows = rows.sort_values("probability", ascending=False, kind="stable")
        return [str(term) for term in rows["term"]]

    def error_bound(self, threshold: float = 0.75) -> float | None:
        """Bound on the expected number of columns selected by chance, ``q^2 / ((2 t - 1) p)``.

        q is ``n_selected`` and p ``n_columns``: columns that no room may use are no candidates.
        Meinshausen and Bühlmann (2010, theorem 1) bound the number of noise columns at a
        threshold t this way, if noise columns are exchangeable and selection is no worse than
        guessing. With complementary pairs Shah and Samworth (2013) prove the same number without
        these assumptions, for the columns that a half of the rows selects with probability at most
        q / p.

        Parameters
        ----------
        threshold : float in (0.5, 1], default=0.75

        Returns
        -------
        float or None
            None with a ``fraction`` other than 0.5: the bound is proved for halves alone.

        Raises
        ------
        ValueError, TypeError
            If the threshold is no number in (0.5, 1].
        """
        _checked_threshold(threshold)
        if self.fraction != 0.5:
            return None
        return float(self.n_selected**2 / ((2.0 * threshold - 1.0) * self.n_columns))

    def plot(self, **options: Any) -> Any:
        """Draw the probabilities of the columns selected most often.

        Parameters
        ----------
        **options
            Passed to :func:`mixexperts.plots.plot_stability`.

        Returns
        -------
        matplotlib Axes
        """
        import importlib

        return importlib.import_module("mixexperts.plots").plot_stability(self, **options)

    def __repr__(self) -> str:
        kind = "complementary halves" if self.pairs else f"shares of {self.fraction:g} of the rows"
        return (
            f"StabilitySelection over {self.n_used} {kind}; {self.n_selected:.3g} of "
            f"{self.n_columns} columns in each"
        )


def stability_selection(
    est: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    offset: Any = None,
    n_subsamples: int = 100,
    fraction: float = 0.5,
    pairs: bool = False,
    n_jobs: int | None = None,
    random_state: Any = None,
    verbose: int = 0,
) -> StabilitySelection:
    """Fit a penalised mixture on many parts of the rows, and count what it selects.

    Parameters
    ----------
    est : LassoMoERegressor, LassoMoEClassifier, or a fitted ...CV
        Not changed; its ``alpha`` and ``gate_alpha`` (of a CV, those that it chose) are used for
        all parts.
    X, y : array-like of shape (n, n_features) and (n,)
    sample_weight, offset : array-like of shape (n,), optional
        As in ``fit``. Rows are drawn alike, whatever their weights.
    n_subsamples : int, default=100
        Parts to fit; with ``pairs`` even.
    fraction : float in (0, 1), default=0.5
        Share of the rows in a part; of an odd number of rows a half is rounded down. The error
        bound is one for halves.
    pairs : bool, default=False
        Draw complementary pairs of halves (Shah and Samworth 2013).
    n_jobs : int or None, default=None
        Parts fitted in parallel, as in joblib. The result does not depend on it.
    random_state : int, Generator, RandomState or None, default=None
        Seed of the parts and of their starts.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    StabilitySelection

    Raises
    ------
    ValueError, TypeError
        If an argument or the data cannot be used, or no part has a sound fit; the message says
        which.

    Warns
    -----
    UserWarning
        If the fits of some parts are not sound; these are left out.

    Notes
    -----
    Each part makes starts of its own. Its experts have numbers of no meaning: they are matched to
    those of the fit of all rows so that the responsibilities of all rows differ least. Where
    two experts are much alike, trust the numbers that need no matching: ``room="any"``, and
    ``"expert"`` with ``expert`` 0.

    A column that does not vary in a part is not selected there.

    References
    ----------
    Meinshausen, N. and Bühlmann, P. (2010). Stability selection. Journal of the Royal Statistical
    Society B 72, 417-473.
    Shah, R. D. and Samworth, R. J. (2013). Variable selection with error control: another look at
    stability selection. Journal of the Royal Statistical Society B 75, 55-80.

    Examples
    --------
    >>> import numpy as np
    >>> import mixexperts as mx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 30))
    >>> first = X[:, 0] + 0.5 * rng.standard_normal(200) > 0.0
    >>> y = np.where(first, 3.0 + 2.0 * X[:, 1], -3.0 * X[:, 2]) + rng.standard_normal(200)
    >>> est = mx.LassoMoERegressor(2, alpha=0.12, gate_alpha=0.06, n_init=4, random_state=0)
    >>> found = mx.stability_selection(est, X, y, n_subsamples=20, random_state=0)
    >>> sorted(found.selected(0.8))
    ['x0', 'x1', 'x2']
    """
    est = single(est)
    if not isinstance(est.init, str):
        raise TypeError(
            f"est.init must be the name of a kind of starts, got {type(est.init).__name__}: every "
            "part makes starts of its own"
        )
    n_parts, pairs = _checked(n_subsamples, fraction, pairs)
    from sklearn.base import clone

    whole = clone(est).set_params(random_state=seed_of(random_state), warm_start=False)
    problem = whole._problem(X, y, sample_weight, offset)
    whole = whole._settled(problem)
    # Complementary halves share no row.
    size = problem.data.n_rows // 2 if fraction == 0.5 else round(fraction * problem.data.n_rows)
    if size < max(2, problem.n_experts) or size >= problem.data.n_rows:
        raise ValueError(
            f"fraction={fraction} of {problem.data.n_rows} rows are {size}; a part needs at least "
            f"{max(2, problem.n_experts)} rows, and fewer than all"
        )
    penalty = whole._penalty(problem)
    fit, starts, penalty = whole._solve(problem, penalty)
    whole._adopt(problem, penalty, fit, starts)
    target = whole._tracked(problem, fit)
    found = list(_fits(whole, problem, target, n_parts, size, pairs, n_jobs, bool(verbose)))
    used = [part for part in found if part is not None]
    if not used:
        raise ValueError(
            f"none of the {n_parts} parts has a sound fit; use larger alphas, fewer experts, or a "
            "larger fraction"
        )
    if len(used) < n_parts:
        warn(
            f"{n_parts - len(used)} of {n_parts} parts have no sound fit and are left out; larger "
            "alphas or fewer experts may mend that",
            UserWarning,
        )
    experts = np.mean([expert for expert, _, _ in used], axis=0)
    some = np.mean([expert.any(axis=0) for expert, _, _ in used], axis=0)
    gate = np.mean([own for _, own, _ in used], axis=0)
    support = np.array([own for _, _, own in used])
    names = whole._names(problem.data.n_features)
    frame = _frame(support.mean(axis=0), some, gate, experts, names)
    return StabilitySelection(
        support.mean(axis=0),
        frame,
        whole,
        float(support.sum(axis=1).mean()),
        len(problem.taken),
        n_parts,
        len(used),
        float(fraction),
        pairs,
        names,
    )


def single(est: Any) -> Any:
    """The estimator of one point: of a fitted CV, that of its choice.

    Raises
    ------
    TypeError
        If it is no penalised estimator.
    NotFittedError
        If it is a CV that has not chosen yet.
    """
    if hasattr(est, "criterion") and hasattr(est, "gate_ratio"):
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(est, "best_estimator_")
        return est.best_estimator_
    return lassos(est)


def lassos(est: Any) -> Any:
    """The estimator itself.

    Raises
    ------
    TypeError
        If it is no penalised estimator.
    """
    if not (hasattr(est, "_checker") and hasattr(est, "l1_ratio")):
        raise TypeError(
            "est must be a LassoMoERegressor, a LassoMoEClassifier or one of their ...CV, got "
            f"{type(est).__name__}"
        )
    return est


def _checked(n_subsamples: Any, fraction: Any, pairs: Any) -> tuple[int, bool]:
    if isinstance(n_subsamples, bool) or not isinstance(n_subsamples, int | np.integer):
        raise TypeError(f"n_subsamples must be a positive integer, got {n_subsamples!r}")
    if n_subsamples < 1:
        raise ValueError(f"n_subsamples must be a positive integer, got {n_subsamples!r}")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
        raise TypeError(f"fraction must be a number in (0, 1), got {fraction!r}")
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction!r}")
    if not isinstance(pairs, bool | np.bool_):
        raise TypeError(f"pairs must be True or False, got {pairs!r}")
    if pairs and fraction != 0.5:
        raise ValueError(f"pairs=True draws halves; leave fraction at 0.5, got {fraction!r}")
    if pairs and n_subsamples % 2:
        raise ValueError(
            f"pairs=True draws two parts at a time; n_subsamples must be even, got {n_subsamples}"
        )
    return int(n_subsamples), bool(pairs)


def _checked_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
        raise TypeError(
            f"threshold must be a number in (0.5, 1], a share of the parts; got {threshold!r}"
        )
    if not 0.5 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0.5, 1], got {threshold!r}")


def seed_of(random_state: Any) -> int:
    """An integer seed of what scikit-learn takes as ``random_state``."""
    from mixexperts._arguments import generator

    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        generator(random_state)  # which refuses negative ones
        return int(random_state)
    return int(generator(random_state).integers(2**31))


def part_rows(n: int, size: int, seed: int, number: int, pairs: bool) -> Array:
    """Rows of a part, whatever other parts there are: drawn by its number."""
    rng = keyed_rng(seed, "stability", number // 2 if pairs else number)
    order = rng.permutation(n)
    rows: Array = np.sort(order[n - size :] if pairs and number % 2 else order[:size])
    return rows


def _fits(
    est: Any,
    problem: Any,
    target: Array,
    n_parts: int,
    size: int,
    pairs: bool,
    n_jobs: int | None,
    show: bool,
) -> Iterator[tuple[Array, Array, Array] | None]:
    """What each part selects, in the order of the parts; None without a sound fit."""
    from joblib import Parallel, delayed, effective_n_jobs

    arguments = (est, problem, target, size, pairs)
    parts: Iterable[Any]
    if n_parts > 1 and effective_n_jobs(n_jobs) > 1:  # type: ignore[arg-type]
        jobs = (delayed(_part)(*arguments, number) for number in range(n_parts))
        parts = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    else:
        parts = (_part(*arguments, number) for number in range(n_parts))
    if show:
        from tqdm.auto import tqdm

        parts = tqdm(parts, total=n_parts, desc="parts", unit="part")
    yield from parts


def _part(
    est: Any, problem: Any, target: Array, size: int, pairs: bool, number: int
) -> tuple[Array, Array, Array] | None:
    """What one part selects: by each expert (K, p), by the gate (p,), by any (p,)."""
    rows = part_rows(problem.data.n_rows, size, problem.seed, number, pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a part's fit says of itself is counted
        found: tuple[Array, Array, Array] | None = est._selects(problem, rows, number, target)
    return found


def _frame(any_: Array, some: Array, gate: Array, experts: Array, names: tuple[str, ...]) -> Any:
    import pandas as pd

    tables = []
    places = [("any", 0, any_), ("expert", 0, some), ("gate", 0, gate)]
    places += [("expert", k + 1, experts[k]) for k in range(len(experts))]
    for room, expert, values in places:
        j = np.flatnonzero(values)
        tables.append(
            {
                "term": np.array(names, dtype=object)[j],
                "room": np.full(len(j), room, dtype=object),
                "expert": np.full(len(j), expert),
                "probability": values[j],
            }
        )
    columns = ("term", "room", "expert", "probability")
    return pd.DataFrame({name: np.concatenate([t[name] for t in tables]) for name in columns})
