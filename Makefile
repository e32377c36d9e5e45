# The two commands of the README: `make demo` and `make test`. Both create and use .venv in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Folder in which named data sets are looked up before the Hub.
LORAHUB_DATA ?= $(wildcard ../shared/data)
export LORAHUB_DATA
# To keep your own torch build: make demo TORCH= PYTHON=/path/to/python VENV_FLAGS=--system-site-packages
TORCH ?= torch==2.13.0
VENV_FLAGS ?=
APP ?= 1
TASKS := checkable topic wording
RUNS := $(TASKS:%=runs/starter-%/record.json)
# pip compiles on one core, compileall on all of them. A few files of packages are templates and do not compile.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# One process per core with one thread each. Files are distributed whole, so that fixtures are shared, and in their own
# order: pytest-xdist sorts them by number of tests, which puts files with few, long tests last and leaves a core idle.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: demo app lint check test test-long test-gpu docs clean

demo: $(RUNS)
	$(BIN)/lorahub runs $(TASKS:%=runs/starter-%)
ifneq ($(APP),0)
	$(BIN)/lorahub app $(TASKS:%=runs/starter-%)
endif

runs/starter-%/record.json: | $(VENV)/run.stamp
	$(BIN)/lorahub train --data starter-$* --out runs/starter-$* --seed 0

app: | $(VENV)/run.stamp
	$(BIN)/lorahub app

test: $(VENV)/dev.stamp
	$(PYTEST) --durations 10 -m "not long and not gpu"

test-long: $(VENV)/dev.stamp
	LORAHUB_LONG=1 $(PYTEST) --durations 10 -m "not gpu"

# On a machine with a CUDA device: the engine against peft, and the memory of a model of 7 billion parameters.
test-gpu: $(VENV)/dev.stamp
	LORAHUB_GPU=1 $(BIN)/python -m pytest tests/serving/test_exactness.py
	LORAHUB_GPU=1 $(BIN)/python -m pytest -m gpu tests/experiments/test_estimated_memory.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not slow and not long and not gpu and not browser"

docs: $(VENV)/dev.stamp
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(if $(TORCH),$(INSTALL) $(TORCH))
	$(INSTALL) -e ".[app]" $(if $(TORCH),-c constraints.txt)
	$(COMPILE)
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(if $(TORCH),$(INSTALL) $(TORCH))
	$(INSTALL) -e ".[dev]" $(if $(TORCH),-c constraints.txt)
	$(COMPILE)
	touch $@ $(VENV)/run.stamp
