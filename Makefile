# Every command a developer needs; `make help` lists them. Each works twice in a row and after a crash of the last run.
#   SUITE=name    one suite of tests (SUITE=list names them)       ROW=regex   only some rows of the benchmark
#   NODES=n       nodes of the throwaway cluster (default 2)       KUBECONFIG  use this cluster instead of a throwaway one
#   GUESTS=n      virtual machines with RDMA besides (default 0)   PROFILE=dev cargo profile of `make images` (default release)
#   TARGET=name   one target of the fuzzers                        FUZZ_SECONDS for each of them (default 60)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-vectors test soak fuzz bench lint images up down shell generate clean

CLUSTER := e2e/cluster
NODES ?= 2
GUESTS ?= 0
SUITE ?= all
ROW ?= .
PROFILE ?= release
export NODES GUESTS
# The test runner is Python; a fresh machine may have none.
PYTHON := command -v python3 >/dev/null || $(CLUSTER)/packages

help: ## This list
	@echo "make …"
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile
	@sed -n 's/^#   /  /p' Makefile

demo: ## The main job on a real Kubernetes: a StorageCluster, a bucket as a volume in two pods, the same bytes by S3; vectors made searchable
	@e2e/demo

demo-vectors: ## Its second half alone: vectors in a bucket become an index that answers searches
	@e2e/demo vectors

test: ## Every test, or one suite: make test SUITE=csi
	@$(PYTHON); e2e/run-tests --suite '$(SUITE)'

soak: ## The long forms of the random, fault and crash tests
	@$(PYTHON); PENSTOCK_SOAK=1 e2e/run-tests --suite '$(if $(filter all,$(SUITE)),soak,$(SUITE))'

TARGET ?=
fuzz: ## The parsers of untrusted bytes under libFuzzer: make fuzz TARGET=tokens FUZZ_SECONDS=600
	@fuzz/run $(TARGET)

bench: ## Speed as ratios against peers, into target/bench/results.jsonl: make bench ROW=get
	@e2e/bench/run --row '$(ROW)'

lint: ## Formatting, clippy, shell scripts, generated files
	@$(PYTHON); e2e/run-tests --suite lint

images: ## Container images from release binaries (IMAGE_BUILDER=buildah|docker|podman)
	@PROFILE='$(PROFILE)' $(CLUSTER)/images

up: ## The throwaway cluster alone, left running
	@PROFILE=dev $(CLUSTER)/up

down: ## Stop the throwaway cluster and remove what it left
	@$(CLUSTER)/down

CMD ?=
shell: ## A shell with kubectl, helm and KUBECONFIG, or one command: make shell CMD='kubectl get pods -A'
	@if [ -n "$$CMD" ]; then $(CLUSTER)/run bash -c "$$CMD"; else $(CLUSTER)/run bash --rcfile <(echo 'PS1="(penstock) \w\$$ "') -i; fi
export CMD

generate: ## Write the generated files (CRDs) anew
	@cargo run --quiet --bin crdgen

clean: down ## Stop the cluster and remove build results (the tool cache stays: rm -r ~/.cache/penstock)
	@cargo clean
