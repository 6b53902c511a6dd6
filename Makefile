# The menu. `make up` and `make test` need nothing but Python 3.11, pip and make.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin

.PHONY: help install up test check bench e2e requirements clean

help: ## Show this menu
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt requirements-build.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.txt -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

.venv/.developing: requirements-dev.txt .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	touch $@

install: .venv/.installed ## Make .venv with the `habeas` command

up: .venv/.installed ## Start the demo organisation on http://127.0.0.1:$(PORT)
	$(BIN)/habeas demo --port $(PORT)

test: .venv/.developing ## Run all tests that this machine can run
	HABEAS_NO_SKIPS=$(HABEAS_NO_SKIPS) $(BIN)/python -m pytest $(TESTS)

check: .venv/.developing ## Lint, types, import boundaries, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m habeas.checks

bench: .venv/.developing ## Measure; prints the table of docs/performance.md
	$(BIN)/python -m benchmarks

requirements: .venv/.developing ## Pin anew, with hashes and without addresses
	echo setuptools | $(BIN)/uv pip compile --quiet - --generate-hashes --no-header --upgrade --output-file requirements-build.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --generate-hashes --upgrade --output-file requirements.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --generate-hashes --constraints requirements.txt --upgrade --output-file requirements-dev.txt
	$(BIN)/uv pip compile --quiet tests/e2e/requirements-synapse.in --generate-hashes --universal --python-version 3.11 --no-header --upgrade --output-file tests/e2e/requirements-synapse.txt

clean: ## Remove what can be made again
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache
