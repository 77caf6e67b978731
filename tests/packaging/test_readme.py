"""The code of README and of the how-to guides runs, and prints what stands below it.

Blocks marked ``python`` of a page run in order in one namespace. A ``text`` block right after
one is its output. Numbers are compared to one unit of their last digit, and dates and numbers of
passes not at all, since they hang on the day and on rounding.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
import types
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "_mixexperts_repo", Path(__file__).parent / "_repo.py"
)
assert _spec is not None
assert _spec.loader is not None
repo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(repo)

PAGES = [repo.ROOT / "README.md", *sorted((repo.ROOT / "docs").glob("*/*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_VARIES = re.compile(r"(Date: +\w{3}, \d\d \w{3} \d{4})|(Passes: +\d+)")
_TOKEN = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|[^\s\d]+")


def examples(page: Path) -> list[tuple[int, str, str | None]]:
    """Line, code and expected output (None: not stated) of each Python block."""
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, str, str | None]] = []
    end = -1
    for match in _BLOCK.finditer(text):
        if match[1] == "python":
            found.append((text.count("\n", 0, match.start()) + 2, match[2], None))
        elif match[1] == "text" and found and not text[end : match.start()].strip():
            line, code, _ = found[-1]
            found[-1] = (line, code, match[2])
        end = match.end()
    return found


def same(expected: str, got: str) -> bool:
    """Whether two outputs agree, up to spaces and the last digit of numbers."""
    wanted, found = (_TOKEN.findall(_VARIES.sub("", text)) for text in (expected, got))
    return len(wanted) == len(found) and all(map(_same_token, wanted, found))


def _same_token(wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    if "." not in wanted or "." not in found:
        return False
    try:
        difference = abs(float(wanted) - float(found))
    except ValueError:
        return False
    decimals = len(wanted.partition("e")[0].partition(".")[2])
    return difference <= 1.01 * 10.0**-decimals


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if examples(page)],
    ids=lambda page: page.relative_to(repo.ROOT).as_posix(),
)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("__page__")  # classes of the page look their module up
    monkeypatch.setitem(sys.modules, "__page__", module)
    names = vars(module)
    for line, code, expected in examples(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
        if expected is not None:
            got = out.getvalue()
            assert same(expected, got), f"{page.name}, line {line} prints\n{got}"


def test_readme_has_its_parts() -> None:
    found = examples(repo.ROOT / "README.md")
    assert len(found) >= 4
    assert sum(expected is not None for _, _, expected in found) >= 3


@pytest.mark.parametrize("page", [*PAGES, *repo.ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        path = page.parent / target
        if path.parent.name == "vignettes":  # pages are made of these by the documentation's build
            made = path.stem == "index" or (repo.ROOT / "vignettes" / f"{path.stem}.py").exists()
            assert made, f"{page.name}: {target}"
            continue
        assert path.exists() or path.with_suffix(".md").exists(), f"{page.name}: {target}"


def test_comparison_of_outputs() -> None:
    assert same("a 1.2345 b", "a   1.2346 b")
    assert not same("a 1.2345", "a 1.2348")
    assert not same("10 of 10", "9 of 10")
    assert same("Passes:   12", "Passes:  14")
