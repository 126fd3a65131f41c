# Everything a developer or CI does, one word each. `make` alone lists the words.
# Needed beforehand: make, and Python 3.11 or newer (another one: make PYTHON=/path/to/python3.12 setup).

PYTHON ?= python3
UV     ?= uv
ARGS   ?=

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# An environment that happens to be active, and settings meant for it, must not leak into ours.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX UV_PROJECT_ENVIRONMENT UV_SYSTEM_PYTHON
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test services test-services test-failures test-orchestrators simulate check fast lint format bench lock clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ARGS="..." is handed on by run, services, the tests, bench and lock, for example: make test ARGS="-k saga -x"'

setup: $(READY) ## Make .venv from the locks; costs nothing when it is up to date
	@:

run: $(READY) ## Run the demo of the reference system
	$(BIN)/minuet demo $(ARGS)

test: $(READY) ## Run every test that needs no broker or database server
	$(BIN)/python -m pytest -m "not server" $(ARGS)

services: $(READY) ## Start real brokers and databases, print their URLs; they run on until: dev/services stop
	@dev/services start $(ARGS)

test-services: $(READY) ## Install and start real brokers and databases, run the tests that need one, stop them
	dev/services install
	dev/services run -- $(BIN)/python -m pytest -m server -n 4 --dist loadscope --no-loadscope-reorder --ignore=tests/failures $(ARGS)

simulate: $(READY) ## Simulate 100,000 orders with all faults, about 20 minutes
	$(BIN)/minuet simulate tests.simulation.many_orders:simulation --seeds 2000 $(ARGS)

test-failures: $(READY) ## Break real brokers in all the ways of docs/failures.md; they take five minutes more
	dev/services install
	$(BIN)/python -m pytest tests/failures -n 2 --dist loadscope $(ARGS)

test-orchestrators: $(READY) ## Kill and stop three orchestrators during 1,000 orders and tell how long takeovers take, six minutes
	dev/services install postgres nats
	ORCHESTRATED_ORDERS=1000 $(BIN)/python -m pytest tests/acceptance/test_orchestrators.py $(ARGS)

check: lint fast ## Format, lint, types and the fast tests: run it before each commit

fast: $(READY) ## Run the fast tests only, on all cores
	$(BIN)/python -m pytest -q -n auto -m "not acceptance and not slow and not server" $(ARGS)

lint: $(READY) ## Check format, lint and strict types; changes nothing
	$(BIN)/ruff format --check --output-format concise .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## Format the code and fix what ruff can fix by itself
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

bench: $(READY) ## Measure minuet beside its peers and the limits, about two hours; five minutes: make bench ARGS=--quick
	-dev/services install nats rabbitmq kafka postgres
	$(BIN)/python -m benchmarks $(ARGS)

# Pins stay as they are unless something asks for a change; newest of everything: make lock ARGS=--upgrade
lock: $(READY) ## Write the locks in requirements/ anew from pyproject.toml
	$(COMPILE) requirements/uv.in --output-file requirements/uv.txt
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	@if grep -n '://' requirements/*.txt; then echo 'A lock must hold no address.' >&2; exit 1; fi

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------------------------------
# How .venv comes to be. uv installs it: the one on the PATH, or else one that pip puts into .venv, pinned by its hash.
# Asking uv for its version, and not only for its place, sees through a pyenv shim that has nothing behind it.

FIND_UV := if $(UV) --version >/dev/null 2>&1; then uv="$(UV)"; else uv=$(BIN)/uv; fi

COMPILE = @$(FIND_UV); $$uv pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"

# Prints the interpreter behind $(PYTHON): of an active environment or of a shim, the real one. Old Pythons must be able
# to read it, in order to be told what is wrong with them.
define FIND_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("minuet needs Python 3.11 or newer, but $(PYTHON) is %d.%d. Name a newer one: make PYTHON=/path/to/python3.12" % sys.version_info[:2])
print(getattr(sys, "_base_executable", None) or sys.executable)
endef
export FIND_PYTHON

$(READY): pyproject.toml requirements/dev.txt requirements/uv.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo 'minuet needs Python 3.11 or newer, and there is no $(PYTHON) here. Name one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@python=$$("$(PYTHON)" -c "$$FIND_PYTHON") || exit 1; \
	$(FIND_UV); \
	echo "Setting up $(VENV) with $$python"; \
	usable() { $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	if [ "$$uv" = "$(UV)" ]; then \
	    usable || "$$uv" venv --quiet --clear --python "$$python" $(VENV) || exit 1; \
	else \
	    usable && $(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV) || exit 1; \
	    $(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt || exit 1; \
	fi; \
	"$$uv" pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirement requirements/dev.txt && \
	"$$uv" pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . && \
	$(BIN)/python -m compileall -q src
	@touch $@
