# One command from a fresh clone: `make demo` or `make test`. Needs Python 3.11 or newer, and make.

# The first that is new enough; PYTHON=/path/to/python3 decides otherwise.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
DEMO_STAMP := $(VENV)/.stamp-demo
BENCH_STAMP := $(VENV)/.stamp-bench
AUDIT_VENV := .cache/audit
AUDIT_STAMP := $(AUDIT_VENV)/.stamp
CHECK_PYTHON = if [ -z "$(PYTHON)" ]; then \
	echo "make: no Python 3.11 or newer with venv on the PATH;" \
		"install python3 (on Debian also python3-venv), or give PYTHON=/path/to/python3" >&2; exit 1; fi

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test warm chaos lint fmt docs bench soak audit sbom lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Set up .venv from the lock

# The script writes the stamp last, so that a setup that was broken off is done again.
$(STAMP): requirements-dev.lock pyproject.toml .ci/make_venv.py
	@$(CHECK_PYTHON)
	@$(PYTHON) .ci/make_venv.py $(VENV) requirements-dev.lock $@
	@touch $(DEMO_STAMP)

# Less than all of it: the first `make demo` is not to wait for compilers and test tools.
$(DEMO_STAMP): requirements-demo.lock pyproject.toml .ci/make_venv.py
	@$(CHECK_PYTHON)
	@$(PYTHON) .ci/make_venv.py $(VENV) requirements-demo.lock $@

# All of the others' packages and those that benchmarks compare with or draw with.
$(BENCH_STAMP): requirements-bench.lock pyproject.toml .ci/make_venv.py
	@$(CHECK_PYTHON)
	@$(PYTHON) .ci/make_venv.py $(VENV) requirements-bench.lock $@
	@touch $(STAMP) $(DEMO_STAMP)

demo: $(DEMO_STAMP) ## A whole pipeline on this machine, with a live view (ARGS="--headless --duration 60")
	@$(BIN)/inferometer demo $(ARGS)

# Each worker has a broker of its own: as many as there are cores, and not many.
SHARED := -n auto --maxprocesses 4 --dist worksteal

test: lint warm ## Lint, types and all tests (ARGS="tests/unit -k config")
	@$(BIN)/python -m pytest $(SHARED) $(ARGS)

# Both ways to have kernels, once for all workers: no test's time limit pays for a compiler.
warm: $(STAMP)
	@INFEROMETER_KERNELS=numba $(BIN)/inferometer warmup & other=$$!; $(BIN)/inferometer warmup && wait $$other

chaos: $(STAMP) ## Random faults on a running pipeline, all rows held to account (ARGS="--rounds 200 --seed 1")
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(STAMP) ## Lint, format check and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

fmt: $(STAMP) ## Format, and fix what can be fixed
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(STAMP) ## Write the generated pages: configuration, metrics, JSON Schema, deploy/semconv
	@$(BIN)/python -m agent.docs

bench: $(BENCH_STAMP) ## Measure; writes docs/benchmarks.md (ONLY=decode,sketch)
	@$(BIN)/python -m benchmarks.report $(if $(ONLY),--only $(ONLY)) $(ARGS)

soak: $(BENCH_STAMP) ## The agent at full rate for an hour, with plots (ARGS="--minutes 25 --away 10")
	@mkdir -p .cache/soak
	@$(BIN)/python -m benchmarks.soak --plots .cache/soak $(ARGS)

# Not of the development environment: auditors bring many packages that the agent must not be tested with.
$(AUDIT_STAMP): requirements-audit.lock
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements-audit.lock
	@touch $@

audit: $(AUDIT_STAMP) ## Look up the locked packages in the advisory database
	@$(AUDIT_VENV)/bin/python .ci/audit.py requirements.lock requirements-dev.lock

sbom: $(AUDIT_STAMP) ## Write dist/inferometer.cdx.json: what the image's packages are (CycloneDX)
	@mkdir -p dist
	@PYTHONWARNINGS=ignore::UserWarning $(AUDIT_VENV)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file dist/inferometer.cdx.json
	@echo "dist/inferometer.cdx.json"

UV_COMPILE = uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header

DEV = --extra parquet --extra demo --group test --group build --group lint

lock: ## Renew the lock files (needs uv on the PATH)
	@command -v uv >/dev/null || { echo "make: no uv on the PATH; pip install uv" >&2; exit 1; }
	$(UV_COMPILE) pyproject.toml --output-file requirements.lock
	$(UV_COMPILE) pyproject.toml $(DEV) --constraint requirements.lock \
		--output-file requirements-dev.lock
	$(UV_COMPILE) pyproject.toml $(DEV) --extra bench --constraint requirements-dev.lock \
		--output-file requirements-bench.lock
	$(UV_COMPILE) --group build --constraint requirements-dev.lock \
		--output-file requirements-build.lock
	$(UV_COMPILE) pyproject.toml --extra demo --group build --constraint requirements-dev.lock \
		--output-file requirements-demo.lock
	$(UV_COMPILE) --group audit --output-file requirements-audit.lock

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .hypothesis build dist
