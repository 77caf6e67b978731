"""What every mixture-of-experts estimator does: validate, scale, fit, copy the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from mixexperts._batch import Array
from mixexperts._registry import resolve
from mixexperts.em.checkpoint import Checkpoint, fingerprint, stored_seed
from mixexperts.em.engine import Model
from mixexperts.em.passes import check_available, is_compiled, is_served
from mixexperts.em.restarts import Restarts, Settings, Start, fit_restarts
from mixexperts.em.streaming import Stream
from mixexperts.em.variants import resolve_algorithm
from mixexperts.errors import (
    DegenerateFitWarning,
    RankDeficientWarning,
    SeparationWarning,
    UnsupportedCombinationError,
    warn,
)
from mixexperts.estimators import _checks as checks
from mixexperts.estimators import _units as units
from mixexperts.estimators._data import Data, Placed, Resident, Streamed
from mixexperts.estimators._frame import Frame
from mixexperts.estimators._online import Incremental
from mixexperts.estimators._saving import Saving
from mixexperts.estimators._several import refuse_constant
from mixexperts.estimators._starts import StartMaker
from mixexperts.estimators._units import Given, Grouping
from mixexperts.experts.base import Expert
from mixexperts.penalties.base import NoPenalty
from mixexperts.sources import ArraySource, Source


class BaseMoE(Incremental, Saving, BaseEstimator):  # type: ignore[misc]
    """Shared machinery of the estimators; parameters are documented in the subclasses."""

    # Declared for the type checker; each subclass assigns them in its __init__.
    n_experts: int
    gate: Any
    expert: Any
    gate_features: Any
    expert_features: Any
    gate_penalty: Any
    expert_penalty: Any
    init: Any
    n_init: int
    algorithm: Any
    max_iter: int
    tol: float
    accelerate: bool
    backend: str
    chunk_rows: int | None
    n_jobs: int | None
    random_state: Any
    verbose: int
    warm_start: bool
    checkpoint: Any

    # --- fitting ---------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
    ) -> None:
        settings = self._settings()
        model = self._model()
        model.expert.check_experts(settings.n_experts)
        plain = settings.algorithm.name == "em"
        extra = {"groups": groups, "log_prior": log_prior, "partial_labels": partial_labels}
        data = self._data(model, X, y, sample_weight, offset, extra, settings.seed)
        model = replace(model, expert=model.expert.for_response(data.n_columns))
        if plain and self.backend == "auto" and checks.is_cupy(X) and is_served(model):
            settings = replace(settings, backend="cupy")
        self._check_size(data, settings.n_experts, model.expert)
        model = model.rescaled(data.weight)
        columns, names = self._columns(data.n_features), self._names(data.n_features)
        model.gate.check_experts(settings.n_experts)
        gate = model.gate.with_columns(tuple(names[j] for j in columns[1]))
        model = replace(model, gate=gate)
        if isinstance(data, Resident):
            data.given.check_gate(columns[1], names)
        # The compiled pass standardises rows as it reads them.
        lazy = self.backend != "numpy" and is_compiled(model)
        model = replace(model, expert=model.expert.with_features(names))
        placed = data.place(model, columns, names, lazy, settings.backend)
        self._warn_about_design(placed.frame, data.n_rows)
        frame = placed.frame  # which tells an expert that names its terms where they are
        expert = model.expert.bound(frame.expert_map, frame.loc, frame.scale)
        model = replace(model, expert=expert)
        restarts = self._run(model, data, placed, settings)
        self._assign(model, data, placed.frame, restarts)
        self.warn_about_fit()

    def _data(
        self,
        model: Model,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        extra: dict[str, Any],
        seed: int,
    ) -> Data:
        """The rows, checked: in memory, or to be read anew in every pass."""
        if not (self._is_source(X, y, sample_weight, offset) or self._in_chunks(X, y)):
            return Resident(self._given(X, y, sample_weight, offset, **extra), seed=seed)
        refused = [name for name, value in extra.items() if value is not None]
        if refused:
            raise UnsupportedCombinationError(
                f"{' and '.join(refused)} cannot go with data that are read in chunks (a source, a "
                "numpy.memmap or chunk_rows); give arrays in memory, and leave out chunk_rows"
            )
        source = X
        if not isinstance(source, Source):
            if not isinstance(X, np.memmap):
                X, y = self._arrays(X, y)
            source = ArraySource(X, y, sample_weight, offset)
        data = Streamed(
            source,
            self.chunk_rows,
            model.expert,
            seed=seed,
            digest=self.checkpoint is not None,
            show=bool(self.verbose),
        )
        if source is X:  # otherwise scikit-learn has noted them
            self._note_features(source.feature_names, data.n_features)
        elif isinstance(X, np.memmap):
            self._note_features(None, data.n_features)
        self._warn_about_weights(data.weight, data.n_rows)
        return data

    def _is_source(self, X: Any, y: Any, sample_weight: Any, offset: Any) -> bool:
        if isinstance(X, str | os.PathLike):
            raise TypeError(
                f"X is the path {str(X)!r}, not data; give "
                "mixexperts.sources.ParquetSource(path, features=[...], response=...)"
            )
        if not isinstance(X, Source):
            return False
        given = {"y": y, "sample_weight": sample_weight, "offset": offset}
        twice = [name for name, value in given.items() if value is not None]
        if twice:
            raise ValueError(
                f"{' and '.join(twice)} must be left out where X is a source: the source gives "
                "them; name them when it is made"
            )
        return True

    def _in_chunks(self, X: Any, y: Any) -> bool:
        """Whether arrays are to be read chunk by chunk; without y scikit-learn complains."""
        return y is not None and (isinstance(X, np.memmap) or self.chunk_rows is not None)

    def _note_features(self, names: tuple[str, ...] | None, n_features: int) -> None:
        """What scikit-learn notes of the columns of X."""
        if names is None:
            validate_data(self, np.empty((0, n_features)), skip_check_array=True)
            return
        import pandas as pd

        validate_data(self, pd.DataFrame(columns=list(names)), skip_check_array=True)

    def _settings(self) -> Settings:
        n_experts = checks.positive_integer(self.n_experts, "n_experts")
        checks.positive_integer(self.n_init, "n_init")
        if self.n_jobs is not None and (
            isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int | np.integer)
        ):
            raise TypeError(f"n_jobs must be an integer or None, got {self.n_jobs!r}")
        if self.chunk_rows is not None:
            checks.positive_integer(self.chunk_rows, "chunk_rows")
        algorithm = resolve_algorithm(self.algorithm)
        if self.backend in ("cupy", "numba") and algorithm.name != "em":
            raise UnsupportedCombinationError(
                f"algorithm={algorithm.name!r} has passes of its own, which backend="
                f"{self.backend!r} does not know; use backend='auto'"
            )
        check_available(self.backend)
        return Settings(
            n_experts,
            checks.positive_integer(self.max_iter, "max_iter"),
            checks.nonnegative_number(self.tol, "tol"),
            bool(self.accelerate),
            self.backend,
            self._seed(),
            1 if self.n_jobs == 1 else None,
            algorithm,
        )

    def _seed(self) -> int:
        from sklearn.utils import check_random_state

        if isinstance(self.random_state, int | np.integer):
            if self.random_state < 0:
                raise ValueError(f"random_state must not be negative, got {self.random_state}")
            return int(self.random_state)
        if self.random_state is None:
            # Starts and their sample of rows go on as they were drawn before an interrupt.
            stored = stored_seed(self.checkpoint)
            if stored is not None:
                return stored
            return int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(self.random_state, np.random.Generator):
            return int(self.random_state.integers(np.iinfo(np.int32).max))
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _family(self) -> Expert:
        """The experts of a fit."""
        expert: Expert = resolve("expert", self.expert, "expert")
        return expert

    def _model(self) -> Model:
        gate = resolve("gate", self.gate, "gate")
        expert = self._family()
        penalties = [
            NoPenalty() if value is None else resolve("penalty", value, argument)
            for value, argument in (
                (self.gate_penalty, "gate_penalty"),
                (self.expert_penalty, "expert_penalty"),
            )
        ]
        if not penalties[0].is_null and not gate.uses_features:
            raise UnsupportedCombinationError(
                f"gate={gate.name!r} has no coefficients, so that gate_penalty does nothing; leave "
                "it out, or use gate='softmax'"
            )
        if not penalties[0].is_null and gate.objective == "joint":
            raise UnsupportedCombinationError(
                f"gate={gate.name!r} is fitted to the features and the response together and takes "
                "no gate_penalty; leave it out, or use gate='softmax'"
            )
        return Model(gate, expert, *penalties)

    def _given(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        groups: Any = None,
        log_prior: Any = None,
        partial_labels: Any = None,
    ) -> Given:
        """The rows of positive weight, checked, group by group."""
        X, y, sample_weight, offset = map(checks.in_memory, (X, y, sample_weight, offset))
        X, y = self._arrays(X, y)
        n = len(y)
        grouping = None if groups is None else Grouping.of(groups, n)
        weight = units.weights(sample_weight, n, grouping)
        family = self._family().for_response(checks.n_columns(y))
        offset = checks.offset_array(offset, n, y.shape[1] if family.multivariate else 1)
        known = units.evidence(log_prior, partial_labels, n, self.n_experts, grouping)
        given = Given.of(X, y, offset, weight, known, grouping)
        self._warn_about_weights(float(given.weight.sum()), len(given.weight), grouping is not None)
        return given

    def _arrays(self, X: Any, y: Any) -> tuple[Array, Array]:
        """X and y as finite numbers, X in single precision if it is given so."""
        checks.numeric_columns(X)
        return checks.validated(self, self._family(), X, y, dtype=[np.float64, np.float32])

    def _warn_about_weights(self, total: float, n_units: int, grouped: bool = False) -> None:
        what = "group" if grouped else "row"
        if total < 0.5 * n_units:
            warn(
                f"sample_weight sums to {total:.3g} over {n_units} {what}s. "
                f"Weights are frequencies: a {what} of weight 2 counts as the {what} twice. BIC "
                "and the check for degenerate experts go by their sum; scale them to sum to the "
                f"number of {what}s if they are relative",
                UserWarning,
            )

    def _check_size(self, data: Data, n_experts: int, expert: Expert) -> None:
        n = data.n_units
        if n_experts > n:
            what = "rows" if data.groups is None else "groups"
            raise ValueError(
                f"n_experts={n_experts} is more than the {n} {what} of positive weight "
                f"(n_samples = {n}); ask for fewer experts or give more {what}"
            )
        refuse_constant(data, expert)

    def _columns(self, n_features: int) -> tuple[Array, Array]:
        names = None
        if hasattr(self, "feature_names_in_"):
            names = tuple(str(name) for name in self.feature_names_in_)
        experts = checks.feature_columns(self.expert_features, n_features, names, "expert_features")
        gate = checks.feature_columns(self.gate_features, n_features, names, "gate_features")
        if not resolve("expert", self.expert, "expert").uses_features:
            experts = experts[:0]
        if not resolve("gate", self.gate, "gate").uses_features:
            gate = gate[:0]
        return experts, gate

    def _warn_about_design(self, frame: Frame, n: int) -> None:
        for room, design, penalty in (
            ("experts", frame.expert_map, self.expert_penalty),
            ("gate", frame.gate_map, self.gate_penalty),
        ):
            if not design.dependent or (room == "gate" and frame.gate_is_joint):
                continue
            solved = "of minimum norm" if penalty is None else "that the penalty picks"
            if n < design.n_columns:
                reason = f"{n} rows are fewer than the {design.n_columns} columns"
            else:
                listed = ", ".join(map(repr, design.dependent[:10]))
                more = f" and {len(design.dependent) - 10} more" * (len(design.dependent) > 10)
                reason = f"{listed}{more} are constant, or linear combinations of other columns"
            warn(
                f"the design of the {room} lacks full rank: {reason}; its coefficients are those "
                f"{solved}",
                RankDeficientWarning,
            )

    def _run(self, model: Model, data: Data, placed: Placed, settings: Settings) -> Restarts:
        warm = self.warm_start and hasattr(self, "theta_")
        init = self if warm and len(self.mass_) == settings.n_experts else self.init
        maker = StartMaker(
            self.n_init,
            settings.n_experts,
            model,
            placed.frame,
            placed.labelled,
            data.n_given,
            data.groups,
            data.log_prior,
        )
        try:
            starts = maker.starts(init)
        except ValueError as error:
            if init is not self:
                raise
            raise ValueError(
                f"warm_start=True cannot go on from the previous fit: {error}; set warm_start=False"
            ) from error
        settings, checkpoint = self._checkpoint(model, placed, starts, settings)
        return fit_restarts(
            model,
            placed.blocks,
            placed.sample,
            starts,
            settings,
            n_jobs=self.n_jobs,
            verbose=int(self.verbose),
            checkpoint=checkpoint,
            log_jacobian=placed.frame.log_jacobian(data.row_weight, data.weight),
        )

    def _checkpoint(
        self, model: Model, placed: Placed, starts: Sequence[Start], settings: Settings
    ) -> tuple[Settings, Checkpoint | None]:
        if self.checkpoint is None:
            return settings, None
        what = (
            model,
            [start.identity() for start in starts],
            settings.n_experts,
            settings.max_iter,
            settings.tol,
            self.accelerate,
            settings.algorithm,
        )
        seed = None if self.random_state is None else settings.seed
        known = repr((what, seed))
        if isinstance(placed.blocks, Stream):
            key = fingerprint((), f"{placed.digest} {known}")
        else:
            key = fingerprint(placed.blocks, known)
        checkpoint = Checkpoint(self.checkpoint, key, settings.seed)
        return replace(settings, seed=checkpoint.seed), checkpoint

    def _assign(self, model: Model, data: Data, frame: Frame, restarts: Restarts) -> None:
        import pandas as pd

        best = restarts.best
        # Evidence names experts by number: they keep it.
        order = np.arange(len(best.mass))
        if data.log_prior is None:
            order = canonical_order(best, model.expert)
        theta = model.permute(best.theta, order)
        jacobian = frame.log_jacobian(data.row_weight, data.weight)
        table = pd.DataFrame(restarts.table(jacobian, frame.scale))
        table.index.name = "start"
        if hasattr(self, "theta_"):  # attributes that another gate or family had
            for name in self.frame_.raw(self.model_, self.theta_):
                self.__dict__.pop(f"{name}_", None)
        self.model_ = model
        self.frame_ = frame
        self.theta_ = theta
        for name, values in frame.raw(model, theta).items():
            setattr(self, f"{name}_", values)
        self.mass_ = best.mass[order]
        self.log_likelihood_ = best.log_likelihood + jacobian
        self.objective_ = best.objective + jacobian
        self.history_ = best.history + jacobian
        self.n_iter_ = best.n_iter
        self.__dict__.pop("trajectory_", None)
        self.__dict__.pop("online_", None)
        if len(best.trajectory):
            self.trajectory_ = best.trajectory + jacobian
        self.status_ = best.status
        self.converged_ = best.status == "converged"
        self.separated_ = best.separated
        self.separated_experts_ = np.isin(order, best.separated_experts)
        self.restarts_ = table
        self.n_parameters_ = model.n_params(theta)
        self.weight_sum_ = data.weight
        self.row_weight_sum_ = data.row_weight
        self.has_offset_ = data.has_offset
        self.has_groups_ = data.groups is not None
        self.has_log_prior_ = data.log_prior is not None
        # The experts were renumbered: say what is wrong in their final numbers.
        self.flags_ = _renumber(best.flags, order)

    def warn_about_fit(self) -> None:
        """Warn if the solution is degenerate, not converged, or its gate separated."""
        if self.status_ == "degenerate":
            warn(
                "no start reached a sound solution; the best one is degenerate: "
                + "; ".join(self.flags_)
                + ". Use fewer experts or terms, more rows or starts, or shared scales",
                DegenerateFitWarning,
            )
        elif not self.converged_:
            reason = {
                "max_iter": f"max_iter={self.max_iter} passes were not enough; raise max_iter",
                "diverged": "the parameters left the range of floating-point numbers",
                "monotonicity_lost": "no step raised the log-likelihood although its gradient is "
                "not zero; rescale the columns",
            }[self.status_]
            warn(
                f"the fit did not converge (status {self.status_!r}): {reason}",
                ConvergenceWarning,
            )
        if self.separated_:
            warn(
                f"{self.model_.gate.separation_reason}; they stand where the log-likelihood "
                "stopped rising. Their signs and the predictions can be used, their sizes cannot. "
                "A gate_penalty keeps them finite",
                SeparationWarning,
            )
        if self.separated_experts_.any():
            listed = ", ".join(str(k + 1) for k in np.flatnonzero(self.separated_experts_))
            warn(
                f"some coefficients of expert {listed} have no finite maximum: "
                f"{self.model_.expert.separation_reason()}; they stand where the "
                "log-likelihood stopped rising. Their signs and the predictions can be used, "
                "their sizes cannot. An expert_penalty keeps slopes finite",
                SeparationWarning,
            )


def canonical_order(result: Any, expert: Expert) -> Array:
    """Experts by ascending mean fitted response over the rows they explain.

    ``result`` is an :class:`EMResult`, or has its ``theta``, ``mass`` and ``level``.

    Of experts that are not alike, each kind keeps its places.
    """
    # Masses and coefficients settle ties; rounding must not.
    params = result.theta.expert
    coef = next(iter(params.values())) if "coef" not in params else params["coef"]
    coef = np.round(coef.reshape(len(coef), -1).T[::-1], 8)
    # The unit of a response that was not brought to a common scale may be any.
    size = 0.0 if expert.affine_response else float(np.abs(result.level).max(initial=0.0))
    keys = [*coef, np.round(result.mass, 6), np.round(result.level / (size or 1.0), 10)]
    labels = expert.interchangeable(len(result.mass))
    order = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order[places] = places[np.lexsort([key[places] for key in keys])]
    return order


def _renumber(flags: tuple[str, ...], order: Array) -> tuple[str, ...]:
    """Flags that start with 'expert <number>' in the canonical numbering."""
    renumbered = []
    for flag in flags:
        word, number, rest = flag.split(" ", 2)
        new = int(np.flatnonzero(order == int(number) - 1)[0]) + 1
        renumbered.append(f"{word} {new} {rest}")
    return tuple(sorted(renumbered))
