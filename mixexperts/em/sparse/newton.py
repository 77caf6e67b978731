"""Newton steps on the coefficients that are not zero, for the end of a penalised run.

Where no coefficient changes its sign the penalised log-likelihood is smooth: the observed
information of the non-zero coefficients, intercepts and shapes then takes a run from the first
digits to the last in a few steps, where EM would crawl.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from mixexperts._batch import Array
from mixexperts.em.newton import NewtonStep, trust_region_step
from mixexperts.em.sparse.problem import Point, Problem
from mixexperts.em.sparse.pull import Predictor
from mixexperts.em.sparse.rows import SparseParams

# More free parameters than this make the information dearer than the passes it saves.
MOST_PARAMETERS = 1500
_RADIUS = 0.3
# Below this ratio of pivots the eigenvalues are looked at.
_PIVOT_RATIO = 1e-11


def _newton_step(hessian: Array, score: Array, radius: float) -> NewtonStep | None:
    """The step of a definite Hessian, cut at the border of the region; None if not definite."""
    diagonal = np.diagonal(hessian)
    if not (diagonal > 0.0).all():
        return None
    size = np.sqrt(diagonal)
    factor, not_definite = dpotrf(hessian / np.outer(size, size), lower=1)
    if not_definite or np.diagonal(factor).min() ** 2 < _PIVOT_RATIO:
        return None
    along = dpotrs(factor, score / size, lower=1)[0]
    length = float(np.sqrt(along @ along))
    slope = float(along @ (score / size))
    share = min(1.0, radius / length) if length > 0.0 else 1.0
    return NewtonStep(share * along / size, share * (1.0 - 0.5 * share) * slope, share * length)


class ActiveNewton:
    """Newton steps in a trust region on the free parameters of a problem's point."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.radius = 0.0

    def propose(self, point: Point) -> tuple[SparseParams, NewtonStep] | None:
        """Parameters after a step, and the step; None where there is none."""
        problem = self.problem
        predictors = self.predictors(point)
        size = sum(len(p.active) + p.intercept for p in predictors)
        if not 0 < size <= MOST_PARAMETERS:
            return None
        hessian, score = self.system(point, predictors)
        if not (np.isfinite(hessian).all() and np.isfinite(score).all()):
            return None
        self._pin(predictors, hessian)
        if not self.radius:
            self.radius = _RADIUS * np.sqrt(problem.total)
        step = _newton_step(hessian, score, self.radius)
        step = trust_region_step(hessian, score, self.radius) if step is None else step
        if step is None:
            return None
        return self.moved(point, predictors, step.step), step

    def judge(self, step: NewtonStep, gain: float) -> None:
        """Adapt the radius to the gain that a step brought."""
        if gain < 0.25 * step.gain:
            self.radius = 0.25 * step.length
        elif gain > 0.75 * step.gain:
            self.radius = max(self.radius, 2.0 * step.length)

    def predictors(self, point: Point) -> list[Predictor]:
        """Predictors with what is free in each; the reference of intercepts is the last."""
        problem, params = self.problem, point.params
        K, L, _ = params.coef.shape
        family = problem.family
        found = []
        if K > 1:
            for k in range(problem.gate_rows):
                active = np.flatnonzero(params.gate_coef[k])
                found.append(Predictor("gate", k, 0, k < K - 1, active))
        for k in range(K):
            for c in range(L):
                active = np.flatnonzero(params.coef[k, c])
                own = family.intercept and (L == 1 or c < L - 1)
                found.append(Predictor("expert", k, c, own, active))
        for s in range(len(family.free_shapes)):
            found += [Predictor("shape", k, s, True, np.empty(0, dtype=np.intp)) for k in range(K)]
        return found

    def system(self, point: Point, predictors: list[Predictor]) -> tuple[Array, Array]:
        """Negated Hessian and gradient of the penalised log-likelihood in what is free."""
        problem = self.problem
        weights = _RowWeights(problem, point)
        designs = [self._design(p) for p in predictors]
        cuts = np.concatenate([[0], np.cumsum([d.shape[0] for d in designs])])
        hessian = np.zeros((cuts[-1], cuts[-1]))
        score = np.zeros(cuts[-1])
        for a, left in enumerate(predictors):
            rows = slice(cuts[a], cuts[a + 1])
            if rows.start == rows.stop:
                continue
            score[rows] = designs[a] @ weights.slope(left)
            for b in range(a + 1):
                columns = slice(cuts[b], cuts[b + 1])
                if columns.start == columns.stop:
                    continue
                block = (designs[a] * weights.pair(left, predictors[b])) @ designs[b].T
                hessian[rows, columns] = block
                hessian[columns, rows] = block.T
        self._penalize(point, predictors, cuts, hessian, score)
        return self._tied(predictors, cuts, hessian, score)

    def scores(self, point: Point, predictors: list[Predictor]) -> Array:
        """Weighted scores (P, n) of the rows in what is free, without the penalty."""
        family = self.problem.family
        weights = _RowWeights(self.problem, point)
        blocks: list[Array] = []
        first: dict[int, int] = {}
        for p in predictors:
            block = self._design(p) * weights.slope(p)
            if p.room == "shape" and family.free_shapes[p.part] in family.tied_shapes:
                if p.part in first:  # one parameter of all experts
                    blocks[first[p.part]] += block
                    continue
                first[p.part] = len(blocks)
            blocks.append(block)
        return np.vstack(blocks)

    def _design(self, predictor: Predictor) -> Array:
        columns = self.problem.XT[predictor.active]
        if not predictor.intercept:
            return columns
        return np.vstack([np.ones((1, self.problem.XT.shape[1])), columns])

    def _penalize(
        self, point: Point, predictors: list[Predictor], cuts: Array, hessian: Array, score: Array
    ) -> None:
        names = self.problem.family.free_shapes
        part = names.index("scale") if "scale" in names else -1
        gradient, second = self.problem.pull.derivatives(point.params, predictors, cuts, part)
        score -= gradient
        hessian += second

    def _pin(self, predictors: list[Predictor], hessian: Array) -> None:
        """Hold the common shift of a softmax's rows, which no likelihood sees.

        A column whose coefficients are all free makes the Hessian singular along it. There is no
        slope in that direction at rows that are centred, so that what is added changes no step.
        """
        L = self.problem.family.n_predictors
        rooms: dict[tuple[str, int], list[tuple[int, Predictor]]] = {}
        at = 0
        for p in predictors:
            if p.room == "gate" or (p.room == "expert" and L > 1):
                key = (p.room, 0 if p.room == "gate" else p.expert)
                rooms.setdefault(key, []).append((at + p.intercept, p))
            at += len(p.active) + p.intercept
        for (room, _), rows in rooms.items():
            if len(rows) < (self.problem.n_experts if room == "gate" else L):
                continue
            common = rows[0][1].active
            for _, p in rows[1:]:
                common = np.intersect1d(common, p.active, assume_unique=True)
            if not len(common):
                continue
            places = [first + np.searchsorted(p.active, common) for first, p in rows]
            size = np.mean([hessian[place, place] for place in places], axis=0)
            size = np.maximum(np.abs(size), 1e-6 * np.abs(np.diagonal(hessian)).max())
            for left in places:
                for right in places:
                    hessian[left, right] += size

    def _tied(
        self, predictors: list[Predictor], cuts: Array, hessian: Array, score: Array
    ) -> tuple[Array, Array]:
        """Shapes that all experts share as one parameter."""
        names = self.problem.family.free_shapes
        tied = self.problem.family.tied_shapes
        merge: list[tuple[int, int]] = []
        first: dict[int, int] = {}
        for a, p in enumerate(predictors):
            if p.room == "shape" and names[p.part] in tied:
                first.setdefault(p.part, int(cuts[a]))
                merge.append((int(cuts[a]), first[p.part]))
        drop = [place for place, to in merge if place != to]
        if not drop:
            return hessian, score
        full = np.eye(len(score))
        for place, to in merge:
            full[place, to] = 1.0
        full = np.delete(full, drop, axis=1)
        return full.T @ hessian @ full, full.T @ score

    def moved(self, point: Point, predictors: list[Predictor], step: Array) -> SparseParams:
        """Parameters after a step; coefficients that would change their sign stop at zero."""
        params = point.params
        names, tied = self.problem.family.free_shapes, self.problem.family.tied_shapes
        coef, gate_coef = params.coef.copy(), params.gate_coef.copy()
        intercept, gate_intercept = params.intercept.copy(), params.gate_intercept.copy()
        shape_step = np.zeros((params.n_experts, len(names)))
        at = 0
        for p in predictors:
            if p.room == "shape":
                if names[p.part] in tied and p.expert > 0:
                    shape_step[p.expert, p.part] = shape_step[0, p.part]
                else:
                    shape_step[p.expert, p.part] = step[at]
                    at += 1
                continue
            if p.intercept:
                if p.room == "gate":
                    gate_intercept[p.expert] += step[at]
                else:
                    intercept[p.expert, p.part] += step[at]
                at += 1
            own = gate_coef[p.expert] if p.room == "gate" else coef[p.expert, p.part]
            new = own[p.active] + step[at : at + len(p.active)]
            new[np.sign(new) != np.sign(own[p.active])] = 0.0
            if self.problem.penalty.kind == "group":
                new = own[p.active] + step[at : at + len(p.active)]
            own[p.active] = new
            at += len(p.active)
        shapes = self.problem.family.moved_shapes(params.shapes, shape_step)
        moved = replace(
            params,
            coef=coef,
            intercept=intercept,
            gate_coef=gate_coef,
            gate_intercept=gate_intercept,
            shapes=shapes,
        )
        return self.problem.centred(moved)


