# Every target does the set-up that it needs; a second run does none of it again. Debian's tools are for `make test`,
# and for `make demo` as root, where each cluster gets a network of its own.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
# Each module is compiled once, also where the environment says that Python is to keep nothing (many an image does):
# the tests start hundreds of processes, and compiling is a third of what it costs to start one.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
SETUP := deploy/setup
VENV_DONE := .venv/.venv-done
LOCKED_DONE := .venv/.locked-done
PROJECT_DONE := .venv/.project-done
TOOLS_DONE := .tools/.tools-done

# Options for one's own runs: make test PYTEST_ARGS='-k dns', make demo DEMO_ARGS='--report out.json'.
PYTEST_ARGS ?=
# Test processes side by side, but for the end-to-end tests under load.
WORKERS ?= 2
# End-to-end tests that follow a page of docs/: command after command, without load. First, since each takes long.
PAGES := $(patsubst %,tests/e2e/test_%.py,operations tutorial lifecycle howto)
DEMO_ARGS ?=
CRASH_ARGS ?=
LOCK_ARGS ?=
# Runs of the simulation.
SEEDS ?= 5000

.PHONY: help
help: ## this list
	@echo 'make TARGET, where TARGET is one of'
	@grep -hE '^[a-z]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/:.* ## /\t/' | while IFS=$$'\t' read -r target text; do \
		printf '  %-8s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: $(if $(filter 0,$(shell id -u)),setup,$(PROJECT_DONE)) ## a federation of four clusters on this machine loses parts under load, live (under 3 minutes)
	$(BIN)/isthmus demo $(DEMO_ARGS)

.PHONY: test
test: setup lint ## everything: make check, then integration and end-to-end tests (under 20 minutes)
	@echo '==> pages of docs/, unit, property and integration tests, 200 seeds of the log and 100 of the federation'
	$(BIN)/python -m pytest -n $(WORKERS) --durations=10 --durations-min=5 $(PAGES) tests/unit tests/property tests/simulation tests/integration $(PYTEST_ARGS)
	@echo '==> end-to-end tests under load, one at a time: each has the machine for itself'
	$(BIN)/python -m pytest --durations=10 --durations-min=5 tests/e2e $(PAGES:%=--ignore=%) $(PYTEST_ARGS)

.PHONY: check
check: lint ## quick: formatting, lint, types, import rule, unit and property tests (under 2 minutes)
	@echo '==> unit and property tests'
	$(BIN)/python -m pytest -n $(WORKERS) tests/unit tests/property $(PYTEST_ARGS)

.PHONY: crash
crash: $(PROJECT_DONE) ## members killed, frozen and stopped in the midst of file operations, for 10 minutes (CRASH_ARGS='--seconds 60')
	$(BIN)/python -m tests.integration.consensus.crash_loop $(CRASH_ARGS)

.PHONY: sim
sim: $(PROJECT_DONE) ## the log's members, then five clusters, on virtual time: SEEDS=5000 runs of each on every core
	$(BIN)/python -m tests.simulation.replay sweep $(SEEDS)
	$(BIN)/python -m tests.simulation.federation.replay sweep $(SEEDS)

.PHONY: bench
bench: setup ## measure, and write docs/benchmarks.md and build/bench.json (under 12 minutes)
	$(BIN)/python -m bench

.PHONY: lint
lint: $(PROJECT_DONE) ## formatting, lint, types and the import rule only
	@echo '==> ruff'
	@$(BIN)/ruff check --quiet . || { echo 'type:  $(BIN)/ruff check --fix .' >&2; exit 1; }
	@$(BIN)/ruff format --check --quiet . || { \
		$(BIN)/ruff format --check . >&2; echo 'type:  $(BIN)/ruff format .' >&2; exit 1; }
	@echo '==> mypy --strict'
	@$(BIN)/mypy --no-error-summary
	@echo '==> import rule'
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report" >&2; exit 1; }

.PHONY: setup
setup: $(PROJECT_DONE) $(TOOLS_DONE) ## virtual environment, locked packages and Debian tools in .venv and .tools
	@:

.PHONY: lock
lock: $(VENV_DONE) ## write the lock files from pyproject.toml (LOCK_ARGS=--upgrade takes newer versions)
	@$(SETUP)/lock.sh $(LOCK_ARGS)

.PHONY: clean
clean: ## remove everything that make made
	rm -rf .venv .tools build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment made elsewhere, as after a move of the checkout, is made anew.
ifneq ($(shell cat .venv/.made-in 2>/dev/null),$(CURDIR))
.PHONY: $(VENV_DONE)
endif
$(VENV_DONE): $(SETUP)/virtualenv.sh
	@$(SETUP)/virtualenv.sh
	@touch $@

$(LOCKED_DONE): requirements-dev.lock $(SETUP)/packages.sh $(VENV_DONE)
	@$(SETUP)/packages.sh locked
	@touch $@

$(PROJECT_DONE): pyproject.toml $(LOCKED_DONE)
	@$(SETUP)/packages.sh project
	@touch $@

$(TOOLS_DONE): $(SETUP)/debian-tools.sh $(SETUP)/debian-download.sh $(SETUP)/common.sh
	@$(SETUP)/debian-tools.sh
	@touch $@
