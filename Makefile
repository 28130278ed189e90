# Charon. `make` lists what there is to make.
GO       ?= go
BIN      := bin
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
HEIMDAL  ?= $(CURDIR)/$(BIN)/heimdal
PACKAGES := krb5-user krb5-kdc krb5-admin-server openssh-server openssh-client apache2 libapache2-mod-auth-gssapi \
            curl faketime openjdk-17-jdk-headless libkrb5-26-heimdal libgssapi3-heimdal libheimntlm0-heimdal libkadm5clnt7-heimdal libkafs0-heimdal libsl0-heimdal gcc libc6-dev \
            iproute2 strace e2fsprogs mount
FUZZTIME ?= 30s
SIMHOURS ?= 20
SIMSEED  ?= 0
CHAOSTIME ?= 10m
CHAOSSEED ?= 0
export CGO_ENABLED = 0

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: build
build: ## the two binaries, in bin/
	@mkdir -p $(BIN)
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/charon ./cmd/charon-bench

.PHONY: demo
demo: ## a realm on three nodes in a minute: tickets, a replay refused, the leader killed (KEEP=1 leaves it running)
	@printf 'building charon ... '; mkdir -p $(BIN); s=$$(date +%s%N); \
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/charon || exit 1; e=$$(date +%s%N); \
	awk "BEGIN { printf \"ok (%.1f s)\\n\", ($$e - $$s) / 1e9 }"
	@$(BIN)/charon dev demo $(if $(KEEP),--keep)

.PHONY: test
test: deps check simtest race ## all that a change must pass: installs what it needs, then check, two simulated hours, and every test with -race

.PHONY: race
race: build ## every test, with the race detector; the tests with real clients need `make deps` once
	CGO_ENABLED=1 CHARON_BIN=$(CURDIR)/$(BIN)/charon CHARON_HEIMDAL=$(HEIMDAL) $(GO) test -race -count=1 -timeout 20m ./...

.PHONY: unit
unit: ## the tests that need nothing but Go
	$(GO) test -count=1 $$($(GO) list ./... | grep -v /test/)

.PHONY: interop
interop: build ## only the tests with real clients and real processes
	CHARON_BIN=$(CURDIR)/$(BIN)/charon CHARON_HEIMDAL=$(HEIMDAL) $(GO) test -count=1 -timeout 20m ./test/...

.PHONY: check
check: ## gofmt, vet, staticcheck, layout, module allow-list, no cgo, govulncheck where its data can be had
	@./deploy/check.sh

.PHONY: sim
sim: ## clusters under simulated faults for SIMHOURS (default 20); SIMSEED repeats a run; adds a line to test/sim/LEDGER
	$(GO) test -count=1 -timeout 0 -parallel 2 -run '^TestSim$$' -v ./test/sim -args -span $(SIMHOURS)h -each 10m -seed $(SIMSEED) -ledger $(CURDIR)/test/sim/LEDGER

.PHONY: simtest
simtest: ## two simulated hours and at least 1,500 faults, in about two minutes
	$(GO) test -count=1 -timeout 15m -parallel 2 -run '^TestSim$$' -v ./test/sim -args -span 124m -each 10m -faults 1500

.PHONY: fuzz
fuzz: ## every fuzz function for FUZZTIME each (default 30s)
	@set -e; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	  echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; done; done

.PHONY: chaos
chaos: ## as root: a realm of real processes under every fault for CHAOSTIME (default 10m); CHAOSSEED repeats a run
	$(GO) test -count=1 -timeout 0 -run '^TestChaos$$' -v ./test/chaos -args -chaos.for $(CHAOSTIME) -chaos.seed $(CHAOSSEED) -chaos.keep $(CURDIR)/$(BIN)/chaos

.PHONY: mutants
mutants: ## as root: plants every bug of internal/mutant and shows that it is found; MUTANTS=regexp plants some
	$(GO) run ./test/mutants -only '$(MUTANTS)' -keep $(CURDIR)/$(BIN)/mutants

.PHONY: bench
bench: build ## ratios to Debian's krb5kdc on this machine, in one run; wants an idle machine
	$(GO) run ./bench -charon $(CURDIR)/$(BIN)/charon -load $(CURDIR)/$(BIN)/charon-bench $(BENCHFLAGS)

.PHONY: proto
proto: ## regenerate the code of the .proto files (protoc of Debian's protobuf-compiler)
	./proto/generate.sh

.PHONY: deps
deps: ## what the tests need: Debian packages (as root, through apt); Heimdal's clients are unpacked aside, they conflict with MIT's
	@./deploy/test-packages.sh "$(HEIMDAL)" $(PACKAGES)

.PHONY: clean
clean: ## removes bin/
	rm -rf $(BIN)
