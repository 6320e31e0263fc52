# Needs nothing but make and a Python 3.11, 3.12 or 3.13. `make` alone lists what there is.

VENV   := .venv
PYTHON := $(VENV)/bin/python
UV     := uv==0.13.9

# A demo needs a third of what the tests need: two locks, the smaller one a part of the larger one.
RUN  := $(VENV)/run.stamp
FULL := $(VENV)/full.stamp
ENV  := $(if $(wildcard $(FULL)),$(FULL),$(RUN))

PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile

# The packages are installed without bytecode. Where it may not be written, each of the many processes of a test run
# compiles all it imports: 2.4 s for a worker, instead of 0.9 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check lint docs pythons bench format install lock lock-broker clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(ENV) ## card fraud found in a stream of payments, on this machine alone
	@$(VENV)/bin/streams demo

test: $(FULL) ## every test, those on a real Apache Kafka included
	@$(PYTHON) -m pytest --numprocesses 2 --dist worksteal

check: lint test ## everything that CI checks: format, lint, types, import rules, tests

lint: $(FULL) ## format, lint, types and import rules, without the tests
	@$(PYTHON) -m ruff format --check --quiet --output-format concise . || { echo "'make format' mends that" >&2; exit 1; }
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log >&2; exit 1; }
	@echo "format, lint, types and imports are fine"

docs: $(FULL) ## the documentation as a site, into build/docs
	@$(PYTHON) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

pythons: $(PYTHON) ## a short part of the tests on each Python that is found: 3.11, 3.12, 3.13
	@$(PYTHON) -m tests.pythons

bench: $(FULL) ## throughput and cost a record, beside a bare pipe as the floor
	@$(PYTHON) -m benchmarks

format: $(FULL) ## put the code into shape
	@$(PYTHON) -m ruff format --quiet .
	@$(PYTHON) -m ruff check --fix --quiet .

install: $(FULL) ## the virtual environment with everything in it (.venv)
	@echo "everything is in $(VENV): try $(VENV)/bin/streams --help, make demo, make test"

clean: ## remove the virtual environment and the tools' caches; data stays
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# ---------------------------------------------------------------- the virtual environment

# The first Python that really runs (a shim can stand in the path and fail), is in range and can make environments.
define FIND_PYTHON
for python in $(BASE_PYTHON) python3.13 python3.12 python3.11 python3; do \
    "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
        > /dev/null 2>&1 && break; \
    python=; \
done; \
if [ -z "$$python" ]; then \
    echo "no Python 3.11, 3.12 or 3.13 with venv found; install one (Debian, Ubuntu: python3 and python3-venv)," >&2; \
    echo "or name one: make BASE_PYTHON=/path/to/python3.12" >&2; \
    exit 1; \
fi
endef

$(PYTHON):
	@$(FIND_PYTHON); \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)

$(RUN): requirements-run.lock pyproject.toml $(PYTHON)
	@echo "installing what it takes to run"
	@$(PIP) --only-binary :all: --require-hashes --requirement requirements-run.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(FULL): requirements.lock pyproject.toml $(PYTHON)
	@echo "installing everything: tests, tools, a Java runtime for the broker"
	@$(PIP) --only-binary :all: --require-hashes --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# ---------------------------------------------------------------- locks

COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --only-binary :all: --python-version 3.11 \
    --no-emit-index-url --custom-compile-command "make lock" --group build $(if $(UPGRADE),--upgrade) pyproject.toml

lock: $(PYTHON) ## pin the dependencies anew after a change in pyproject.toml (UPGRADE=1: the newest ones)
	@$(PIP) $(UV)
	@$(COMPILE) --extra dev --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --output-file requirements-run.lock

lock-broker: $(FULL) ## pin Kafka's jars anew after a change of version in streams/broker/jars.py
	@$(PYTHON) -m streams.broker.jars
