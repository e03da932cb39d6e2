# What a developer runs. Real parts (Postgres 14 to 18, MinIO, Debian's programs) come into .parts/ by themselves;
# HOLDFAST_PARTS=DIR puts them elsewhere, to share them between checkouts.

SHELL := /bin/bash
CARGO ?= cargo
# Scenarios side by side. Each may run several servers: more than three only slows two cores down.
TEST_THREADS ?= 2
# cargo test's filter: make test TESTS=harness
TESTS ?=

.PHONY: help parts build check deny test demo bench clean

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

parts: ## Fetches or builds the real parts into .parts/ (ten minutes once, then nothing)
	@e2e/parts/all

build: ## Builds the programs (release)
	@echo "== building holdfast and holdfast-wal"
	$(CARGO) build --release -p holdfast
	@mkdir -p target/release
	cp "$$(sidecar/wal-client/build.sh)" target/release/holdfast-wal

check: ## Quick: format, clippy with warnings as errors, unit tests
	@echo "== format"
	$(CARGO) fmt --all --check
	@echo "== clippy"
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@echo "== unit tests"
	$(CARGO) test --workspace --exclude holdfast-e2e
	$(CARGO) test -p holdfast-e2e --lib

deny: ## Licences, duplicates and sources of dependencies, by cargo-deny
	@e2e/parts/cargo-deny
	PATH="$${HOLDFAST_PARTS:-$(CURDIR)/.parts}/cargo-deny/bin:$$PATH" $(CARGO) deny check bans licenses sources

test: parts check ## All tests: check, then every scenario on real Postgres and a real S3
	@echo "== scenarios ($(TEST_THREADS) at a time)"
	$(CARGO) build -p holdfast
	HOLDFAST_BIN="$(CURDIR)/target/debug/holdfast" HOLDFAST_WAL_BIN="$$(sidecar/wal-client/build.sh)" \
	$(CARGO) test -p holdfast-e2e --no-fail-fast --tests $(TESTS) -- --test-threads=$(TEST_THREADS)

demo: parts build ## A backup under load, an accident, and a restore to just before it
	@demo/run

bench: parts build ## Backup, restore and archiving next to pgBackRest, as JSON
	@bench/run

clean: ## Removes what was built; the parts stay (rm -r .parts removes them)
	$(CARGO) clean
