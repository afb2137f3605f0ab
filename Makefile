# `make` lists the targets. Everything runs in .venv, which is built once.
# GNU make 3.81 (macOS) is enough.

# TensorFlow's chatter on standard error; 0 brings it back. Python's exceptions come in any case.
TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_CPP_MIN_LOG_LEVEL

DEMO_DIR ?= runs/demo
PEER ?=
PHOTOS ?=

# The first that runs and fits, of all on PATH: a pyenv shim exists, may not run, and hides others.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))
PYTHON ?= $(shell IFS=:; for name in python3.11 python3.10 python3.9 python3 python; do \
  for folder in $$PATH; do python="$$folder/$$name"; [ -x "$$python" ] && \
  "$$python" -c '$(FITS)' >/dev/null 2>&1 && echo "$$python" && exit; done; done)

PY := .venv/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-input
RUN := $(PY) -m tf_simclr

C_FILES := $(wildcard tf_simclr/native/*.[ch] tests/native/*.c)
C_CHECKS := -std=gnu99 -O2 -Wall -Wextra -Werror -fanalyzer

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=python3.10 names the Python for .venv, DEMO_DIR= the demo's folder."

venv: .venv/ready ## build .venv only

# An environment that is there is brought up to date; the stamp comes last, so that what failed
# half-way is taken up again.
.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	@rm -f $@
	@if { $(PY) -c '$(FITS)' && $(PY) -m pip --version; } >/dev/null 2>&1; then \
	  echo "Bringing .venv up to date ..."; \
	else \
	  python="$(PYTHON)"; \
	  "$$python" -c '$(FITS)' >/dev/null 2>&1 || { \
	    echo "Needed: Python 3.9, 3.10 or 3.11 with its venv module (TensorFlow 2.15 has no other)."; \
	    echo "Tried:  $${python:-python3.11 python3.10 python3.9 python3 python}"; \
	    echo "Install one:"; \
	    echo "  Debian 12      apt-get install python3.11 python3.11-venv"; \
	    echo "  Ubuntu 22.04   apt-get install python3.10 python3.10-venv"; \
	    echo "  macOS          brew install python@3.11"; \
	    echo "  pyenv          pyenv install 3.11 && pyenv local 3.11"; \
	    echo "  conda          conda create -n simclr python=3.11 && conda activate simclr"; \
	    echo "or name the one you have: make PYTHON=/path/to/python3.11 ..."; \
	    exit 1; }; \
	  echo "Building .venv with $$("$$python" --version):" \
	    "some 650 MB to download, 1 to 3 minutes on a fast line ..."; \
	  rm -rf .venv && "$$python" -m venv .venv || exit 1; fi
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed."

demo: .venv/ready ## pretrain on embedded digits, evaluate, export, report: minutes on 2 cores
	@$(RUN) --mode=pretrain --flagfile=flags/digits_demo.flags --workdir="$(DEMO_DIR)"
	@$(RUN) --mode=knn_eval --workdir="$(DEMO_DIR)"
	@$(RUN) --mode=linear_eval --workdir="$(DEMO_DIR)"
	@echo
	@echo "The report, open it in a browser:         $(DEMO_DIR)/report.html"
	@echo "The encoder, a SavedModel and its card:   $(DEMO_DIR)/encoder/"

# OpenMP threads spin while they wait: two processes with two threads each would block each other.
test: .venv/ready ## the test suite: 15 to 40 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-slow: .venv/ready ## the slow tests
	@$(PY) -m pytest -q --durations=15 -m slow

lint: .venv/ready ## check style, format and types; C code too if there is gcc
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/clang-format --dry-run --Werror $(C_FILES)
	@if gcc -fanalyzer -x c -c /dev/null -o /dev/null >/dev/null 2>&1; then \
	  include=$$($(PY) -c 'import importlib.util as u; print(u.find_spec("tensorflow").submodule_search_locations[0])')/include; \
	  for file in tf_simclr/native/*.c; do \
	    gcc $(C_CHECKS) -isystem "$$include" -c $$file -o /dev/null || exit 1; \
	  done; \
	else echo "No gcc: the C files are not checked for warnings."; fi

format: .venv/ready ## fix style and format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@.venv/bin/clang-format -i $(C_FILES)

# A file that is no benchmark does nothing when run.
bench: .venv/ready ## every benchmark, a JSON line each; PEER=, PHOTOS=: see BUILD.md
	@for file in benchmarks/*.py; do \
	  $(PY) $$file $(if $(PEER),--peer="$(PEER)") $(if $(PHOTOS),--photos="$(PHOTOS)") || exit 1; \
	done

clean: ## remove .venv, caches and runs/demo; other runs stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo
	@find tf_simclr tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
