"""Cross-validation of penalised fits: folds, scores of held-out rows, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.estimators._lasso_grid import Branch, fit_branch
from mixexperts.estimators._lasso_parts import (
    ConstantPartError,
    held_out_score,
    keyed_seed,
    lacks_class,
    part_of,
    row_numbers,
    rows_under,
)
from mixexperts.estimators._lasso_problem import Problem


@dataclass(frozen=True)
class Folds:
    """Rows of training and of validation, among those of positive weight.

    Attributes
    ----------
    train, test : tuple of ndarray of int
    weight : ndarray of shape (n_folds,)
        Sums of the weights of the validation rows.
    """

    train: tuple[Array, ...]
    test: tuple[Array, ...]
    weight: Array

    def __len__(self) -> int:
        return len(self.test)


def make_folds(cv: Any, problem: Problem, X: Any, y: Any) -> Folds:
    """Folds of a number, a splitter of scikit-learn, or an iterable of pairs of row numbers.

    Those of a number are drawn by the seed of the estimator, and hold responses, or classes,
    alike.

    Raises
    ------
    ValueError, TypeError
        If ``cv`` is none of these, leaves a fold without rows or without a class, or gives a fold
        rows that both train and validate.
    """
    if isinstance(cv, bool | np.bool_ | str):
        raise TypeError(f"cv must be an integer >= 2, a splitter or pairs of rows, got {cv!r}")
    if isinstance(cv, int | np.integer):
        pairs = list(_drawn(int(cv), problem))
    elif hasattr(cv, "split"):
        pairs = _mapped(cv.split(X, y), problem)
    elif isinstance(cv, Iterable):
        pairs = _mapped(cv, problem)
    else:
        raise TypeError(f"cv must be an integer >= 2, a splitter or pairs of rows, got {cv!r}")
    if len(pairs) < 2:
        raise ValueError(f"cv gives {len(pairs)} fold(s); give at least 2")
    for number, (train, test) in enumerate(pairs, start=1):
        if not len(train) or not len(test):
            raise ValueError(
                f"fold {number} of cv has {len(train)} training and {len(test)} validation rows of "
                "positive weight; each needs some"
            )
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"fold {number} of cv has {len(both)} row(s) in training and validation alike; a "
                "row that the fit has seen says nothing of held-out ones: give disjoint parts"
            )
        if len(train) < problem.n_experts:
            raise ValueError(
                f"n_experts={problem.n_experts} is more than the {len(train)} training rows of "
                f"fold {number}; ask for fewer experts or fewer folds"
            )
    _refuse_missing_classes(problem, [train for train, _ in pairs])
    weight = problem.data.given.weight
    return Folds(
        tuple(train for train, _ in pairs),
        tuple(test for _, test in pairs),
        np.array([float(weight[test].sum()) for _, test in pairs]),
    )


def _drawn(n_folds: int, problem: Problem) -> Iterator[tuple[Array, Array]]:
    n = problem.data.n_rows
    if n_folds < 2:
        raise ValueError(f"cv must be at least 2, got {n_folds}")
    if n_folds > n:
        raise ValueError(
            f"cv={n_folds} is more than the {n} rows of positive weight; use fewer folds"
        )
    rng = np.random.default_rng(keyed_seed(problem.seed, "folds"))
    y = problem.data.given.y
    level = y if y.ndim == 1 else y[:, 0] / np.maximum(y.sum(axis=1), 1.0)
    # Rows are dealt out by ascending response, each fold one of as many as there are folds.
    order = rng.permutation(n)
    order = order[np.argsort(level[order], kind="stable")]
    dealt = np.arange(-(-n // n_folds) * n_folds) % n_folds
    dealt = rng.permuted(dealt.reshape(-1, n_folds), axis=1).ravel()
    if problem.classes is not None:  # no class may be missing where it need not be
        dealt = np.arange(n) % n_folds
    fold = np.empty(n, dtype=np.int64)
    fold[order] = dealt[:n]
    for number in range(n_folds):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _mapped(pairs: Iterable[Any], problem: Problem) -> list[tuple[Array, Array]]:
    """Pairs of rows among all that were given, as numbers among those of positive weight."""
    number = row_numbers(problem)
    found = []
    for pair in pairs:
        try:
            own = [number[np.asarray(rows)] for rows in pair]
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"cv must give pairs of row numbers (training, validation): {error}"
            ) from error
        if len(own) != 2:
            raise ValueError(f"cv must give pairs of row numbers, got {len(own)} parts")
        found.append((own[0][own[0] >= 0], own[1][own[1] >= 0]))
    return found


def _refuse_missing_classes(problem: Problem, train: Sequence[Array]) -> None:
    for number, rows in enumerate(train, start=1):
        label = lacks_class(problem, rows)
        if label is not None:
            raise ValueError(
                f"no training row of fold {number} is of class {label!r}; give more rows of it, "
                "use fewer folds, or a criterion without folds, such as criterion='ebic'"
            )


@dataclass(frozen=True)
class Task:
    """A path to fit: on all rows, or on those of a fold."""

    n_experts: int
    gate_ratio: float
    alphas: Array | None
    fold: int | None


def run_all(
    est: Any,
    problem: Problem,
    tasks: Sequence[Task],
    folds: Folds | None,
    grid: tuple[int, float],
    progress: Any,
) -> Iterator[tuple[int, Any]]:
    """Results of tasks with their numbers, as they come: a branch, or scores of a fold.

    They are the same whatever ``n_jobs`` is: each task has a seed of its own.
    """
    from joblib import Parallel, delayed, effective_n_jobs

    if len(tasks) > 1 and effective_n_jobs(est.n_jobs) > 1:
        jobs = (
            delayed(_numbered)(i, est, problem, task, folds, grid) for i, task in enumerate(tasks)
        )
        for i, found in Parallel(n_jobs=est.n_jobs, return_as="generator_unordered")(jobs):
            progress.update(_size(tasks[i], grid))
            yield i, found
        return
    for i, task in enumerate(tasks):
        yield i, run_task(est, problem, task, folds, grid, progress)


def _numbered(i: int, *arguments: Any) -> tuple[int, Any]:
    return i, run_task(*arguments)


def _size(task: Task, grid: tuple[int, float]) -> int:
    return grid[0] if task.alphas is None else len(task.alphas)


def run_task(
    est: Any,
    problem: Problem,
    task: Task,
    folds: Folds | None,
    grid: tuple[int, float],
    progress: Any = None,
) -> Branch | Array:
    """The branch of all rows, or the scores (m,) of the validation rows of a fold."""
    problem = replace(problem, n_experts=task.n_experts)
    options = {"n_alphas": grid[0], "alpha_min_ratio": grid[1], "progress": progress}
    if task.fold is None or folds is None:
        return fit_branch(est, problem, task.gate_ratio, task.alphas, **options)
    # A fold makes starts of its own: those of all rows have seen what is held out.
    seed = keyed_seed(problem.seed, "fold", task.fold)
    given = problem.data.given
    try:
        part = part_of(problem, folds.train[task.fold], seed, standardize=bool(est.standardize))
    except ConstantPartError as error:
        raise ValueError(
            f"the training rows of fold {task.fold + 1} cannot be fitted: {error}; use other "
            "folds, "
            "or a criterion without folds, such as criterion='ebic'"
        ) from error
    # Strengths are those of all rows, also where the spread of y is another one.
    unit = float(est._unit(problem))
    branch = fit_branch(est, part, task.gate_ratio, task.alphas, unit=unit, **options)
    held_out = rows_under(part, given, folds.test[task.fold])
    return np.array([held_out_score(part, fit.params, held_out) for fit in branch.final])


def summarised(scores: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Means, standard errors and numbers of folds without a finite score.

    Parameters
    ----------
    scores : ndarray of shape (n_points, n_folds)
        Mean held-out log-likelihood per unit of weight.
    weight : ndarray of shape (n_folds,)

    Returns
    -------
    mean : ndarray of shape (n_points,)
        Weighted by the folds; -infinity where a score is not finite.
    error : ndarray of shape (n_points,)
        From the spread of the folds, with divisor n_folds - 1; NaN there.
    failed : ndarray of int of shape (n_points,)
    """
    failed = (~np.isfinite(scores)).sum(axis=1)
    share = weight / weight.sum()
    safe = np.where(np.isfinite(scores), scores, 0.0)
    mean = safe @ share
    spread = np.square(safe - mean[:, None]) @ share
    error = np.sqrt(spread / (len(weight) - 1))
    return np.where(failed > 0, -np.inf, mean), np.where(failed > 0, np.nan, error), failed


def chosen_by_folds(mean: Array, error: Array, df: Array, one_se: bool) -> int:
    """The point of the highest mean score, or the sparsest within one standard error of it."""
    best = int(np.lexsort([df, -mean])[0])
    if not one_se:
        return best
    near = mean >= mean[best] - error[best]
    order = np.lexsort([-mean, np.where(near, df, np.inf)])
    return int(order[0])


def ratios(gate_ratio: Any, convert: Callable[[Any], float]) -> list[float]:
    """Ratios of the gate's strength to the experts', in the order given.

    Raises
    ------
    ValueError, TypeError
        If there are none, or one is no number > 0, or stands there twice.
    """
    values = [gate_ratio] if np.ndim(gate_ratio) == 0 else list(gate_ratio)
    found = [convert(value) for value in values]
    if not found:
        raise ValueError("gate_ratio is empty; give at least one number > 0")
    if len(set(found)) < len(found):
        raise ValueError("gate_ratio holds a number twice; give each once")
    return found
