"""Build the wheel and the source distribution, install the wheel elsewhere, and try it.

``python tests/packaging/wheel_smoke.py``, or ``make wheel-smoke``. Everything happens in a
temporary folder; the checkout is never on the path of what is tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Run by the new environment, from an empty folder, with ``python -P``.
SMOKE = """
import sys
import warnings
from pathlib import Path

warnings.simplefilter("error")
import numpy as np
import mixexperts as mx

where = Path(mx.__file__).resolve()
assert Path(sys.prefix).resolve() in where.parents, f"imported from {where}"
assert mx.__version__ == sys.argv[1], mx.__version__
assert (where.parent / "py.typed").is_file()

names = mx.datasets.list_datasets()["name"]
assert len(names) >= 18, list(names)
for name in names:
    assert len(mx.datasets.load_dataset(name)) > 5
    assert mx.datasets.card(name).source

df = mx.datasets.load_tonedata()
res = mx.moe("tuned ~ stretchratio | stretchratio", data=df, n_experts=2)
assert abs(res.llf - 142.848) < 1e-3, res.llf
assert "stretchratio" in str(res.summary())
res.save("model.mxp")
again = mx.load("model.mxp")
assert np.array_equal(again.predict(df), res.predict(df))

est = mx.MoERegressor(n_experts=2, gate="constant", random_state=0)
est.fit(df[["stretchratio"]], df["tuned"])
assert abs(est.log_likelihood_ - 141.198) < 1e-3, est.log_likelihood_
lower, upper = est.predictive(df[["stretchratio"]]).interval(0.9)
assert (lower < upper).all()
est.save("estimator.mxp")
assert np.array_equal(mx.load("estimator.mxp").coef_, est.coef_)

from mixexperts import estimators, theory
assert "estimators" not in sys.modules and "theory" not in sys.modules
print(f"mixexperts {mx.__version__} from {where.parent}: fit, predict, save, load, data: fine")
"""


def main() -> None:
    """Build, install, try; stop at the first thing that is wrong."""
    started = time.perf_counter()
    sys.path.insert(0, str(ROOT / "tests" / "packaging"))
    import _repo as repo

    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory(prefix="mixexperts-") as name:
        folder = Path(name).resolve()
        dist, away = folder / "dist", folder / "away"
        away.mkdir()

        def run(*command: object, cwd: Path = away) -> str:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=cwd, env=environment, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode != 0:
                sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\nexit {done.returncode}")
            return done.stdout

        print("building the source distribution, and the wheel from it", flush=True)
        # A copy, so that no build folder is left in the checkout.
        copy = folder / "source"
        for path in repo.shipped():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for link in (ROOT / "mixexperts").iterdir():
            if link.is_symlink():
                (copy / "mixexperts" / link.name).symlink_to(link.readlink())
        run(sys.executable, "-m", "build", "--outdir", dist, copy)
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
        print(f"  {sdist.name} {sdist.stat().st_size // 1024} KiB: {_check_sdist(sdist)}")
        expected = {_installed(path) for path in repo.sources()}
        print(f"  {wheel.name} {wheel.stat().st_size // 1024} KiB: {_check_wheel(wheel, expected)}")

        print("installing the wheel into a new environment", flush=True)
        venv = folder / "venv"
        run(sys.executable, "-m", "venv", venv)
        python = venv / "bin" / "python"
        run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wheel)

        version = repo.pyproject()["project"]["version"]
        (away / "smoke.py").write_text(SMOKE, encoding="utf-8")
        print("  " + run(python, "-P", away / "smoke.py", version).strip())
        command = venv / "bin" / "mixexperts"
        assert "usage: mixexperts" in run(command, "--help")
        assert run(command, "--version").strip() == f"mixexperts {version}"
        print("  mixexperts --help: fine")
    print(f"wheel smoke: all fine in {time.perf_counter() - started:.0f} s")


def _installed(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "/".join(parts if parts[0] == "mixexperts" else ("mixexperts", *parts))


def _check_sdist(path: Path) -> str:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = (
        "tests/conftest.py", "tests/packaging/test_layout.py", "docs/conf.py", "docs/index.md",
        "vignettes/GALLERY_HEADER.rst", "estimators/__init__.py", "theory/__init__.py",
        "mixexperts/py.typed", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile",
    )  # fmt: skip
    missing = [name for name in wanted if name not in names]
    if missing:
        sys.exit(f"{path.name} lacks {', '.join(missing)}")
    return f"{len(names)} entries, with tests, docs and vignettes"


def _check_wheel(path: Path, expected: set[str]) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    code = {name for name in names if name.endswith(".py")}
    if code != expected or len(names) != len(set(names)):
        sys.exit(
            f"{path.name}: missing {sorted(expected - code)}, unexpected {sorted(code - expected)}"
        )
    outside = [name for name in names if not name.startswith("mixexperts/")]
    if outside:
        sys.exit(f"{path.name} puts files outside mixexperts/: {outside}")
    return f"{len(names)} files, all below mixexperts/"


if __name__ == "__main__":
    main()
