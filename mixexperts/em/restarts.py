"""Many starts, the best sound solution, and a report of them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixexperts._batch import Batch, Theta
from mixexperts.em.accelerate import Anderson
from mixexperts.em.checkpoint import Checkpoint, Running
from mixexperts.em.engine import EMResult, Executor, Model, first_best
from mixexperts.em.executors import executor_for, one_blas_thread, total_weight
from mixexperts.em.init import (
    agreeing,
    initial_theta,
    keyed_rng,
    split_worst,
)
from mixexperts.em.monitor import Monitor
from mixexperts.em.newton import Newton
from mixexperts.em.screening import finalists, run_on_sample, screened
from mixexperts.em.streaming import Stream
from mixexperts.em.variants import EM, Algorithm

#: Two starts reached the same optimum if their objectives differ by less than this, in units
#: of log-likelihood.
SAME_OPTIMUM = 1e-3


@dataclass(frozen=True)
class Start:
    """One start: a kind drawn by its index, or parameters."""

    kind: str
    index: int = 0
    theta: Theta | None = None
    #: Optimum of a sample that the start leads to, where starts are screened on one.
    polished: Theta | None = None

    def is_given(self, n_experts: int) -> bool:
        """Whether the user gave parameters of all experts: they are never lost to a sample."""
        if self.theta is None:
            return False
        return len(next(iter(self.theta.expert.values()))) == n_experts

    def identity(self) -> tuple[object, ...]:
        """What tells this start from others, as text and numbers."""
        given = [] if self.theta is None else [self.theta.gate, self.theta.expert]
        values = [(name, value.tolist()) for part in given for name, value in part.items()]
        return (self.kind, self.index, values)

    def parameters(self, model: Model, batch: Batch, n_experts: int, seed: int) -> Theta:
        """Starting parameters with ``n_experts`` experts."""
        rng = keyed_rng(seed, self.kind, self.index)
        if self.theta is None:
            return initial_theta(model, batch, n_experts, self.kind, rng)
        theta = self.theta
        if batch.log_prior is not None and not self.is_given(n_experts):
            grown = self.parameters(model, replace(batch, log_prior=None), n_experts, seed)
            return agreeing(model, batch, grown, rng)
        while len(next(iter(theta.expert.values()))) < n_experts:
            theta = split_worst(model, batch, theta, rng)
        return theta


@dataclass(frozen=True)
class Settings:
    """What all starts of a fit share."""

    n_experts: int
    max_iter: int
    tol: float
    accelerate: bool
    backend: str
    seed: int
    #: Most threads inside a run; None: as many as the machine allows.
    n_threads: int | None = None
    algorithm: Algorithm = field(default_factory=EM)


def start_seed(seed: int, start: Start) -> int:
    """Seed of what a start draws while it runs."""
    return int(keyed_rng(seed, f"run {start.kind}", start.index).integers(2**31))


def run_start(
    model: Model,
    blocks: Sequence[Batch] | Stream,
    sample: Batch,
    start: Start,
    settings: Settings,
    *,
    checkpoint: Checkpoint | None = None,
    index: int = 0,
    executor: Executor | None = None,
) -> EMResult:
    """Run one start to its end; ``sample`` is the block of rows that starts are made from.

    An executor that is given stays open: what it placed serves the next start too.
    """
    monitor = Monitor(settings.max_iter, settings.tol)
    accelerator, newton = Anderson(), Newton(model)
    if _is_part(sample, blocks):
        newton.next_try = 0  # the start comes from an optimum of the sample
    running = checkpoint.running.get(index) if checkpoint else None
    alternative = None
    if running is None and start.polished is not None:
        theta = start.polished
        if start.theta is not None and start.is_given(settings.n_experts):
            theta, alternative = start.theta, start.polished
    elif running is None:
        scaled = model.rescaled(_share(sample, blocks))
        theta = start.parameters(scaled, sample, settings.n_experts, settings.seed)
    else:
        theta = running.theta
        # The pass that found these parameters is made again: it is counted once.
        monitor.n_iter, monitor.history = running.n_iter - 1, running.history[:-1]
        accelerator.restore(running.memory)
        newton.restore(running.newton)
    if checkpoint:
        monitor.callback = _Reporter(checkpoint, index, accelerator, newton, list(monitor.history))
    own = executor or executor_for(settings.backend, blocks, settings.n_threads)
    try:
        return settings.algorithm.run(
            model,
            blocks,
            theta,
            seed=start_seed(settings.seed, start),
            begun=running is not None or start.polished is not None,
            monitor=monitor,
            executor=own,
            backend=settings.backend,
            accelerate=accelerator if settings.accelerate else False,
            newton=newton if settings.accelerate else False,
            sample=sample if _is_part(sample, blocks) else None,
            alternative=alternative,
        )
    finally:
        if executor is None:
            own.close()


def _is_part(sample: Batch, blocks: Sequence[Batch] | Stream) -> bool:
    """Whether the sample holds fewer rows than the data."""
    if isinstance(blocks, Stream):
        return sample.n_rows < blocks.n_rows
    return sample.n_rows < sum(block.n_rows for block in blocks)


@dataclass(frozen=True)
class Restarts:
    """Results of all starts, in the order of the starts."""

    starts: tuple[Start, ...]
    results: tuple[EMResult, ...]

    @property
    def best_index(self) -> int:
        """The sound start of the highest objective; the first of them if several tie."""
        return first_best(self.results)

    @property
    def best(self) -> EMResult:
        """Result of the best start."""
        return self.results[self.best_index]

    def table(self, log_jacobian: float, response_scale: float) -> dict[str, list[Any]]:
        """One entry per start and column, on the scale of the response as given."""
        best = self.best
        columns: dict[str, list[Any]] = {
            name: []
            for name in (
                "init", "log_likelihood", "objective", "status", "n_iter",
                "min_share", "min_scale", "flag", "reached_best",
            )
        }  # fmt: skip
        for start, result in zip(self.starts, self.results, strict=True):
            scale = result.theta.expert.get("scale")
            row = (
                start.kind,
                result.log_likelihood + log_jacobian,
                result.objective + log_jacobian,
                result.status,
                result.n_iter,
                float(result.mass.min() / result.mass.sum()),
                float("nan") if scale is None else float(scale.min() * response_scale),
                "; ".join(result.flags),
                result.sound == best.sound and result.objective >= best.objective - SAME_OPTIMUM,
            )
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
        return columns


def fit_restarts(
    model: Model,
    blocks: Sequence[Batch] | Stream,
    sample: Batch,
    starts: Sequence[Start],
    settings: Settings,
    *,
    n_jobs: int | None = None,
    verbose: int = 0,
    checkpoint: Checkpoint | None = None,
    log_jacobian: float = 0.0,
) -> Restarts:
    """Run all starts and keep every result.

    With a checkpoint, an interrupt (``KeyboardInterrupt``) writes what is done and where the
    running start stands before it is passed on.
    """
    done: dict[int, EMResult] = dict(checkpoint.done) if checkpoint else {}
    going_on = list(starts)
    with _Progress(len(starts), settings.n_experts, verbose, log_jacobian) as progress:
        try:
            if _is_part(sample, blocks):
                going_on, dropped = _screen(
                    model, blocks, sample, starts, settings, n_jobs, checkpoint, progress
                )
                done |= dropped
                n_jobs = None  # few runs over many rows: the threads go inside them
            for i, result in done.items():
                progress.show(starts[i], result)
            todo = [i for i in range(len(starts)) if i not in done]
            for i, result in _run(
                model, blocks, sample, going_on, settings, todo, n_jobs, checkpoint
            ):
                done[i] = result
                progress.show(starts[i], result)
                if checkpoint:
                    checkpoint.finish(i, result)
        except KeyboardInterrupt:
            if checkpoint:
                checkpoint.write()
            raise
    return Restarts(tuple(starts), tuple(done[i] for i in range(len(starts))))


def _run(
    model: Model,
    blocks: Sequence[Batch] | Stream,
    sample: Batch,
    starts: Sequence[Start],
    settings: Settings,
    todo: Sequence[int],
    n_jobs: int | None,
    checkpoint: Checkpoint | None,
) -> Iterator[tuple[int, EMResult]]:
    from joblib import Parallel, delayed, effective_n_jobs

    if len(todo) > 1 and effective_n_jobs(n_jobs) > 1:  # type: ignore[arg-type]
        # Workers of joblib limit their own BLAS threads.
        tasks = (delayed(_indexed)(i, model, blocks, sample, starts[i], settings) for i in todo)
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
        return
    # Blocks are too thin for the threads of BLAS to pay: waking them costs more than the product.
    executor = executor_for(settings.backend, blocks, settings.n_threads)
    try:
        with one_blas_thread():
            for i in todo:
                yield (
                    i,
                    run_start(
                        model, blocks, sample, starts[i], settings,
                        checkpoint=checkpoint, index=i, executor=executor,
                    ),
                )  # fmt: skip
    finally:
        executor.close()


def _screen(
    model: Model,
    blocks: Sequence[Batch] | Stream,
    sample: Batch,
    starts: Sequence[Start],
    settings: Settings,
    n_jobs: int | None,
    checkpoint: Checkpoint | None,
    progress: _Progress,
) -> tuple[list[Start], dict[int, EMResult]]:
    """Run all starts on the sample; those that go on, with where they lead there, and the rest.

    Parameters that the user gave go on in any case, and plain EM begins from them and no other.
    """
    from joblib import Parallel, delayed

    model = model.rescaled(_share(sample, blocks))
    results = dict(checkpoint.sampled) if checkpoint else {}
    given = [i for i, start in enumerate(starts) if start.is_given(settings.n_experts)]
    skipped = [] if settings.accelerate else given
    todo = [i for i in range(len(starts)) if i not in results and i not in skipped]
    tasks = (delayed(_sampled)(i, model, sample, starts[i], settings) for i in todo)
    for i, result in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        results[i] = result
        progress.sampled(starts[i], i)
        if checkpoint:
            checkpoint.sampled[i] = result
    if checkpoint:
        checkpoint.write()
    chosen = {*finalists({i: r for i, r in results.items() if i not in given}, sample), *given}
    going_on = [
        replace(start, polished=results[i].theta) if i in results and results[i].sound else start
        for i, start in enumerate(starts)
    ]
    return going_on, {i: screened(r) for i, r in results.items() if i not in chosen}


def _sampled(
    index: int, model: Model, sample: Batch, start: Start, settings: Settings
) -> tuple[int, EMResult]:
    with one_blas_thread():
        theta = start.parameters(model, sample, settings.n_experts, settings.seed)
        # So few rows are done on the CPU before a GPU has them.
        backend = "auto" if settings.backend == "cupy" else settings.backend
        result = run_on_sample(
            model,
            sample,
            theta,
            settings.max_iter,
            settings.accelerate,
            backend,
            settings.algorithm,
            start_seed(settings.seed, start),
        )
    return index, result


def _share(sample: Batch, blocks: Sequence[Batch] | Stream) -> float:
    """Weight of the sample over that of all rows."""
    return float(sample.weight.sum()) / total_weight(blocks)


def _indexed(
    index: int, model: Model, blocks: Any, sample: Batch, start: Start, settings: Settings
) -> tuple[int, EMResult]:
    with one_blas_thread():
        return index, run_start(model, blocks, sample, start, settings)


@dataclass
class _Reporter:
    """Tells the checkpoint where a run stands."""

    checkpoint: Checkpoint
    index: int
    accelerator: Anderson
    newton: Newton
    history: list[float]

    def __call__(self, theta: Theta, objective: float, n_iter: int) -> None:
        self.history.append(objective)
        memories = self.accelerator.state(), self.newton.state()
        self.checkpoint.advance(self.index, Running(theta, n_iter, list(self.history), *memories))


class _Progress:
    """Progress bar over starts, with the best log-likelihood so far."""

    def __init__(self, total: int, n_experts: int, verbose: int, log_jacobian: float) -> None:
        self.n_experts = n_experts
        self.verbose = verbose
        self.log_jacobian = log_jacobian
        self.best = (False, -np.inf)
        self.times = 0
        self.total = total
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if self.verbose:
            from tqdm.auto import tqdm

            # Narrow enough for the log-likelihood to be read in 80 columns.
            self.bar = tqdm(
                total=self.total,
                desc=f"K={self.n_experts}",
                unit="start",
                bar_format="{desc} |{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            )
        return self

    def show(self, start: Start, result: EMResult) -> None:
        if self.bar is None:
            return
        rank = result.rank
        if result.status == "screened":
            if self.verbose > 1:
                self.bar.write(f"  {start.kind:<10} on the sample only; not among the best there")
            self.bar.update()
            return
        if rank[0] == self.best[0] and abs(rank[1] - self.best[1]) < SAME_OPTIMUM:
            self.times += 1
        elif rank > self.best:
            self.times = 1
        self.best = max(self.best, rank)
        log_likelihood = self.best[1] + self.log_jacobian
        self.bar.set_postfix_str(
            f"best log-likelihood {log_likelihood:.4f}, {self.times}x"
            + ("" if self.best[0] else " (degenerate)")
        )
        if self.verbose > 1:
            value = result.objective + self.log_jacobian
            self.bar.write(
                f"  {start.kind:<10} {value:14.4f}  {result.status} in {result.n_iter} passes"
            )
        self.bar.update()

    def sampled(self, start: Start, index: int) -> None:
        """Tell that a start has run on the sample."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"on a sample: start {index + 1}, {start.kind}")

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
