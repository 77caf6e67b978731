"""The family of the how-to page is a family: the code on the page runs, and passes the suite."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "own-expert.md"
CONFORMANCE = ROOT / "tests" / "conformance"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the docs are not in this installation")


def blocks():
    """Code blocks of the page with the output that follows some of them."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.S)


def run(folder, *command):
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "NUMBA_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=found, cwd=ROOT, timeout=600
    )


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A folder with the page's class in logistic.py."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_logistic.py").write_text(blocks()[0][0], encoding="utf-8")
    return folder


def test_the_class_is_short():
    lines = [line for line in blocks()[0][0].splitlines() if line.strip()]
    assert len(lines) - lines.index("@dataclass(frozen=True)") < 75


def test_the_page_prints_what_it_says(module):
    code = "import own_logistic\n" + blocks()[1][0]
    done = run(module, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks()[1][1]


def test_the_family_passes_the_conformance_suite(module):
    done = run(
        module, "-m", "pytest", "-x", "-p", "own_logistic", "-p", "no:cacheprovider",
        str(CONFORMANCE / "test_experts.py"),
        str(CONFORMANCE / "test_information.py"),
        str(CONFORMANCE / "test_model.py"),
        "-k", "logistic and not recovers and not constant and not gaussian",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 80


def test_its_density_is_that_of_scipy(module, monkeypatch):
    from mixexperts import _registry

    known = dict(_registry._FAMILIES["expert"])
    monkeypatch.setattr(_registry, "_FAMILIES", {**_registry._FAMILIES, "expert": known})
    monkeypatch.syspath_prepend(str(module))
    family = importlib.import_module("own_logistic").Logistic()
    y, eta, scale = np.array([[-40.0], [0.0], [3.0]]), np.array([[0.0, 2.0]]), np.array([0.5, 2.0])
    assert family.log_density(y, eta, scale=scale) == pytest.approx(
        stats.logistic.logpdf(y, eta, scale), rel=1e-12
    )
