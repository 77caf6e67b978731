"""Speed and memory of fits that stream Parquet files, and how they grow with the rows.

    python tests/benchmarks/out_of_core.py --rows 5000000 --columns 10 --folder /tmp/moe-parquet

Writes a data set once (8 bytes per number; it is taken as it is if it is there already), fits an
eighth, a quarter, half and all of it from fixed parameters, each in a process of its own, and
prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

FILES = 8
EXPERTS = 3
_CHUNK = 250_000


def truth(columns: int) -> dict[str, np.ndarray]:
    """Parameters of the data, the same for every number of rows."""
    rng = np.random.default_rng(20260901)
    gate = rng.standard_normal((EXPERTS, columns))
    return {
        "intercept": 3.0 * np.arange(EXPERTS),
        "coef": rng.standard_normal((EXPERTS, columns)),
        "scale": np.array([0.5, 0.7, 0.9]),
        "gate_intercept": np.array([0.3, -0.2, 0.0]),
        "gate_coef": gate - gate[-1],
    }


def write(folder: Path, rows: int, columns: int) -> list[Path]:
    """The files of a data set; those that are there are kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = truth(columns)
    names = [f"x{j}" for j in range(columns)]
    schema = pa.schema([(name, pa.float64()) for name in [*names, "y"]])
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(FILES):
        n = rows // FILES + (i < rows % FILES)
        file = folder / f"part-{rows}-{columns}-{i}.parquet"
        files.append(file)
        if file.exists():
            continue
        partial = file.with_suffix(".partial")
        with pq.ParquetWriter(partial, schema) as writer:
            for start in range(0, n, _CHUNK):
                rng = np.random.default_rng([rows, columns, i, start])
                m = min(_CHUNK, n - start)
                X = rng.standard_normal((m, columns))
                score = raw["gate_intercept"] + X @ raw["gate_coef"].T
                label = (score + rng.gumbel(size=score.shape)).argmax(axis=1)
                mean = raw["intercept"][label] + np.einsum("ij,ij->i", X, raw["coef"][label])
                y = mean + raw["scale"][label] * rng.standard_normal(m)
                writer.write_table(pa.table([*X.T, y], schema=schema))
        partial.rename(file)
    return files


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fit(files: list[str], columns: int, passes: int) -> dict[str, float]:
    """Fit the files from fixed parameters, in this process."""
    import mixexperts as mx

    start = truth(columns)
    start["intercept"] = start["intercept"] + 0.5
    start["scale"] = 1.5 * start["scale"]
    options = {"init": start, "max_iter": passes, "tol": 0.0, "random_state": 0}
    names = [f"x{j}" for j in range(columns)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Compile, and load what a fit loads, before memory and time are counted.
        rng = np.random.default_rng(0)
        small = rng.standard_normal((5000, columns)), rng.standard_normal(5000)
        mx.MoERegressor(EXPERTS, chunk_rows=1000, **options).fit(*small)
        source = mx.sources.ParquetSource(files, names, "y")
        seconds = time_passes()
        before, began = peak_mib(), time.perf_counter()
        est = mx.MoERegressor(EXPERTS, **options).fit(source)
        ended = time.perf_counter()
    return {
        "rows": est.weight_sum_,
        "scan": ended - began - sum(seconds),
        "seconds": float(np.median(seconds)),
        "passes": len(seconds),
        "before": before,
        "peak": peak_mib(),
        "log_likelihood": est.log_likelihood_ / est.weight_sum_,
    }


def time_passes() -> list[float]:
    """A list that gets the seconds of every pass over a stream from now on."""
    from mixexperts.em.streaming import StreamExecutor

    seconds: list[float] = []
    original = StreamExecutor.map_reduce

    def timed(self, function, handle):
        began = time.perf_counter()
        stats = original(self, function, handle)
        seconds.append(time.perf_counter() - began)
        return stats

    StreamExecutor.map_reduce = timed
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(fit(arguments.child, arguments.columns, arguments.passes)))
        return
    files = write(arguments.folder, arguments.rows, arguments.columns)
    print(f"\n### {arguments.rows:,} rows, {arguments.columns} columns, {EXPERTS} experts\n")
    print("| Rows | Data | First reading | Pass | Rows/s | RSS before | Peak RSS |")
    print("|---|---|---|---|---|---|---|")
    measured = []
    for share in (1, 2, 4, 8):
        command = [sys.executable, __file__, "--folder", str(arguments.folder)]
        command += ["--columns", str(arguments.columns), "--passes", str(arguments.passes)]
        command += ["--child", *map(str, files[:share])]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(run.stdout)
        measured.append(row)
        size = row["rows"] * (arguments.columns + 1) * 8 / 2**20
        rate = row["rows"] / row["seconds"]
        print(
            f"| {row['rows']:,.0f} | {size:,.0f} MiB | {row['scan']:.2f} s "
            f"| {row['seconds']:.3f} s | {rate:,.0f} | {row['before']:.0f} MiB "
            f"| {row['peak']:.0f} MiB |",
            flush=True,
        )
    sizes, seconds = ([row[name] for row in measured] for name in ("rows", "seconds"))
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    print(f"\nSlope of log seconds per pass on log rows: {slope:.3f}.")
    print(f"Mean log-likelihood per row: {measured[-1]['log_likelihood']:.6f}.")


if __name__ == "__main__":
    main()
