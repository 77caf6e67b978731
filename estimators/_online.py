"""Learning from blocks of rows, one call for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em import online
from mixexperts.em.model import Model
from mixexperts.estimators import _checks as checks
from mixexperts.estimators import _units as units
from mixexperts.estimators._criteria import Criteria


class Incremental(Criteria):
    """What an estimator needs for ``partial_fit``."""

    online_: online.Online
    flags_: tuple[str, ...]

    def _model(self) -> Model:
        raise NotImplementedError

    def _fit(self, X: Any, y: Any, sample_weight: Any, offset: Any, *rows: Any) -> None:
        raise NotImplementedError

    def _partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        extra: dict[str, Any],
        power: float,
        average: bool,
    ) -> None:
        """Fit the first block by EM, and learn from the following ones."""
        number = checks.nonnegative_number(power, "power")
        if not 0.5 < number <= 1.0:
            raise ValueError(f"power must lie in (0.5, 1], got {power!r}")
        if not hasattr(self, "theta_"):
            self._fit(X, y, sample_weight, offset, *extra.values())
            batch = self._block(X, y, sample_weight, offset, extra)
            first = np.array([self.log_likelihood_ / self.weight_sum_])
            self.online_ = replace(self._begun(batch), history=first)
            return
        batch = self._block(X, y, sample_weight, offset, extra)
        state = self.online_ if hasattr(self, "online_") else self._begun(batch)
        state = online.learn(self._own_model(), state, batch, number)
        self._take(state, batch, average)

    def _block(self, X: Any, y: Any, sample_weight: Any, offset: Any, extra: dict[str, Any]) -> Any:
        known = {name: extra[name] for name in ("log_prior", "partial_labels")}
        grouping = self._grouping(X, extra["groups"])
        batch = self._batch(X, y, offset, groups=grouping, **known)
        return replace(batch, weight=units.weights(sample_weight, batch.n_rows, grouping))

    def _own_model(self) -> Model:
        """The model of the first block, with penalties per unit of weight."""
        return replace(self._model(), expert=self.model_.expert, gate=self.model_.gate)

    def _begun(self, batch: Any) -> online.Online:
        share: Array = self.mass_ / self.mass_.sum()
        weights = self.weight_sum_, self.row_weight_sum_
        return online.begin(self._own_model(), self.theta_, batch, share, *weights)

    def _take(self, state: online.Online, batch: Any, average: bool) -> None:
        weight = float(batch.weight.sum())
        scale = weight * self.frame_.log_volume() - batch.weight @ self.frame_.log_scale(batch)
        gain = state.history[-1] * weight + scale
        history = state.history.copy()
        history[-1] = gain / weight
        self.online_ = replace(state, history=history)
        self.theta_ = state.average if average else state.theta
        for name, values in self.frame_.raw(self.model_, self.theta_).items():
            setattr(self, f"{name}_", values)
        self.weight_sum_, self.row_weight_sum_ = state.weight, state.row_weight
        self.mass_ = state.share * state.weight
        self.log_likelihood_ = self.log_likelihood_ + gain
        self.objective_ = self.log_likelihood_
        self.history_, self.n_iter_ = history, len(history)
        self.status_, self.converged_, self.flags_ = "online", False, ()
