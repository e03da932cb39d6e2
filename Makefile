# What a developer runs. Real parts (Postgres 14 to 18, MinIO, Kubernetes, Debian's programs) come into .parts/ by themselves;
# HOLDFAST_PARTS=DIR puts them elsewhere, to share them between checkouts.

SHELL := /bin/bash
CARGO ?= cargo
# Scenarios of the engine side by side. They mostly wait; each may run several servers.
TEST_THREADS ?= 4
# make cluster CLUSTER=mine
CLUSTER ?= dev
# Of make soak: for how long, and which faults. The same seed gives the same ones.
MINUTES ?= 15
SEED ?= 1
# cargo test's filter: make test TESTS=harness::
TESTS ?=

# Always the whole workspace, with its targets named: another choice of packages would compile the dependencies anew.
names = $(patsubst %.rs,--test %,$(notdir $(wildcard $(addsuffix /tests/*.rs,$(1)))))
UNITS := --lib --bins $(call names,repository sidecar sidecar/wal-client)

.PHONY: help parts parts-cluster build image cluster cluster-down check deny test test-cluster soak demo demo-local bench clean

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

parts: ## Fetches or builds the real parts of the engine into .parts/ (ten minutes once, then nothing)
	@e2e/parts/all

parts-cluster: parts ## And those of a local Kubernetes (fifteen minutes more, once)
	@e2e/parts/cluster

build: ## Builds the programs (release)
	@echo "== building holdfast, holdfast-operator, holdfast-wal and the archive module"
	$(CARGO) build --release -p holdfast -p holdfast-operator
	@mkdir -p target/release
	cp "$$(sidecar/wal-client/build.sh)" target/release/holdfast-wal
	cp "$$(sidecar/archive-module/build.sh)" target/release/holdfast_archive.so

image: build ## Builds the image of operator and sidecar, from the Containerfile that users get
	@e2e/images/holdfast

cluster: parts-cluster ## Brings up a local Kubernetes and prints its KUBECONFIG; CLUSTER=dev names it
	@e2e/cluster/up $(CLUSTER)

cluster-down: ## Takes it down; nothing of it stays
	@e2e/cluster/down $(CLUSTER)

check: ## Quick: format, clippy with warnings as errors, unit tests
	@echo "== format"
	$(CARGO) fmt --all --check
	@echo "== clippy"
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --package holdfast-archive-module --features shared-object -- -D warnings
	@echo "== unit tests"
	$(CARGO) test --workspace $(UNITS)

deny: ## Licences, duplicates and sources of dependencies, by cargo-deny
	@e2e/parts/cargo-deny
	PATH="$${HOLDFAST_PARTS:-$(CURDIR)/.parts}/cargo-deny/bin:$$PATH" $(CARGO) deny check bans licenses sources

test: parts-cluster check ## All tests: check, then every scenario on real Postgres, a real S3 and a real Kubernetes
	@echo "== scenarios of the engine ($(TEST_THREADS) at a time)"
	$(CARGO) build --workspace --bins
	HOLDFAST_BIN="$(CURDIR)/target/debug/holdfast" HOLDFAST_WAL_BIN="$$(sidecar/wal-client/build.sh)" \
	HOLDFAST_ARCHIVE_MODULE="$$(sidecar/archive-module/build.sh)" \
	$(CARGO) test --workspace --test engine $(TESTS) -- --test-threads=$(TEST_THREADS); engine=$$?; \
	$(MAKE) --no-print-directory test-cluster && exit $$engine

test-cluster: parts-cluster ## Those on a real Kubernetes alone; KUBECONFIG=… IMAGE=… has them run on a cluster of yours
	@echo "== scenarios on Kubernetes (they take turns by themselves, whatever the number of threads)"
	$(CARGO) build --workspace --bins
	@[ -n "$$KUBECONFIG" ] || HOLDFAST_PROFILE=debug e2e/images/holdfast
	$(CARGO) test --workspace --test kubernetes $(TESTS) -- --test-threads=16

soak: parts-cluster ## What takes long: MINUTES=15 SEED=1 of random faults, 200 at least; then each actor of a restore killed at each step
	@echo "== random faults for $(MINUTES) minutes and 200 faults at least, from seed $(SEED)"
	$(CARGO) build --workspace --bins
	HOLDFAST_BIN="$(CURDIR)/target/debug/holdfast" HOLDFAST_WAL_BIN="$$(sidecar/wal-client/build.sh)" \
	HOLDFAST_ARCHIVE_MODULE="$$(sidecar/archive-module/build.sh)" MINUTES=$(MINUTES) SEED=$(SEED) \
	$(CARGO) test --workspace --test engine $(TESTS) -- --ignored --nocapture
	@echo "== the long scenarios on Kubernetes"
	@[ -n "$$KUBECONFIG" ] || HOLDFAST_PROFILE=debug e2e/images/holdfast
	$(CARGO) test --workspace --test kubernetes $(TESTS) -- --ignored

demo: parts-cluster build ## On a real Kubernetes: one label, backups by themselves, an accident, the rows as they were
	@[ -n "$$KUBECONFIG" ] || e2e/images/holdfast
	@demo/cluster

demo-local: parts build ## The engine alone: a backup under load, an accident, and a restore to just before it
	@demo/local

bench: parts-cluster build ## Backup, restore and archiving next to pgBackRest and barman-cloud; the operator with a thousand archives; as JSON
	@bench/run

clean: ## Removes what was built; the parts stay (rm -r .parts removes them)
	$(CARGO) clean
