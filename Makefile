# Fluxbee Edge. `make` alone lists what there is.
#
# Everything lands below this folder: .venv (tools and libraries), var (the development hive), dist and work
# (frozen program). Versions come from build/*.lock, pinned and hashed; nothing is installed again until a lock
# or pyproject.toml changes.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The first interpreter that is new enough; `make PYTHON=/path/to/python3 …` overrides it for a new .venv.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# More words for pytest: make test PYTEST_ARGS="-k router -x"
PYTEST_ARGS ?=
# A test that hangs is shown with all its threads and ends the run, where it would block a machine for ever.
PYTEST := $(BIN)/python -m pytest -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

.PHONY: help run setup setup-run test lint format unit bench binary lock clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup-run var/etc/hive.yaml target/release/fluxbee-publish  ## start a motherbee here: all files in ./var, HTTP on 127.0.0.1:8080
	@exec $(BIN)/fluxbee run --config var/etc/hive.yaml

var/etc/hive.yaml:
	@mkdir -p $(@D)
	@cp config/development.yaml $@

# Where operators' scripts look for the publisher.
target/release/fluxbee-publish: | .venv/.setup-run
	@mkdir -p $(@D)
	@ln -sfn ../../$(BIN)/fluxbee-publish $@

test: setup lint  ## everything: format, lint, types, floors, then all tests
	$(PYTEST) $(PYTEST_ARGS)

unit: setup  ## the quick tests only
	$(PYTEST) tests/unit -m "not slow and not process and not privileged and not frozen" $(PYTEST_ARGS)

lint: setup  ## format, lint, types and floors, without running tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## put the sources into their form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## measure; each number beside its baseline in the same run
	@build/debian-packages nats-server || echo "nats-server is not here: its baseline is left out"
	$(BIN)/python -m tests.bench all

binary: setup  ## freeze the program: dist/onedir/fluxbee/ and dist/onefile/fluxbee
	$(BIN)/python build/freeze.py all

setup: .venv/.setup  ## .venv with all that development needs
setup-run: .venv/.setup-run

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "no venv: apt-get install python3-venv"; exit 1; }

.venv/.setup-run: pyproject.toml build/requirements.lock | .venv/bin/python
	@echo "installing the program and its libraries"
	@$(PIP) install --require-hashes -r build/requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.setup: .venv/.setup-run build/dev.lock
	@echo "installing the tools for tests, checks and the frozen program"
	@$(PIP) install --require-hashes -r build/dev.lock
	@touch $@

COMPILE := $(BIN)/pip-compile --quiet --no-config --strip-extras --allow-unsafe --generate-hashes --no-emit-options \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --build-deps-for editable $(LOCK_ARGS)
lock: setup  ## pin pyproject.toml's dependencies anew; LOCK_ARGS=--upgrade takes newer versions
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) -o build/requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) --extra dev --extra build -c build/requirements.lock \
		-o build/dev.lock pyproject.toml

clean:  ## remove what was built and all caches; .venv and var stay
	rm -rf dist target work *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv and the development hive too
	rm -rf .venv var
