"""The layout: packages, links, sizes, layers, versions and wording of what is shipped."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mixexperts

MAX_LINES = 500
#: What a reader elsewhere cannot use: paths of one machine, hosts of registries, work talk.
FORBIDDEN = (
    r"/work/", r"/root/", r"/home/", r"\bpypi\.org", r"pythonhosted\.org", r"anaconda\.org",
    r"(?<!scope=\")\bsessions?\b", r"\bAI agents?\b", r"\bChatGPT\b", r"\bCopilot\b", r"\bLLM\b",
    r"\bthe brief\b", r"\bas an AI\b",
)  # fmt: skip

_here = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("_mixexperts_repo", _here / "_repo.py")
assert _spec is not None
assert _spec.loader is not None
repo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(repo)


def _packages_on_disk() -> set[str]:
    found = set()
    for file in repo.sources():
        if file.name == "__init__.py":
            parts = file.parent.relative_to(repo.ROOT).parts
            found.add(".".join(parts if parts[0] == "mixexperts" else ("mixexperts", *parts)))
    return found


def test_every_package_is_listed() -> None:
    listed = repo.pyproject()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == _packages_on_disk()


@pytest.mark.skipif(not repo.is_checkout(), reason="a source distribution has no links")
@pytest.mark.parametrize("room", ["estimators", "theory"])
def test_rooms_are_links(room: str) -> None:
    link = repo.ROOT / "mixexperts" / room
    if sys.platform == "win32" and not link.is_symlink():
        pytest.skip("links are off: git config core.symlinks true, in developer mode")
    assert link.is_symlink()
    assert Path(str(link.readlink())) == Path("..") / room
    mapped = repo.pyproject()["tool"]["setuptools"]["package-dir"]
    assert mapped[f"mixexperts.{room}"] == room


@pytest.mark.parametrize("room", ["estimators", "theory"])
def test_rooms_refuse_to_be_imported_twice(room: str) -> None:
    code = f"import {room}"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repo.ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert f"import mixexperts.{room}" in run.stderr


def test_no_source_file_is_long() -> None:
    lengths = {
        str(path.relative_to(repo.ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in repo.sources()
    }
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_layers() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the lint extra")
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=repo.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_one_version() -> None:
    citation = (repo.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = re.search(r"^version: (\S+)$", citation, flags=re.MULTILINE)
    assert cited is not None
    declared = repo.pyproject()["project"]["version"]
    assert mixexperts.__version__ == declared
    assert cited[1].strip("\"'") == declared
    changes = (repo.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{declared}]" in changes


def test_wording() -> None:
    pattern = re.compile("|".join(FORBIDDEN), flags=re.IGNORECASE)
    found = []
    for path in repo.shipped():
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{path.relative_to(repo.ROOT)}:{number}: {match[0]}"
            for number, line in enumerate(text.splitlines(), start=1)
            for match in pattern.finditer(line)
        ]
    assert found == []


def test_data_files_are_declared() -> None:
    """Every file beside the data package's code is matched by a pattern of package-data."""
    patterns = repo.pyproject()["tool"]["setuptools"]["package-data"]["mixexperts.datasets.data"]
    folder = repo.ROOT / "mixexperts" / "datasets" / "data"
    files = {path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert files
    assert files == {path for pattern in patterns for path in folder.glob(pattern)}
