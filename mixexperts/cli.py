"""Command line: ``mixexperts fit``, ``mixexperts predict``, ``mixexperts demo``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mixexperts.errors import UnsupportedCombinationError

if TYPE_CHECKING:
    import pandas as pd

    from mixexperts.results import MoEResults

_DEMO = (
    ("tempanomalies", "AnnualAnomaly ~ Year | Year"),
    ("tonedata", "tuned ~ stretchratio | stretchratio"),
)
_PLOTS = ("fit", "calibration", "gate", "posterior", "history", "restarts", "selection")
# Not of every model: one without numeric features has nothing to be drawn against.
_OPTIONAL = ("fit", "gate", "calibration")


class _Parser(argparse.ArgumentParser):
    """Bad usage is one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        0, or 2 after one line on stderr if a path, column or formula cannot be used; 130 if
        interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        checkpoint = getattr(arguments, "checkpoint", None)
        hint = f"; the same command goes on from {checkpoint}" if checkpoint else ""
        print(f"mixexperts: interrupted{hint}", file=sys.stderr)
        return 130
    except (ValueError, UnsupportedCombinationError, OSError, ImportError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"mixexperts: error: {line}", file=sys.stderr)
        return 2


def _show_warning(message: Any, *details: Any, **options: Any) -> None:
    print(f"mixexperts: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from mixexperts import __version__

    parser = _Parser(prog="mixexperts", description="Statistical mixture-of-experts models.")
    parser.add_argument("--version", action="version", version=f"mixexperts {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    fit = commands.add_parser("fit", help="fit a model to a CSV or Parquet file")
    fit.add_argument("data", type=Path, help="CSV file, or Parquet by its suffix")
    fit.add_argument("--formula", required=True, help='"y ~ x | z": experts, bar, gate')
    fit.add_argument("--gate", help='terms of the gate, "~ z", instead of the bar')
    fit.add_argument("--gate-family", help="softmax, gaussian or constant")
    fit.add_argument("--family", default="gaussian", help="gaussian, poisson, binomial, ...")
    fit.add_argument("--experts", type=_experts, default=2, metavar="K", help="2, or 1:5, or 1,2,4")
    fit.add_argument("--criterion", default="bic", help="bic, aic or icl")
    fit.add_argument("--weights", help="column of case weights")
    fit.add_argument("--offset", help="column of offsets")
    fit.add_argument("--missing", default="drop", help="drop, raise or none")
    fit.add_argument("--starts", type=int, default=10, help="starts per fit")
    fit.add_argument("--seed", type=int, default=0, help="seed of the starts")
    fit.add_argument("--jobs", type=int, default=None, help="starts run in parallel")
    fit.add_argument("--checkpoint", help="file to go on from after an interrupt")
    fit.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    fit.add_argument("--output", type=Path, required=True, help="folder for all results")
    fit.set_defaults(run=_run_fit)

    predict = commands.add_parser("predict", help="predict new rows with a saved model")
    predict.add_argument("model", type=Path, help="model.mxp of a fit")
    predict.add_argument("data", type=Path, help="CSV file, or Parquet by its suffix")
    predict.add_argument("--level", type=float, default=0.9, help="of the interval")
    predict.add_argument("--trials", help="column of trials, for successes of binomial experts")
    predict.add_argument("--output", type=Path, required=True, help="CSV or Parquet to write")
    predict.set_defaults(run=_run_predict)

    demo = commands.add_parser("demo", help="fit, choose, plot and predict on shipped data")
    demo.add_argument("--output", type=Path, default=Path("out"), help="folder for all results")
    demo.set_defaults(run=_run_demo)
    return parser


def _experts(text: str) -> int | list[int]:
    """``2``, ``1:5`` (both ends included) or ``1,2,4``."""
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            values = list(range(first, last + 1))
        else:
            values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of experts; write 2, or 1:5, or 1,2,4"
        )
    return values[0] if len(values) == 1 and ":" not in text else values


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "not there"
        raise FileNotFoundError(f"{path} is {what}; give a CSV or Parquet file")
    if path.suffix.lower() in (".parquet", ".pq"):
        return pd.read_parquet(path)
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error


def _write(frame: pd.DataFrame, path: Path) -> None:
    if path.suffix.lower() in (".parquet", ".pq"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"--output {path} is a file; give a folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run_fit(arguments: argparse.Namespace) -> int:
    from mixexperts.api import moe

    data = _read(arguments.data)
    folder = _folder(arguments.output)
    results = moe(
        arguments.formula,
        data,
        arguments.experts,
        gate=arguments.gate,
        gate_family=arguments.gate_family,
        family=arguments.family,
        criterion=arguments.criterion,
        weights=arguments.weights,
        offset=arguments.offset,
        missing=arguments.missing,
        n_init=arguments.starts,
        random_state=arguments.seed,
        n_jobs=arguments.jobs,
        checkpoint=arguments.checkpoint,
        verbose=0 if arguments.quiet else 1,
    )
    written = write_results(results, folder)
    if not arguments.quiet:
        print(results.summary())
        print(f"\nWritten to {folder}: {', '.join(written)}")
    return 0


def write_results(results: MoEResults, folder: Path) -> list[str]:
    """Write model, tables, summary and plots to a folder; returns the names of the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    results.save(folder / "model.mxp")
    params = results.params.rename("estimate").reset_index()
    params.to_csv(folder / "coefficients.csv", index=False)
    results.restarts.to_csv(folder / "restarts.csv")
    (folder / "summary.txt").write_text(f"{results.summary()}\n")
    written = ["model.mxp", "coefficients.csv", "restarts.csv", "summary.txt"]
    (folder / "selection.csv").unlink(missing_ok=True)
    if results.selection is not None:
        results.selection.to_csv(folder / "selection.csv")
        written.append("selection.csv")
    return written + _write_plots(results, folder)


def _write_plots(results: MoEResults, folder: Path) -> list[str]:
    import matplotlib.pyplot as plt

    written = []
    for kind in _PLOTS:
        for suffix in ("png", "svg"):  # of an earlier fit in the same folder
            (folder / f"{kind}.{suffix}").unlink(missing_ok=True)
        if kind == "selection" and results.selection is None:
            continue
        try:
            figure = results.plot(kind).figure
        except ValueError as error:
            if kind not in _OPTIONAL:
                raise
            print(f"mixexperts: no {kind} plot: {error}", file=sys.stderr)
            continue
        for suffix in ("png", "svg"):
            name = f"{kind}.{suffix}"
            figure.savefig(folder / name, dpi=200, bbox_inches="tight")
            written.append(name)
        plt.close(figure)
    return written


def _run_predict(arguments: argparse.Namespace) -> int:
    from mixexperts.io import load
    from mixexperts.results import MoEResults

    model = load(arguments.model)
    if not isinstance(model, MoEResults):
        raise ValueError(
            f"{arguments.model} holds a {type(model).__name__} without a formula; predict from "
            "Python with its own columns"
        )
    data = _read(arguments.data)
    _write(predictions(model, data, arguments.level, arguments.trials), arguments.output)
    return 0


def predictions(
    results: MoEResults, data: pd.DataFrame, level: float = 0.9, trials: str | None = None
) -> pd.DataFrame:
    """Data with columns ``mean``, ``std``, ``lower`` and ``upper`` of the predictions.

    Of several responses four columns each, such as ``y1_mean``.

    Rows with missing values get NaN. ``trials`` names a column: predicted are then successes.
    Of classes the columns are ``predicted`` and ``proba_`` with the name of each class.
    """
    from mixexperts._class_results import MoEClassResults

    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if trials is not None and trials not in data.columns:
        raise ValueError(f"the data have no column {trials!r} of trials")
    if isinstance(results, MoEClassResults):
        proba = results.predict_proba(data).add_prefix("proba_")
        shown: dict[str, Any] = {"predicted": results.predict(data)}
        shown |= {str(name): values for name, values in proba.items()}
        clash = [name for name in shown if name in data.columns]
        return data.rename(columns={name: f"data_{name}" for name in clash}).assign(**shown)
    rows = results.design(data, missing="drop")
    number = None if trials is None else data[trials].to_numpy()[rows.kept]
    predictive = results.estimator.predictive(rows.X, offset=rows.offset, trials=number)
    parts = {"": predictive}
    if hasattr(predictive, "marginal"):
        names = enumerate(results.spec.y_names)
        parts = {f"{name}_": predictive.marginal(j) for j, name in names}
    columns = {}
    for prefix, part in parts.items():
        lower, upper = part.interval(level)
        columns[f"{prefix}mean"] = rows.spread(part.mean())
        columns[f"{prefix}std"] = rows.spread(part.std())
        columns[f"{prefix}lower"] = rows.spread(lower)
        columns[f"{prefix}upper"] = rows.spread(upper)
    clash = [name for name in columns if name in data.columns]
    frame = data.rename(columns={name: f"data_{name}" for name in clash})
    return frame.assign(**columns)


def _run_demo(arguments: argparse.Namespace) -> int:
    from mixexperts.api import moe
    from mixexperts.datasets import load_dataset
    from mixexperts.io import load

    started = time.perf_counter()
    folder = _folder(arguments.output)
    for name, formula in _DEMO:
        data = load_dataset(name)
        print(f"== {name}: {formula}, one to four experts", flush=True)
        results = moe(formula, data, range(1, 5), criterion="bic", verbose=1)
        assert results.selection is not None
        shown = ["log_likelihood", "df", "aic", "bic", "icl", "status", "reached_best", "n_starts"]
        print(results.selection[shown].round(3).to_string())
        print(f"\nBIC chooses {results.n_experts} experts.\n")
        print(results.summary())
        target = _folder(folder / name)
        write_results(results, target)
        _write(predictions(results, data), target / "predictions.csv")
        again = load(target / "model.mxp")
        if not again.predict(data).equals(results.predict(data)):
            raise ValueError(f"the model read back from {target} predicts differently")
        print(f"\nThe saved model was loaded again and predicts the same.\n{'':-<78}")
    print(f"Done in {time.perf_counter() - started:.1f} s. Everything is in {folder.resolve()}:")
    for path in sorted(folder.glob("*/*")):
        print(f"  {path.relative_to(folder)}")
    return 0
