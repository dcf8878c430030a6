# Two commands are all a newcomer needs: `make demo` and `make test`. Both install what they miss.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test lint suite fuzz host bench deny build

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: ## Install what demo and test need (apt when root, else the line to run)
	@scripts/setup.sh

setup-test: # And what only the tests need
	@scripts/setup.sh test

demo: setup ## The tour on this host's Docker; ONCE=1 ends after it
	@cargo build --bin ballast
	@scripts/demo.sh

test: setup-test lint suite fuzz host ## Everything: format, clippy, tidy, unit, property, in-process, simulation, fuzzing, host

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

suite: ## The hermetic tests alone: no Docker, no root
	cargo test --lib --bins
	cargo test --test suite

SECONDS ?= 20
fuzz: ## Mutated URLs, bodies, patches, selectors, SECONDS=20 each, two at a time
	BALLAST_FUZZ_SECONDS=$(SECONDS) cargo test --lib api::fuzz:: -- --test-threads=2 --nocapture

host: ## Real Docker, iptables and kubectl, in a network namespace of their own (root)
	cargo test --test host -- --test-threads=1

bench: setup ## Us and the peers, interleaved: make bench ONLY=store (or api, memory, pods, push, rollout, kill, footprint, deployments, services, scheduler, replica_set)
	cargo bench --bench bench -- $(ONLY)

deny: ## Licences, advisories, sources and banned crates (cargo install cargo-deny)
	cargo deny check

build: ## What is shipped
	cargo build --profile dist --bin ballast
