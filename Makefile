# `make demo` and `make test` need nothing but Python 3.11+ and a network that reaches PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup dev demo test lint types bench clean

setup: $(VENV)/.setup  ## an environment that runs the package
dev: $(VENV)/.dev      ## an environment that develops it

$(VENV)/.setup: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

# torchvision goes beside the environment, not into it: where its operators do not fit the build of torch, its
# mere presence breaks transformers. Tests that need it put it on the path themselves (tests/conftest.py).
$(VENV)/.dev: $(VENV)/.setup
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --upgrade --target $(VENV)/torchvision torchvision
	touch $@

demo: setup  ## answer a question about the shipped clip with the embedded model, vanilla beside it
	$(BIN)/adatp ask --compare

test: lint types  ## everything that continuous integration checks
	$(BIN)/python -m pytest --numprocesses 2

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: dev
	$(BIN)/mypy

bench: dev   ## speed of the parts, against what they replace
	$(BIN)/python benchmarks/video.py
	$(BIN)/python benchmarks/prefill.py --layers 12 --frames 8

clean:
	rm -rf $(VENV)
