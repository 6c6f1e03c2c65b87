# Two commands do everything on a fresh machine with Python 3.11+, git and make:
#   make tour   runs the main job: a real service, deployed, broken, taken back, undone
#   make test   passes the tests
# Both make their own environment in .venv from the locked versions in uv.lock.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help tour test check lint types contracts simulate simulate-ci torture bench bench-judge clean
help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/.ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rebake needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install 'uv>=0.5'
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv sync --quiet --frozen --inexact
	@touch $@

tour: .venv/.ready ## run the main job on a real small service, with real load
	@$(BIN)/rebake tour

test: .venv/.ready ## pass the tests (real Envoy, real processes)
	@$(BIN)/python -m pytest -n 2

lint: .venv/.ready ## ruff: style and format
	@$(BIN)/ruff check src tests benchmarks examples docs
	@$(BIN)/ruff format --check src tests benchmarks examples docs

types: .venv/.ready ## mypy, strict
	@$(BIN)/mypy

contracts: .venv/.ready ## who may import whom
	@$(BIN)/lint-imports

check: lint types contracts ## everything that CI demands
	@$(MAKE) --no-print-directory -j2 test simulate-ci  # half of the tests' time is waiting: worlds are simulated meanwhile

simulate-ci: .venv/.ready ## the simulated rollouts that CI demands: 20,000, with every fault
	@nice $(BIN)/python -m rebake.testing.simulation --seeds 100000 --rollouts 20000 --workers 2

SEEDS ?= 1+5000
simulate: .venv/.ready ## simulated rollouts with every fault: make simulate SEEDS=FIRST+COUNT
	@$(BIN)/python -m rebake.testing.simulation --seeds $(SEEDS) --workers 2

KILLS ?= 200
SEED ?= 1
torture: .venv/.ready ## kill agent, Envoy, instances and machine under load: make torture KILLS=200 SEED=1 (half an hour)
	@$(BIN)/python -m tests.torture --kills $(KILLS) --seed $(SEED)
	@REBAKE_EVERY_REQUEST=1 $(BIN)/python -m pytest -q -n 2 tests/unit/platforms/kubernetes/test_engines.py

bench: .venv/.ready ## the measured figures, as ratios against peers in the same run
	@$(BIN)/python -m benchmarks

bench-judge: .venv/.ready ## the judge beside its peers, in a simulated world: make bench-judge ARGS="--seed 7" (half an hour)
	@$(BIN)/python -m benchmarks.judge $(ARGS)

clean: ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
