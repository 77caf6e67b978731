# make demo and make test are all the set-up there is: each makes .venv and installs what it needs.
#
#   make demo         fit, choose, plot and predict on shipped data; results in out/
#   make test         the tests                         make test-slow    the long studies
#   make lint         ruff, mypy, import layers         make docs         the site, vignettes run
#   make wheel-smoke  build, install, try the wheel     make bench        timings, no verdict
#   make clean        remove all that was made, .venv included
#
# Variables: PYTHON (3.11 or later), VENV, OUT, WORKERS (0: no parallel tests),
# PYTEST_ARGS, BENCH_ARGS.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
OUT ?= out
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$p; break; fi; done)
endif

BIN := $(VENV)/bin
PY := $(BIN)/python
# Without the warning that editable installs always give.
PIP := PYTHONWARNINGS=ignore $(PY) -m pip --disable-pip-version-check install --quiet

export MPLBACKEND := Agg
# The checkout is installed in $(VENV); nothing else may be put in front of it.
unexport PYTHONPATH

.PHONY: help
help:
	@awk '/^$$/ { exit } { sub(/^# ?/, ""); print }' Makefile

# --- set-up --------------------------------------------------------------------------------

$(VENV)/.stamp-venv:
	@if [ -z '$(PYTHON)' ]; then \
		echo 'Python 3.11 or later was not found; set PYTHON=/path/to/python3' >&2; exit 1; fi
	@echo '== making $(VENV) with $(PYTHON)'
	@if [ ! -x $(PY) ]; then \
		$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
			$(PYTHON) -m venv --without-pip $(VENV); \
			$(PYTHON) -m pip --python $(PY) install --quiet pip; }; fi
	@touch $@

# The stamp of an extra says that it was installed for this pyproject.toml.
$(VENV)/.stamp-package: pyproject.toml | $(VENV)/.stamp-venv
	@echo '== installing mixexperts into $(VENV)'
	@$(PIP) --editable .
	@touch $@

$(VENV)/.stamp-%: pyproject.toml | $(VENV)/.stamp-venv
	@echo '== installing mixexperts[$*] into $(VENV)'
	@$(PIP) --editable '.[$*]'
	@touch $@ $(VENV)/.stamp-package

# --- what there is to run --------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.stamp-package
	$(BIN)/mixexperts demo --output $(OUT)

# One thread of BLAS per process: tests run side by side, and their fits are small.
test test-slow: export OPENBLAS_NUM_THREADS ?= 1
XDIST = $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist worksteal)

.PHONY: test
test: $(VENV)/.stamp-test
	$(BIN)/pytest $(XDIST) -m 'not slow' $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.stamp-test
	$(BIN)/pytest $(XDIST) -m slow $(PYTEST_ARGS) || [ $$? -eq 5 ]  # 5: there are none

.PHONY: lint
lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The two linked rooms must be among the files that mypy read, or their types go unseen.
	@expected=$$(find -L mixexperts -name '*.py' | wc -l); \
	echo "mypy (expecting $$expected source files)"; \
	out=$$($(BIN)/mypy) || { echo "$$out"; exit 1; }; echo "$$out"; \
	grep -q "no issues found in $$expected source files" <<<"$$out" || { \
		echo "mypy did not read all $$expected files below mixexperts/" >&2; exit 1; }
	$(BIN)/lint-imports

.PHONY: docs
docs: $(VENV)/.stamp-docs $(VENV)/.stamp-test
	$(BIN)/pytest -n 0 tests/packaging/test_docstrings.py tests/packaging/test_readme.py
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

.PHONY: wheel-smoke
wheel-smoke: $(VENV)/.stamp-test
	$(PY) tests/packaging/wheel_smoke.py

.PHONY: bench
bench: $(VENV)/.stamp-test
	$(PY) tests/packaging/importtime.py
	$(PY) tests/benchmarks/run.py $(BENCH_ARGS)

.PHONY: clean
clean:
	rm -rf $(VENV) $(OUT) build dist htmlcov .coverage* *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf docs/_build docs/vignettes docs/reference/generated docs/sg_execution_times.rst
	find . -name __pycache__ -prune -exec rm -rf {} +
