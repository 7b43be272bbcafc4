# ratelimitd: `make` alone lists what there is to type.
#
# The virtual environment lies in .venv and is made by PYTHON (python3 unless told otherwise). Every target
# first brings it and the compiled modules up to date, so nothing here ever runs on stale code.

PYTHON ?= python3
BIN := .venv/bin
STUBS = $(shell find ratelimitd -name '*.pyi')
COMPILED = $(subst /,.,$(STUBS:.pyi=))
STUBTEST = --concise --ignore-disjoint-bases --allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist

# Two at a time on two CPUs; what measures time runs afterwards, alone.
PYTEST = $(BIN)/python -m pytest
SHARED_RUN = -n 2 --dist loadgroup -m "not slow and not timing"
ALONE_RUN = -m "timing and not slow"

# Where `make install` puts things; DESTDIR comes before all of them and is written into none.
DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
INSTALL = DESTDIR="$(abspath $(DESTDIR))" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" UNITDIR="$(UNITDIR)" \
	PYTHON="$(if $(filter file,$(origin PYTHON)),,$(PYTHON))"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-fleet test test-slow test-bare fuzz lint bench-quick bench-bodies bench-fleet install uninstall
.PHONY: build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## a sample web server with ratelimitd before it; says what to try (Ctrl-C ends it)
	@$(BIN)/ratelimitd demo

demo-fleet: build .venv/.demo ## two of them before one web server, sharing a limit in a Valkey; says what to try
	@$(BIN)/python -m ratelimitd.tools.demo_fleet

test: prepare-test lint ## the gate: everything that must hold, in under five minutes
	$(PYTEST) $(SHARED_RUN)
	$(PYTEST) $(ALONE_RUN)

test-slow: prepare-test build-dev ## what takes longer than the gate allows
	HYPOTHESIS_PROFILE=search $(PYTEST) -m slow

test-bare: ## both commands of the README in a bare Debian, made with debootstrap (root only)
	@scripts/test-bare

fuzz: prepare-test build-dev ## strange requests, until somebody reads one otherwise than we do (TIME=1h, SEED=)
	$(BIN)/python -m tests.fuzz $(or $(TIME),1h) $(SEED)

lint: build-dev ## ruff, mypy, the stubs of the compiled modules, the rules of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict ratelimitd tests benchmarks scripts/test-bare
	$(BIN)/python -m mypy.stubtest $(STUBTEST) $(COMPILED)
	$(PYTEST) -q tests/test_architecture.py

bench-quick: prepare-bench build-dev ## CPU per request beside nginx and HAProxy, cost of a decision; under two minutes
	$(BIN)/python -m benchmarks.quick
	$(BIN)/python -m benchmarks.decision

bench-bodies: prepare-bench build-dev ## CPU per gigabyte of large bodies beside nginx and HAProxy; under a minute
	$(BIN)/python -m benchmarks.bodies

bench-fleet: prepare-bench-fleet build-dev ## what a limit shared in Redis costs, beside nginx + Lua; under five minutes
	$(BIN)/python -m benchmarks.fleet

install: build ## the command, the systemd unit and a first configuration (DESTDIR=, PREFIX=/usr/local)
	@$(INSTALL) scripts/install-system install

uninstall: ## removes what install put there, but the configuration
	@$(INSTALL) scripts/install-system uninstall

build: .venv/.runtime ## the virtual environment and the compiled modules
	@$(BIN)/python setup.py -q build_ext --inplace

clean: ## removes everything that was built, .venv included
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find ratelimitd \( -name '*.so' -o -name '*.c' \) -delete
	find . -name __pycache__ -prune -exec rm -rf {} +

# All at once, so that one line to run is enough for those who must run it themselves.
.PHONY: prepare-test prepare-bench prepare-bench-fleet build-dev
prepare-test prepare-bench prepare-bench-fleet:
	@PYTHON="$(PYTHON)" scripts/prepare build $(@:prepare-%=%)

build-dev: .venv/.dev
	@$(BIN)/python setup.py -q build_ext --inplace

.venv/.runtime: pyproject.toml setup.py scripts/prepare scripts/install
	@PYTHON="$(PYTHON)" scripts/prepare build
	@PYTHON="$(PYTHON)" scripts/install .
	@touch $@

.venv/.demo: .venv/.runtime
	@PYTHON="$(PYTHON)" scripts/install '.[demo]'
	@touch $@

.venv/.dev: .venv/.runtime
	@PYTHON="$(PYTHON)" scripts/install '.[dev]'
	@touch $@
