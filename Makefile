# Every target is a short, visible recipe; `make` alone explains them.
SHELL   := /bin/bash
BIN     := $(CURDIR)/bin
MODULES := api ca cni control e2e install tools waypoint ztunnel
export GOFLAGS += -buildvcs=false
export AMBIT_BIN := $(BIN)
# Once, so that programs, images and the installation of one run agree.
ifndef VERSION
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
endif
export VERSION

.PHONY: help build envoy demo test check unit stories bench bench-data bench-control bench-waypoint fuzz race generate images kind kind-cluster kind-delete kind-test kind-upgrade conformance prereqs clean
.DEFAULT_GOAL := help

help: ## this list
	@echo 'Ambit: a sidecarless service mesh. Targets:'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

build: ## build every program into bin/
	@mkdir -p $(BIN)
	@tools/progress.sh 'building into bin/' go build -ldflags '-X main.version=$(VERSION)' -o $(BIN)/ ./ca/cmd/... ./control/cmd/... ./cni/cmd/... ./ztunnel/cmd/... ./waypoint/cmd/... ./install/cmd/... ./e2e/cmd/... ./e2e/apps/...

demo: build envoy ## a three-node mesh with bookinfo on this machine, told step by step (root; KEEP=1 leaves it up)
	@$(BIN)/ambit-demo $(if $(KEEP),--keep)

test: prereqs check unit stories ## all tests, the stories on real namespaces included (root)

check: ## formatting, vet (the stories of a cluster included), and each module on its own without the workspace
	@test -z "$$(gofmt -l $(MODULES))" || { echo 'gofmt these:'; gofmt -l $(MODULES); exit 1; }
	@for m in $(MODULES); do tools/progress.sh "module $$m alone" bash -c "cd $$m && GOWORK=off go vet -tags kind ./... && GOWORK=off go mod tidy -diff" || exit 1; done

unit: envoy ## tests of every module but e2e
	go test $(patsubst %,./%/...,$(filter-out e2e,$(MODULES)))

stories: build envoy ## end-to-end stories in network namespaces (root; REDIRECTION=nftables|iptables|ebpf)
	$(if $(REDIRECTION),AMBIT_REDIRECTION=$(REDIRECTION)) go test $(if $(REDIRECTION),-count=1) -timeout 15m ./e2e/...

race: ## the concurrent packages under the race detector
	go test -race ./api/... ./ca/... ./control/... ./ztunnel/... ./cni/...

bench: bench-data bench-control bench-waypoint ## all benchmarks (root; QUICK=1 for short ones)

bench-data: build ## data plane side by side: direct, ours, naive, and PEER_ZTUNNEL=path
	go run ./e2e/bench/dataplane $(if $(QUICK),-quick) $(BENCH_ARGS)

bench-control: build ## control plane with simulated node proxies
	go run ./e2e/bench/control $(if $(QUICK),-quick) $(BENCH_ARGS)

bench-waypoint: build envoy ## a waypoint with 1,000 services, and the hop beside a bare Envoy (root)
	go run ./e2e/bench/waypoint $(if $(QUICK),-quick) $(BENCH_ARGS)

fuzz: ## every fuzz target for FUZZTIME (10s) each
	@tools/fuzz.sh $(or $(FUZZTIME),10s)

generate: ## regenerate committed code; leaves no diff
	cd tools && GOWORK=off go run ./cmd/protogen ../api
	cd tools && GOWORK=off go run ./cmd/charts ..
	@if command -v clang >/dev/null && command -v llvm-strip >/dev/null; then cd cni && GOWORK=off go generate ./redirect/bpf; \
	else echo 'clang or llvm-strip is missing: the BPF programs in cni/redirect/bpf stay as they are committed'; fi

images: ## container images without a registry, into bin/images (PLATFORMS=, HUB=, ONLY=, BASE=, LOAD=kind|docker|ctr; docs/images.md)
	@go run ./tools/cmd/images -version '$(VERSION)' $(if $(PLATFORMS),-platforms '$(PLATFORMS)') $(if $(HUB),-hub '$(HUB)') \
	  $(if $(ONLY),-only '$(ONLY)') $(if $(BASE),-base '$(BASE)') $(if $(LOAD),-load '$(LOAD)') $(IMAGE_ARGS)

# A given cluster is asked about first when its KUBECONFIG is the shell's and not said with the command.
KIND := $(BIN)/ambit-kind
ASK   = $(if $(filter environment,$(origin KUBECONFIG)),-ask)

kind: build kind-cluster images ## Ambit on a Kubernetes cluster made here (NAME=ambit, IP_FAMILY=, WORKERS=, REDIRECTION=; KIND_IMAGE= or KUBECONFIG= for others; docs/kind.md)
	@$(KIND) load $(BIN)/images/*.tar
	@$(KIND) run -- $(BIN)/ambitctl install --set global.hub=$(or $(HUB),ambit) --set global.tag=$(VERSION) \
	  $(if $(REDIRECTION),--set cni.redirection=$(REDIRECTION)) $(INSTALL_ARGS)

kind-cluster: ## the cluster alone, with the Gateway API's kinds
	@go build -o $(KIND) ./tools/kind/cmd/ambit-kind
	@$(KIND) create $(ASK)
	@$(KIND) gateway-api "$$(cd control && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental"

kind-delete: ## delete the cluster NAME (and the Docker daemon with the last one)
	@go build -o $(KIND) ./tools/kind/cmd/ambit-kind
	@$(KIND) delete

kind-test: ## make kind, all stories and the Gateway API conformance suite on it, then kind-delete (KEEP=1 leaves it; RUN=regexp, SHORT=1: fewer; REDIRECTION=)
	@KEEP='$(KEEP)' RUN='$(RUN)' SHORT='$(SHORT)' REDIRECTION='$(REDIRECTION)' tools/kind/test.sh

kind-upgrade: ## from another version of this repository to this one and back under load, on a cluster of its own (FROM=ref; KEEP=, REDIRECTION=)
	@FROM='$(FROM)' KEEP='$(KEEP)' NAME='$(NAME)' REDIRECTION='$(REDIRECTION)' tools/kind/upgrade.sh

conformance: ## the Gateway API conformance suite on the cluster of make kind, or of KUBECONFIG (REPORT=bin/conformance.yaml, CONFORMANCE_ARGS=)
	@cd e2e && ../tools/progress.sh 'building the conformance suite' go test -c -tags kind -o $(BIN)/conformance.test ./conformance/cluster
	@set -o pipefail; $(KIND) inside -- $(BIN)/conformance.test -test.v -test.timeout 90m -hub $(or $(HUB),ambit) -tag $(VERSION) -release $(VERSION) \
	  $(if $(KUBECONFIG),,-addresses 198.51.100.0/24) -report-output $(or $(REPORT),$(BIN)/conformance.yaml) $(CONFORMANCE_ARGS) 2>&1 | \
	  tee $(BIN)/conformance.log | grep -E '^ {0,4}--- |^(ok|PASS|FAIL|panic)' || { tail -40 $(BIN)/conformance.log; exit 1; }

envoy: build ## the pinned Envoy, fetched once into the user's cache
	@python3 -m pip --version >/dev/null 2>&1 || tools/prereqs.sh
	@$(BIN)/ambit-waypoint envoy >/dev/null

prereqs:
	@tools/prereqs.sh

clean: ## remove bin/ and what labs left behind
	-@test -x $(BIN)/ambit-lab && $(BIN)/ambit-lab down --all
	rm -rf $(BIN) .cache
