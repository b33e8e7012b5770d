# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# constraints.txt pins every direct dependency; without it pip could fetch another, far larger torch
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

# the scripts that measure; the other files in benchmarks/ are what these import
BENCHMARKS := verdict curvature scaling memory training finding landscape studies

.PHONY: help demo test slow check fix docs bench
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: .venv/runtime.stamp  ## diagnose and free a real stalled training; writes report.html
	$(BIN)/unstick demo --html report.html

test: .venv/development.stamp  ## the tests, doctests too; all but the slow ones
	$(BIN)/python -m pytest -n 2 -q

slow: .venv/development.stamp  ## the slow tests
	$(BIN)/python -m pytest -n 2 -q -m slow

check: .venv/development.stamp  ## format, lint, types, layers, docs coverage
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/contracts/test_docs_coverage.py tests/contracts/test_cli_page.py

fix: .venv/development.stamp  ## format, mend what ruff can mend, write the generated docs pages
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/python tests/contracts/cli_page.py --write
	$(BIN)/python tests/contracts/oracles_page.py --write
	$(BIN)/python tests/contracts/optimizers_page.py --write
	$(BIN)/python tests/contracts/architectures_page.py --write

docs: .venv/development.stamp  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/peers.stamp  ## what it costs, beside peers in one run
	@for name in $(BENCHMARKS); do \
	  script="benchmarks/$$name.py"; \
	  if [ -e "$$script" ]; then echo "== $$script"; $(BIN)/python "$$script" || exit 1; fi; \
	done

.venv/runtime.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

.venv/development.stamp: .venv/runtime.stamp
	$(INSTALL) -e '.[dev]'
	touch $@

# --no-deps: one of the peers asks for torchvision, which it does not need; peers.txt lists what they do need
.venv/peers.stamp: .venv/development.stamp benchmarks/peers.txt
	$(INSTALL) -e '.[lightning]'
	$(BIN)/python -m pip install --quiet --no-deps -r benchmarks/peers.txt
	touch $@
