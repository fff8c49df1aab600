# What a developer needs. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
ENV := .venv/.installed
# One thread per test process; without it every process starts a thread per core.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest
TEST_PROCESSES ?= 2
# All tests of a file in one process: what they share is made once. In order: the slow files come early.
SPREAD := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
CODE := operator trainer tests $(wildcard benchmarks examples)

# A Kubernetes of its own on this machine (docs/testbed.md); what it needs of the system it says, and never installs.
TESTBED := PYTHONPATH=tests $(BIN)/python -m testbed
GENERATORS := semires_trainer.reference_docs semires_operator.crd semires_operator.operations_page semires_operator.cli.pictures

.PHONY: help env quickstart test test-rootless test-long benchmark lint format generate check-generated lock clean
.PHONY: cluster-build cluster-up cluster-down cluster-demo e2e images

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

env: $(ENV) ## Make .venv with the locked packages and this project

$(ENV): requirements/dev.txt pyproject.toml tools/make-env
	@tools/make-env
	@touch $@

quickstart: $(ENV) ## Train SemiRES on the synthetic benchmark on the CPU, in minutes
	$(BIN)/semires data synthetic --output synthetic --images 1500 --eval-images 50
	$(BIN)/semires run examples/quickstart.yaml

test: test-rootless e2e ## Run all tests but the long ones

test-rootless: $(ENV) ## Those of them that need neither root nor the Debian packages of the real node
	$(PYTEST) -m "not long and not real" $(SPREAD)

test-long: $(ENV) ## Run the tests that take minutes: about an hour
	$(PYTEST) -m long $(SPREAD) --durations=0 --durations-min=20

benchmark: $(ENV) ## Measure speed and memory against peers, in one run
	$(BIN)/python -m benchmarks

lint: $(ENV) ## Style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	PYTHONPATH=operator:trainer $(BIN)/lint-imports --no-cache

format: $(ENV) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format $(CODE)

generate: $(ENV) ## Write what is generated: the CRD, reference pages, pictures
	set -e; for module in $(GENERATORS); do $(BIN)/python -m $$module; done

check-generated: $(ENV) ## Fail if anything generated is out of date
	set -e; for module in $(GENERATORS); do $(BIN)/python -m $$module --check; done

cluster-build: $(ENV) ## Build the programs of the test cluster, once: 15 minutes on two cores
	$(TESTBED) build $(if $(DEPTH),--depth $(DEPTH))

cluster-up: $(ENV) ## Start a real Kubernetes on this machine (as root) and say how to reach it
	$(TESTBED) up

cluster-down: $(ENV) ## End it and remove all that it wrote
	$(TESTBED) down

cluster-demo: $(ENV) ## From nothing to a trained SemiRESJob on a real cluster on this machine
	PYTHONPATH=tests $(BIN)/python -m testbed.demo

e2e: $(ENV) ## Train end to end on a real cluster on this machine (as root)
	$(PYTEST) -m "real and not long" tests/e2e tests/operator/testbed

images: $(ENV) ## Build both container images in full with buildah
	docker/build

lock: $(ENV) ## Resolve the requirements files again (ARGS=--upgrade for the newest)
	tools/lock $(ARGS)

clean: ## Remove the environment, caches and what quickstart made
	rm -rf .venv build dist synthetic runs/quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
