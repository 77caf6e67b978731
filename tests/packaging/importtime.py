"""How long the imports take: ``python tests/packaging/importtime.py``. No verdict is given.

Times hang on the machine and on its disk cache; what must not be imported is tested instead.
"""

from __future__ import annotations

import subprocess
import sys

STATEMENTS = (
    "import mixexperts",
    "import mixexperts as mx; mx.MoERegressor",
    "import mixexperts as mx; mx.moe",
)
REPEATS = 5


def cumulative_ms(statement: str) -> tuple[float, list[tuple[float, str]]]:
    """Total of the self times in milliseconds, and the costliest modules by self time."""
    out = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    rows = []
    for line in out.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            rows.append((int(own) / 1000.0, name.strip()))
    return sum(own for own, _ in rows), sorted(rows, reverse=True)[:5]


def main() -> None:
    """Print the best of a few runs for each statement."""
    empty = min(cumulative_ms("pass")[0] for _ in range(REPEATS))
    print(f"an empty interpreter imports for {empty:.0f} ms; beyond that:")
    for statement in STATEMENTS:
        total, worst = min(cumulative_ms(statement) for _ in range(REPEATS))
        print(f"{total - empty:8.0f} ms  {statement}")
        for own, name in worst:
            print(f"{own:16.1f} ms  {name}")


if __name__ == "__main__":
    main()
