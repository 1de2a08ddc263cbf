# One environment in .venv, made by the first target that needs it.
# PYTHON=python3.12   another interpreter          TESTARGS="-x -k head"   other arguments for pytest

PYTHON   ?= python3
TESTARGS ?= -n 2
EXTRAS   := audio,demo,images,plots,text,trackers,dev
BIN      := .venv/bin
STAMP    := .venv/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check format slow gpu release-check clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(STAMP)  ## make .venv with everything (the other targets do it when it is missing)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "hfstrat needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "environment: making .venv"; $(PYTHON) -m venv .venv; }
	@echo "environment: installing hfstrat and its dependencies (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --editable ".[$(EXTRAS)]" --constraint constraints.txt
	@touch $(STAMP)

demo: $(STAMP)  ## compare training strategies on bundled data, on this machine
	@$(BIN)/hfstrat compare recipes/demo.yaml

test: $(STAMP)  ## run the default tests: offline, on the CPU, tiny models
	@$(BIN)/python -m pytest $(TESTARGS)

check: $(STAMP)  ## lint, formatting and types
	@echo "check: ruff check"
	@$(BIN)/ruff check .
	@echo "check: ruff format"
	@$(BIN)/ruff format --check .
	@echo "check: mypy"
	@$(BIN)/mypy

format: $(STAMP)  ## let ruff mend and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

slow: $(STAMP)  ## run the tests with a real model and real data
	@$(BIN)/python -m pytest -m slow

gpu: $(STAMP)  ## run the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

release-check:  ## build, check the archives, try the wheel in an empty environment
	@PYTHON="$(PYTHON)" ./.ci/release

clean:  ## remove the environment, caches and builds; runs/ stays
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find hfstrat tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"
