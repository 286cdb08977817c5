# One command per chore; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUILDER ?= docker
TAG ?= dev
PORT ?= 8080
REGISTRY ?= kappa
NATS_IMAGE ?= kappa-test/nats:dev
# The tests wait more than they compute, so one worker more than there are cores.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
CODE := core kube operator gateway runtime cli tests

.DEFAULT_GOAL := help
.PHONY: help run test check test-cluster images nats-image deploy bench bench-coldstart generate format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

# The environment: made once, made again when pyproject.toml changes.
$(VENV)/.local: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Kappa needs Python 3.11 or newer, and $(PYTHON) is not: name one, as in  make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	@echo "adding what the tests and checks need to $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[local,operator]' --group dev
	@touch $@

run: $(VENV)/.local  ## serve examples/01-hello on 127.0.0.1:8080, without a cluster (PORT=8081 for another port)
	@$(BIN)/kappa local up examples/01-hello --port $(PORT)

test: $(VENV)/.dev  ## every test that needs no cluster (WORKERS=0: one at a time)
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --ignore tests/cluster -m 'not helm'
	@echo "left out: what needs a Kubernetes cluster and helm; run it with: make test-cluster"

check: $(VENV)/.dev  ## format, lint, types, import contracts, generated files
	@$(BIN)/ruff format --check --quiet . || { echo "make format mends this" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports >/tmp/kappa-imports.$$$$ 2>&1 || { cat /tmp/kappa-imports.$$$$; rm -f /tmp/kappa-imports.$$$$; exit 1; }; rm -f /tmp/kappa-imports.$$$$
	@$(BIN)/python scripts/generate.py --check

generate: $(VENV)/.dev  ## write the files that are made from the Function model: the CRD and its reference page
	@$(BIN)/python scripts/generate.py

format: $(VENV)/.dev  ## format the code and mend what ruff can mend
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench: $(VENV)/.dev  ## the benchmarks: ratios in one run, JSON in bench-results/ (with KUBECONFIG also those of a cluster)
	@$(BIN)/python tests/bench/run.py $(BENCH_ARGS)

bench-coldstart: $(VENV)/.dev  ## cold starts by phase, both paths and a bare pod in turn: on the cluster of KUBECONFIG, without one in local mode
	@mkdir -p bench-results
	@$(BIN)/python tests/bench/coldstart.py $(if $(KUBECONFIG),,--local) --json bench-results/coldstart$(if $(KUBECONFIG),,-local).json $(BENCH_ARGS)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

images:  ## build the images operator, gateway and runtime-python (BUILDER=docker, REGISTRY=kappa, TAG=dev)
	@for image in operator gateway runtime-python; do \
	  echo "building $(REGISTRY)/$$image:$(TAG)"; \
	  $(BUILDER) build -t $(REGISTRY)/$$image:$(TAG) -f Dockerfile --target $$image \
	    --build-arg VERSION=$(TAG) --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" . || exit 1; \
	done

nats-image:  ## build a stand-in for the official NATS image, for a test cluster that reaches no registry
	@echo "building $(NATS_IMAGE)"
	@$(BUILDER) build -t $(NATS_IMAGE) -f tests/cluster/nats/Dockerfile tests/cluster/nats

# Each deploy rolls the pods, for a tag such as dev names another image after every build. A CRD that was applied by hand
# is taken over (with Helm 4 that also needs --force-conflicts, which Helm 3 does not know).
deploy:  ## install the chart with these images into the cluster of KUBECONFIG, and wait until it is ready
	@command -v helm >/dev/null || { echo "make deploy needs helm: https://helm.sh/docs/intro/install/" >&2; exit 1; }
	@now=$$(date +%s); helm upgrade --install kappa charts/kappa --namespace kappa-system --create-namespace \
	  --take-ownership $$(helm upgrade --help | grep -o -m 1 -e --force-conflicts) \
	  --set-string image.registry=$(REGISTRY),image.tag=$(TAG) \
	  --set-string operator.podAnnotations.deployed=$$now,gateway.podAnnotations.deployed=$$now \
	  $(HELM_ARGS) --wait --timeout 3m || { \
	    echo "Kappa is not ready. What is said about its pods:" >&2; \
	    kubectl --namespace kappa-system get pods >&2; kubectl --namespace kappa-system events >&2; exit 1; }

test-cluster: $(VENV)/.dev  ## the tests that need a Kubernetes cluster (KUBECONFIG) with the images, and helm
	@KAPPA_TEST_REGISTRY=$(REGISTRY) KAPPA_TEST_TAG=$(TAG) $(BIN)/pytest tests/cluster tests/golden -m 'cluster or helm' -n $(WORKERS)
