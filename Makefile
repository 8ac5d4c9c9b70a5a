# gapproof: every target says what it does in `make help`.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Without these tags the kustomize library links Go's plugin support, and gRPC its trace pages, whose templates keep the linker from leaving out
# what nobody calls: a quarter and a third of the binary, for nothing that gapproof has.
TAGS     := kustomize_disable_go_plugin_support,grpcnotrace
GOFLAGS_ := -trimpath -tags $(TAGS) -ldflags '-s -w -X main.version=$(VERSION)'
BIN      := bin/gapproof
CLUSTER  ?= dev
FUZZTIME ?= 20s
# Debian's docker.io is new on a bare host; its client may not be the first on PATH.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/gapproof (static)
	@CGO_ENABLED=0 go build $(GOFLAGS_) -o $(BIN) ./runner/cmd/gapproof

.PHONY: host
host: build ## install what the host lacks and start the engine
	@$(BIN) doctor --fix

.PHONY: testtools
testtools: ## install what tests alone need: ip, nsenter, unshare, nft and iptables
	@{ command -v ip && command -v nsenter && command -v unshare && command -v nft && command -v iptables; } >/dev/null || \
	 apt-get install -y -qq --no-install-recommends iproute2 util-linux nftables iptables

.PHONY: generate
generate: ## compile the witness's programs anew (installs Debian's clang-19)
	@{ command -v clang-19 && command -v llvm-strip-19 && test -e /usr/include/bpf/bpf_helpers.h; } >/dev/null || \
	 apt-get install -y -qq --no-install-recommends clang-19 llvm-19 libbpf-dev
	go generate ./probes/witness

.PHONY: generate-check
generate-check: generate ## fail where the committed programs are not what generate makes
	@changed="$$(git status --porcelain -- 'probes/witness/*_bpfe[bl].*')"; test -z "$$changed" || { echo "$$changed" >&2; exit 1; }

.PHONY: images
images: host ## build every image of the lab from modules into the cache
	@$(BIN) bundle create

.PHONY: up
up: images ## bring the lab cluster up (kind + Calico, everything from the mirror)
	@$(BIN) up --replace --cluster $(CLUSTER)

.PHONY: down
down: build ## remove the lab cluster, its mirror and its network
	@$(BIN) down --cluster $(CLUSTER)

.PHONY: demo
demo: up ## from a bare host to a verified matrix, and a hole found
	@$(BIN) run --cluster $(CLUSTER) --show all scenarios/catalogue/podSelector/{allow-by-pod-selector,relabel-pod}.yaml scenarios/catalogue/egress/allow-dns-only.yaml
	@echo; echo "And a policy with one missing selector:"; echo
	@code=0; $(BIN) run --cluster $(CLUSTER) scenarios/examples || code=$$?; \
	 if [ $$code -ne 1 ]; then echo "the hole was not found: exit code $$code, want 1" >&2; exit 1; fi
	@echo; echo "The cluster is still up: gapproof run …, kubectl --kubeconfig \"$$($(BIN) kubeconfig --cluster $(CLUSTER))\" …, make down."

.PHONY: bench
bench: ## speed of the engine and of the probes, in benchstat's form
	go test -run '^$$' -bench . -benchmem ./runner/reach ./probes/dial ./probes/agent
	cd runner/reach/differential && go test -run '^$$' -bench . ./...

.PHONY: fuzz
fuzz: ## every fuzz target, each for FUZZTIME (20s)
	@go list -f '{{.Dir}}' ./... | while read -r dir; do \
	   { grep -hos '^func Fuzz[A-Za-z0-9]*' "$$dir"/*_test.go || true; } | cut -c6- | while read -r target; do \
	     go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null; done; done
	cd runner/race && go test -run '^$$' -fuzz . -fuzztime $(FUZZTIME) .

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool -modfile=runner/internal/lint/go.mod staticcheck -tags $(TAGS) ./...
	cd runner/e2e && go vet ./...
	for m in runner/race runner/reach/differential runner/reach/conformance runner/bundle/signed/sigstore runner/mirror/conformance; do (cd $$m && go vet ./...); done

.PHONY: unit
unit: ## unit tests with the race detector (no cluster)
	go test -race ./...
	go test ./runner/evidence # every edit; with the detector a third of them, see its race_test.go
	cd images/calico && go test ./start
	cd images/helm && go test .
	cd runner/race && go test -race ./...
	cd runner/reach/differential && go test ./...
	cd runner/reach/conformance && go test ./...
	cd runner/bundle/signed/sigstore && go test ./...
	cd runner/mirror/conformance && go test ./...

.PHONY: e2e
e2e: images ## tests on the real engine and on real clusters of their own
	GAPPROOF_LIVE=1 go test -count=1 ./runner/host
	GAPPROOF_LIVE=1 GAPPROOF_BIN=$(CURDIR)/$(BIN) GAPPROOF_LAB=$${XDG_CACHE_HOME:-$$HOME/.cache}/gapproof/lab \
	  go test -count=1 -timeout 20m -run Live ./runner/cluster
	cd runner/e2e && GAPPROOF_BIN=$(CURDIR)/$(BIN) go test -count=1 -timeout 50m -v ./...

.PHONY: e2e-cilium
e2e-cilium: host ## a choice of the catalogue on Cilium; no part of test, whose time it would double on a bare host
	@$(BIN) bundle create --cni all
	cd runner/e2e && GAPPROOF_E2E_CNI=cilium GAPPROOF_BIN=$(CURDIR)/$(BIN) go test -count=1 -timeout 20m -v -short -run TestEveryCatalogueScenarioHolds .

.PHONY: test
test: host testtools generate-check unit e2e ## everything CI runs

.PHONY: race
race: host ## the same 20 steps with gapproof and with cyclonus, on one cluster
	@$(BIN) bundle create --race
	@$(BIN) up --replace --cluster $(CLUSTER)
	cd runner/race && go run . --cluster $(CLUSTER)

.PHONY: clean
clean: build ## remove what dead runs left in the cluster, then the cluster
	@$(BIN) clean --cluster $(CLUSTER) || true
	@$(BIN) down --cluster $(CLUSTER)
