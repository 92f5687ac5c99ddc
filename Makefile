# Every target makes what it needs.  PYTHON is any Python >= 3.11; VENV is where the environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SITE ?= site
# What `make test` runs; all of it if empty.
TESTS ?=
# Neighbouring tests run in the same worker: what a file or a folder shares is made once, and fewer libraries are loaded.
WORKERS = -n auto --dist worksteal

# `make oldest` tries the oldest versions that pyproject.toml admits.  The oldest torch is some 3 GB on Linux:
# TORCH_OF=VENV takes the torch and torchvision of that environment instead.
OLDEST ?= .venv-oldest
OLDEST_TESTS ?= tests/core tests/tracing tests/editors tests/test_images.py
TORCH_OF ?=

INSTALL = -m pip install --quiet --disable-pip-version-check
PURELIB = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: demo test quick attack oldest oldest-environment lint format bench docs dist clean

demo: $(VENV)/.package
	$(BIN)/rulepatch demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(WORKERS) $(TESTS)

quick: $(VENV)/.dev
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

# The suites of tests/attack/ with many mutations of each format; the counts go to docs/security.md by `python -m benchmarks.tables`.
MUTATIONS ?= 100000
attack: $(VENV)/.dev
	$(BIN)/python -m benchmarks.attacks --mutations $(MUTATIONS)

# Old libraries use what newer ones deprecate, so warnings are no errors here, but for our own.  The extras are not tried.
oldest: oldest-environment
	$(OLDEST)/bin/python -m pytest $(WORKERS) -m "not slow" -k "not peft and not huggingface" \
	  --disable-warnings -W default -W error::rulepatch.errors.RulepatchWarning $(OLDEST_TESTS)
	$(OLDEST)/bin/rulepatch edit --help > /dev/null

oldest-environment: $(OLDEST)/.ready

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --site-dir $(abspath $(SITE))

dist: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(OLDEST) build dist $(SITE)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rulepatch needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(INSTALL) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(INSTALL) --editable ".[dev]"
	touch $(VENV)/.package $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(INSTALL) --editable ".[docs]"
	touch $@

# What is lent by TORCH_OF comes last on the path: all that is installed here goes before it.
$(OLDEST)/.ready: pyproject.toml tools/oldest.py
	$(PYTHON) -m venv --clear $(OLDEST)
	$(if $(TORCH_OF),$(TORCH_OF)/bin/python $(PURELIB) > "$$($(OLDEST)/bin/python $(PURELIB))/lent.pth")
	$(PYTHON) tools/oldest.py $(if $(TORCH_OF),torch torchvision) > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python $(INSTALL) --constraint $(OLDEST)/oldest.txt --editable . hypothesis pytest pytest-xdist
	touch $@
