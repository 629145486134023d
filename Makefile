# What you can do here. `make` alone lists it. Everything needs Go 1.26 and nothing else; the servers to test against are fetched, not installed.
.DEFAULT_GOAL := help
SHELL := /bin/bash -euo pipefail
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 30s# of each fuzz target
CRASHTIME ?= 60s# of each crash test
SUITETIME ?= 5m# of all suites together
RACE := $(shell command -v "$$(go env CC 2>/dev/null)" >/dev/null && echo -race)# it needs cgo
LONG ?=# set to 1 to cut at every single byte

.PHONY: help build test race lint fuzz bench crash suites demo servers clean go

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: go ## build bin/redferry
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/redferry ./cmd/redferry

test: go servers ## unit, integration and crash tests against all five servers, under the race detector if there is a C compiler
	@[ -n "$(RACE)" ] || echo "no C compiler here: the tests run without the race detector"
	go test $(RACE) -count=1 -parallel 4 -timeout 20m ./...
	go -C internal/patterns test $(RACE) -count=1 -parallel 6 -timeout 10m ./...

race: go servers ## the same, and insist on the race detector
	CGO_ENABLED=1 go test -race -count=1 -parallel 4 -timeout 20m ./...
	CGO_ENABLED=1 go -C internal/patterns test -race -count=1 -parallel 6 -timeout 10m ./...

lint: go ## gofumpt, vet, staticcheck, and the bans of docs/testing.md
	internal/lint.sh

fuzz: go ## run every fuzz target for FUZZTIME (30s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
	  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$$file" | cut -c6- | while read -r target; do \
	    echo "== $$target in $$(dirname "$$file")"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	  done; done

bench: build servers ## compare with native replication on this machine
	go run ./internal/bench

crash: go servers ## kill everything at random for CRASHTIME (60s); SEED=n repeats a row; LONG=1 cuts at every byte
	CRASHTIME=$(CRASHTIME) LONG=$(LONG) go test -run "Crash|Cut" -count=1 -v -timeout 0 ./...

suites: build servers ## run the servers' own test suites at a source that redferry follows, for SUITETIME (5m); SEED=n, SERVER=redis-7.0, FILES=unit/sort; needs tclsh
	internal/redistest/servers.sh --suites
	SUITETIME=$(SUITETIME) go run ./internal/suites

demo: build ## watch a migration: two local servers, live writes, a crash, a cutover
	internal/need-redis.sh
	go run ./internal/demo

servers: ## fetch the real servers to test against (Debian packages, nothing is installed)
	internal/redistest/servers.sh

clean: ## remove what was built; fetched servers stay
	rm -rf bin

go:
	@v=$$(go env GOVERSION 2>/dev/null | sed -E 's/.*go1\.([0-9]+).*/\1/') || v=; \
	[ "$${v:-0}" -ge 26 ] || { echo "redferry needs Go 1.26 or later, and this machine has $$(go version 2>/dev/null || echo none): https://go.dev/dl/"; exit 1; }
