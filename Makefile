# make help lists what there is. Everything here is short for a command that can be typed as well.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)
ARGS    ?=
AREA    ?=

# A test that hangs ends with this, and shows where. No correct run takes that long, on however slow a machine.
TIMEOUT ?= 3h

# pgobj is one static binary, and the tests test that binary.
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := build
.PHONY: build test lint race demo demo-s3 bench torture fresh tools clean help

build: ## bin/pgobj, static, with its version from git
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pgobj ./cmd/pgobj

test: ## everything that must hold before a change lands, on real PostgreSQL and S3 servers; AREA=restore: one area of it
	TIMEOUT=$(TIMEOUT) test/run $(AREA) $(ARGS)

lint: ## gofmt, go vet, staticcheck (its version is in go.mod)
	@files="$$(gofmt -l .)"; if [ -n "$$files" ]; then echo "not formatted (run gofmt -w on them):"; echo "$$files"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

race: ## the unit tests under the race detector, which needs cgo and so a C compiler
	@command -v gcc >/dev/null || { echo "make race needs gcc"; exit 1; }
	CGO_ENABLED=1 go test -race -timeout $(TIMEOUT) $$(go list ./... | grep -v /pgobj/test)

demo: ## a cluster, a backup, a disaster and a restore, in a directory
	test/install demo
	go run ./test/demo $(ARGS)

demo-s3: ## the same with a real S3 server
	test/install demo-s3
	go run ./test/demo -s3 $(ARGS)

bench: ## compare with other tools (ARGS go to the program)
	test/install bench
	go run ./test/bench $(ARGS)

torture: tools ## the long forms of all tests: hours. The random histories of test/history are counted in the end
	PGOBJ_TORTURE=1 go test -count=1 -p 1 -timeout 24h $$(go list ./... | grep -v /test/history) $(ARGS)
	PGOBJ_TORTURE=1 go test -count=1 -v -timeout 24h ./test/history $(ARGS)

fresh: ## make demo and make test on a new Debian, as somebody runs them who has nothing (root; ARGS: other commands)
	test/fresh $(ARGS)

tools: ## install what the tests run against
	test/install

clean: ## remove what make build made
	rm -rf bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