class _RowWeights:
    """First and second derivatives of each row's log density in all predictors.

    With responsibilities r, gate weights g and slopes s of the experts' log densities, the
    information of the complete row less the covariance of its score (Louis 1982).
    """

    def __init__(self, problem: Problem, point: Point) -> None:
        self.weight = problem.rows.weight
        self.resp, self.prob = point.resp, point.prob
        self.L = problem.family.n_predictors
        slope, curve = problem.curves(point)
        seen = self.resp > 0.0  # a row out of an expert's reach says nothing of it
        self.own = np.where(seen[:, None], slope, 0.0)
        self.curve = np.where(seen[:, None, None], curve, 0.0)
        self.score = self.own * self.resp[:, None]

    def _part(self, p: Predictor) -> int:
        return p.part + (self.L if p.room == "shape" else 0)

    def slope(self, p: Predictor) -> Array:
        """Weighted slopes (n,) in a predictor."""
        if p.room == "gate":
            row = self.resp[p.expert] - self.prob[p.expert]
        else:
            row = self.score[p.expert, self._part(p)]
        weighted: Array = row * self.weight
        return weighted

    def pair(self, p: Predictor, q: Predictor) -> Array:
        """Weighted information (n,) between two predictors."""
        if p.room == "gate" and q.room == "gate":
            row = self.resp[p.expert] * self.resp[q.expert]
            row = row - self.prob[p.expert] * self.prob[q.expert]
            if p.expert == q.expert:
                row = row + self.prob[p.expert] - self.resp[p.expert]
        elif p.room == "gate" or q.room == "gate":
            gate, other = (p, q) if p.room == "gate" else (q, p)
            row = self.resp[gate.expert] - float(gate.expert == other.expert)
            row = row * self.score[other.expert, self._part(other)]
        else:
            s, t = self._part(p), self._part(q)
            row = self.score[p.expert, s] * self.score[q.expert, t]
            if p.expert == q.expert:
                k = p.expert
                own = self.curve[k, s, t] - self.own[k, s] * self.own[k, t]
                row = row + self.resp[k] * own
        weighted: Array = row * self.weight
        return weighted
