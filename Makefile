# Everything a user or a CI machine runs. `make setup` needs git, make and Python >= 3.11 with venv; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup test check format demo experiments experiments-full results test-server test-install test-slow test-triton chaos test-all chaos-prefect scale clean help
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## prepare .venv with the pinned dependencies

# The stamp is written last, so an interrupted set-up is taken up again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	mkdir -p .typing && ln -sfn .. .typing/logitfuse
	touch $@

test: setup check  ## run the tests (lint and types first)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not server and not install and not slow"

check: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p logitfuse.flows -p logitfuse.tasks -p logitfuse.storage -p logitfuse.kernels

format: setup  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-server: setup  ## tests that start a Prefect server and a worker
	$(BIN)/python -m pytest -m server

test-install: setup  ## build the wheel, install it in a fresh environment, run it from another folder
	$(BIN)/python -m pytest -m install

test-slow: setup  ## tests that take minutes: all ids of real vocabularies, memory of long documents
	$(BIN)/python -m pytest -m slow

chaos: setup  ## 200 kills at random moments of runs of all stages (half an hour on two cores); CHAOS="--kills 1000"
	$(BIN)/python tests/chaos/campaign.py $(CHAOS)

test-triton: setup  ## the GPU's kernels, interpreted on a CPU (installs triton: 700 MB)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[triton]'
	$(BIN)/python -m pytest tests/kernels/test_triton_topk.py tests/kernels/test_triton_epilogue.py

# Two at once: servers mostly wait, and pip mostly fetches.
test-all: test  ## everything CI runs: the tests, those of server and installation among them
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "server or install"

chaos-prefect: setup  ## kill flow, worker, server and database in every stage (half an hour; needs PostgreSQL)
	$(BIN)/python benchmarks/crashes.py --json benchmarks/results/chaos-prefect.json --page docs/crashes.md

demo: setup  ## fuse Gemma-3-270M into SmolLM2-135M on real text (about ten minutes on two cores)
	$(BIN)/logitfuse run demo

scale: setup  ## 100 M tokens through the data stages: time and memory (about an hour on two cores, 20 GB of disk)
	$(BIN)/python benchmarks/scale.py --json benchmarks/results/scale-2cpu.json

# A study that was stopped goes on where it was; SCALE multiplies documents and training steps.
SCALE ?= 0.3
RESULTS ?= runs/results.json
VARIANTS = base gemma copy ensemble clm default paper
WORDS = $(wildcard $(RESULTS:.json=.words.md))

experiments: setup  ## headroom and the main comparison in small (40 minutes on two cores); SCALE=0.3
	mkdir -p $(dir $(RESULTS))
	$(BIN)/logitfuse study headroom --json $(RESULTS)
	$(BIN)/logitfuse study main --scale $(SCALE) --json $(RESULTS) $(addprefix --only ,$(VARIANTS))
	$(MAKE) results

experiments-full: setup  ## all studies at full size (a day or two on two cores); run it again to go on
	mkdir -p $(dir $(RESULTS))
	for study in headroom main domains ablations; do $(BIN)/logitfuse study $$study --json $(RESULTS) || exit 1; done
	$(MAKE) results

results: setup  ## the results page from its numbers (RESULTS=runs/results.json)
	$(BIN)/logitfuse results $(RESULTS) $(if $(WORDS),--words $(WORDS))

clean:  ## remove what the build leaves; runs/ and the cache of models stay
	rm -rf $(VENV) .typing build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
