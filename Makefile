# `make` lists the targets. Everything runs in .venv, which is built once.

export TF_CPP_MIN_LOG_LEVEL ?= 3
DEMO_DIR ?= runs/demo
PEER ?=
PHOTOS ?=

# The first Python 3.9-3.11 that runs (a pyenv shim may exist and not run); PYTHON=... overrides.
PYTHON ?= $(shell for p in python3.11 python3.10 python3.9 python3 python; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' \
  >/dev/null 2>&1 && { echo $$p; break; }; done)
PY := .venv/bin/python
RUN := $(PY) -m tf_simclr

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
	  echo "No Python 3.9, 3.10 or 3.11 (with venv) found; TensorFlow 2.15 needs one. Install it:"; \
	  echo "  Debian, Ubuntu   apt-get install python3.11 python3.11-venv"; \
	  echo "  macOS            brew install python@3.11"; \
	  echo "  pyenv            pyenv install 3.11 && pyenv local 3.11"; \
	  echo "  conda            conda create -n simclr python=3.11 && conda activate simclr"; \
	  echo "or name one: make PYTHON=/path/to/python3.11"; exit 1; fi
	@echo "Building .venv with $$($(PYTHON) --version): about 1 GB to download, a minute or more ..."
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/ready ## pretrain on embedded data, evaluate, export, show: minutes on 2 cores
	@$(RUN) --mode=pretrain --flagfile=flags/digits_demo.flags --workdir=$(DEMO_DIR)
	@$(RUN) --mode=knn_eval --workdir=$(DEMO_DIR)
	@$(RUN) --mode=linear_eval --workdir=$(DEMO_DIR)
	@echo "The encoder: $(DEMO_DIR)/encoder   The report: $(DEMO_DIR)/report.html"

test: .venv/ready ## the test suite, minutes
	@$(PY) -m pytest -q --durations=15

test-slow: .venv/ready ## the slow tests
	@$(PY) -m pytest -q -m slow --durations=15

lint: .venv/ready ## check style
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: .venv/ready ## mend style
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

bench: .venv/ready ## every benchmark; PEER= the directory tf2/ of google-research/simclr, PHOTOS= JPEGs
	@for b in benchmarks/*.py; do case $$b in */timing.py|*/__init__.py) ;; \
	  *) $(PY) $$b $(if $(PEER),--peer=$(PEER)) $(if $(PHOTOS),--photos=$(PHOTOS)) ;; esac; done

clean: ## remove .venv and what runs left
	rm -rf .venv runs build *.egg-info
