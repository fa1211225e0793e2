# make help lists what there is. Everything here is short for a command that can be typed as well.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)
ARGS    ?=

# pgobj is one static binary, and the tests test that binary.
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := build
.PHONY: build test lint race demo demo-s3 bench torture tools clean help

build: ## bin/pgobj, static, with its version from git
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pgobj ./cmd/pgobj

test: tools lint ## everything that must hold before a change lands, on real PostgreSQL and S3 servers
	go test -p 2 -timeout 40m ./...

lint: ## gofmt, go vet, staticcheck (its version is in go.mod)
	@files="$$(gofmt -l .)"; if [ -n "$$files" ]; then echo "not formatted (run gofmt -w on them):"; echo "$$files"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

race: ## the unit tests under the race detector, which needs cgo and so a C compiler
	@command -v gcc >/dev/null || { echo "make race needs gcc"; exit 1; }
	CGO_ENABLED=1 go test -race -timeout 20m $$(go list ./... | grep -v /pgobj/test)

demo: tools ## a cluster, a backup, a disaster and a restore, in a folder
	go run ./test/demo $(ARGS)

demo-s3: tools ## the same with a real S3 server
	go run ./test/demo -s3 $(ARGS)

bench: ## compare with other tools (ARGS go to the program)
	test/install bench
	go run ./test/bench $(ARGS)

torture: tools ## the long forms of all tests: hours. The random histories of test/history are counted in the end
	PGOBJ_TORTURE=1 go test -count=1 -p 1 -timeout 6h $$(go list ./... | grep -v /test/history) $(ARGS)
	PGOBJ_TORTURE=1 go test -count=1 -v -timeout 6h ./test/history $(ARGS)

tools: ## install what the tests run against
	test/install

clean: ## remove what make build made
	rm -rf bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
