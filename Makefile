# echodream: `make help` lists what can be made.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup test test-all check docs demo smoke clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP)  ## create .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: setup  ## install what is missing, then run the fast tests
	$(BIN)/python -m pytest -m "not slow"

test-all: setup  ## run all tests, the slow ones too
	$(BIN)/python -m pytest

check: setup docs  ## lint, format check, types, the site, then all tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

docs: $(VENV)/.docs  ## write the documentation as a site to site/; a warning is an error
	$(BIN)/mkdocs build --quiet --clean

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

demo: setup  ## run the whole pipeline on the embedded phantom study, from raw files to the report
	@$(BIN)/python launch/run.py demo

smoke: setup  ## the same steps with tiny networks in two to three minutes, to test that every command works
	@$(BIN)/python launch/run.py smoke

clean:  ## remove the environment and caches (never data, models, samples, runs or reports)
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
