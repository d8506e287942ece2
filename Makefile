# claimledger. `make` alone prints the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
LOCKED := $(VENV)/.locked
JARS := deploy/kafka/libs
KAFKA := $(JARS)/.checked
SEEDS ?= 100
CLAIMS ?= 300
TESTS ?=
export PYTHONPATH := services:proto/python:.

.PHONY: help setup fmt lint types test test-unit test-e2e test-full sim bench proto proto-check proto-image docs lock up \
	down status demo clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(LOCKED) $(KAFKA) ## virtual environment with the locked packages, and Kafka's jars

$(LOCKED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 setup"; exit 1; }
	@test -x $(PY) || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@test -x $(BIN)/uv || { echo "installing uv"; \
		awk '/^[^ #]/ {mine = /^uv==/} mine' requirements.lock > $(VENV)/uv.txt; \
		$(PY) -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r $(VENV)/uv.txt; }
	@echo "installing the locked packages"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --require-hashes --compile-bytecode requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@$(PY) -m compileall -q services proto/python # ten processes start at once, and not every machine lets them keep it
	@touch $@

$(KAFKA): deploy/kafka/pom.xml deploy/kafka/sha256sums | $(LOCKED)
	@if [ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then \
		echo "Kafka at $$KAFKA_BOOTSTRAP_SERVERS: no jars needed"; \
	elif ! command -v mvn > /dev/null; then \
		echo "Maven (mvn) is missing, which fetches Kafka's jars. Either install Maven (Debian: apt-get install maven)"; \
		echo "or set KAFKA_BOOTSTRAP_SERVERS=host:port to a Kafka 3.9 or newer, and run make again."; exit 1; \
	else \
		echo "fetching Kafka's jars (55 MB)"; rm -rf $(JARS); \
		java=$$($(PY) -m runtime.broker java); \
		real=$$(readlink -f "$$java"); \
		(cd deploy/kafka && JAVA_HOME="$${JAVA_HOME:-$${real%/bin/java}}" mvn -q -B dependency:copy-dependencies \
			-DincludeScope=runtime -DoutputDirectory=libs); \
		$(PY) -m runtime.broker check; touch $@; \
	fi

lock: $(LOCKED) ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-header \
		-q -o requirements.lock

fmt: $(LOCKED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(LOCKED) ## format, ruff, import-linter, buf
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against image.binpb

types: $(LOCKED) ## mypy --strict
	$(BIN)/mypy

test: setup ## everything but the measurements; narrowed: make test TESTS="tests/unit/cli -k jars"
ifeq ($(strip $(TESTS)),)
	$(PY) -m pytest -n 2 --dist loadfile tests/unit tests/scenarios tests/simulation
	$(PY) -m pytest -n 2 --dist loadfile tests/contract
	$(PY) -m pytest tests/e2e
else
	$(PY) -m pytest $(TESTS)
endif

test-unit: $(LOCKED) ## tests that need neither Kafka nor PostgreSQL
	$(PY) -m pytest tests/unit tests/scenarios -m "not slow" $(TESTS)

test-e2e: setup ## the whole network as processes, with the crash drill
	$(PY) -m pytest tests/e2e $(TESTS)

test-full: setup ## the same with coverage of branches and 500 seeds; the crash drill goes two rounds
	CLAIMLEDGER_SIM_SEEDS=500 $(PY) -m pytest -n 2 --dist loadfile --cov --cov-report= tests/unit tests/scenarios \
		tests/simulation
	$(PY) -m pytest -n 2 --dist loadfile --cov --cov-append --cov-report= tests/contract
	CLAIMLEDGER_DRILL_ROUNDS=2 $(PY) -m pytest --cov --cov-append --cov-report=term-missing:skip-covered tests/e2e

sim: $(LOCKED) ## simulate consensus: make sim SEEDS=500
	CLAIMLEDGER_SIM_SEEDS=$(SEEDS) $(PY) -m pytest tests/simulation $(TESTS)

bench: setup ## measure; figures go to .run/bench/figures.jsonl
	$(PY) -m tests.bench

proto: $(LOCKED) ## generate proto/python
	$(PY) proto/generate.py

proto-check: $(LOCKED) ## stubs are what the contracts give
	$(PY) proto/generate.py --check

proto-image: $(LOCKED) ## after a release: what `buf breaking` compares with
	cd proto && ../$(BIN)/buf build -o image.binpb

docs: $(LOCKED) ## generate docs/TOPICS.md and docs/asyncapi.yaml
	$(PY) docs/generate.py

up: setup ## start everything and leave it running
	$(BIN)/claimledger up

down: $(LOCKED) ## stop what `make up` started
	$(BIN)/claimledger down

status: $(LOCKED) ## what runs and how far it is
	$(BIN)/claimledger status

demo: setup ## the main job from start to end: make demo CLAIMS=300
	$(BIN)/claimledger demo --claims $(CLAIMS)

clean: ## remove what make made, but for .run
	rm -rf $(VENV) $(JARS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find services tests proto -name __pycache__ -type d -prune -exec rm -rf {} +
