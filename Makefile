# Everything a user or a CI machine runs. `make setup` needs git, make and Python >= 3.11 with venv; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup test check format demo experiments experiments-full fuzz fuzz-guided audit-dependencies results test-server test-browser test-install test-slow test-triton chaos corruption chaos-prefect test-all scale clean help docs
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not server and not install and not slow and not browser"

check: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p logitfuse.flows -p logitfuse.tasks -p logitfuse.storage -p logitfuse.kernels

format: setup  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-server: setup  ## tests that start a Prefect server and a worker
	$(BIN)/python -m pytest -m server

# Not among those of CI, which has no browser. CHROMIUM names another one; BROWSER_PICTURES keeps what it showed. Uses
# PostgreSQL where initdb is on the PATH, else SQLite, which a busy machine locks for minutes.
CHROMIUM ?= /usr/bin/chromium
BROWSER_PICTURES ?= runs/pictures
test-browser: setup  ## trigger, schedule, resume and cancel on Prefect's pages, in Chromium (twenty minutes on two cores)
	@test -x $(CHROMIUM) || { echo "$(CHROMIUM) is missing: apt install chromium, or CHROMIUM=/path/to/one make test-browser"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	CHROMIUM=$(CHROMIUM) BROWSER_PICTURES=$(BROWSER_PICTURES) $(BIN)/python -m pytest -m browser

test-install: setup  ## build the wheel, install it in a fresh environment, run it from another folder
	$(BIN)/python -m pytest -m install

test-slow: setup  ## tests that take minutes: all ids of real vocabularies, memory of long documents
	$(BIN)/python -m pytest -m slow

chaos: setup  ## 200 kills at random moments of runs of all stages (half an hour on two cores); CHAOS="--kills 1000"
	$(BIN)/python tests/chaos/campaign.py $(CHAOS)

corruption: setup  ## 1,000 damages to each kind of file, all of which must be found (an hour on two cores)
	$(BIN)/python tests/chaos/corruption.py $(CORRUPTION)

test-triton: setup  ## the GPU's kernels, interpreted on a CPU (installs triton: 700 MB)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[triton]'
	$(BIN)/python -m pytest tests/kernels/test_triton_topk.py tests/kernels/test_triton_epilogue.py

# Two at once; three servers would lock each other out. The installation takes longest, so it comes first, and is not put
# last for having one test only. All of these tests are in these places; looking for them in all others takes a minute.
test-all: test  ## everything CI runs: the tests, those of server and installation among them
	$(BIN)/python -m pytest tests/test_install.py tests/flows -n 2 --dist loadfile --no-loadscope-reorder -m "(server or install) and not slow"

# The seed is printed at the start and at any failure; the same seed and number give the same examples.
SEED := $(or $(SEED),$(shell date +%s))
EXAMPLES ?= 1000

fuzz: setup  ## hostile recipes, runs, corpora and models: an hour or two; EXAMPLES=1000 SEED=1
	@echo "EXAMPLES=$(EXAMPLES) SEED=$(SEED)"
	HYPOTHESIS_MAX_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz --hypothesis-seed=$(SEED) --timeout=7200

SECONDS_EACH = $(or $(SECONDS),60)

fuzz-guided: setup  ## inputs that reach new code, a minute for each kind of file; SECONDS=60 SEED=1 TARGETS="recipe shard"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/guided/fuzzing.py --seconds $(SECONDS_EACH) --seed $(SEED) $(if $(TARGETS),--only $(TARGETS)) $(FUZZ)

# Strict: a package that the service does not know is a failure, else nothing found would mean nothing asked.
audit-dependencies: setup  ## known vulnerabilities of what is installed (asks an advisory service, so needs a network)
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit; }
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audit/installed.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audit/installed.txt \
		|| { echo "Vulnerabilities were found, or the advisory service was not reached: what stands above says which."; exit 1; }

chaos-prefect: setup  ## kill flow, worker, server and database in every stage (half an hour; needs PostgreSQL)
	$(BIN)/python benchmarks/crashes.py --json benchmarks/results/chaos-prefect.json --page docs/crashes.md

demo: setup  ## fuse Gemma-3-270M into SmolLM2-135M on real text (ten to twenty minutes on two cores)
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

docs: setup  ## the documentation as a site in docs/_build/html, its recipe reference made anew
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python docs/recipe_reference.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:  ## remove what the build leaves; runs/ and the cache of models stay
	rm -rf $(VENV) .typing build docs/_build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
