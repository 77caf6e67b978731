"""Where the repository's files are, for the tests of this folder."""

from __future__ import annotations

import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Source folders, by the package that they install as.
ROOMS = {"mixexperts.estimators": ROOT / "estimators", "mixexperts.theory": ROOT / "theory"}
_BUILT = ("docs/_build/", "docs/vignettes/", "docs/reference/generated/")
_LEFT_OUT = (".venv", "build", "dist", "out", "__pycache__", ".git")


@cache
def pyproject() -> dict[str, Any]:
    """``pyproject.toml`` as a dictionary."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> list[Path]:
    """All library files, each once: the linked rooms by their folders at the top."""
    own = [path for path in (ROOT / "mixexperts").rglob("*.py") if not _linked(path)]
    return sorted([*own, *(path for room in ROOMS.values() for path in room.rglob("*.py"))])


def _linked(path: Path) -> bool:
    return any(path.is_relative_to(ROOT / name.replace(".", "/")) for name in ROOMS)


def is_checkout() -> bool:
    """Whether this is a git checkout, and not an unpacked source distribution."""
    return (ROOT / ".git").exists()


def shipped() -> list[Path]:
    """Text files of the repository, also those not yet under version control."""
    if is_checkout():
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
    else:
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    names = [
        n for n in names if not n.startswith(_BUILT) and not set(_LEFT_OUT) & set(n.split("/"))
    ]
    files = [ROOT / name for name in sorted(names)]
    return [path for path in files if path.is_file() and not path.is_symlink() and _is_text(path)]


def _is_text(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"\0" not in stream.read(8192)
