# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# constraints.txt pins every direct dependency; without it pip could fetch another, far larger torch
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: help demo test check fix docs bench
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: .venv/runtime.stamp  ## diagnose and free a real stalled training; writes report.html
	$(BIN)/unstick demo --html report.html

test: .venv/development.stamp  ## every test, doctests too
	$(BIN)/python -m pytest -n 2 -q

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

docs: .venv/development.stamp  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/development.stamp  ## every script in benchmarks/
	@for script in benchmarks/*.py; do \
	  if [ -e "$$script" ]; then echo "== $$script"; $(BIN)/python "$$script" || exit 1; fi; \
	done

.venv/runtime.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

.venv/development.stamp: .venv/runtime.stamp
	$(INSTALL) -e '.[dev]'
	touch $@
