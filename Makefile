# `make` lists the targets. Everything runs in $(VENV), which is built once.
# GNU make 3.81 (macOS) is enough.

# TensorFlow's chatter on standard error; 0 brings it back. Python's exceptions come in any case.
TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_CPP_MIN_LOG_LEVEL

DEMO_DIR ?= runs/demo
PEER ?=
PHOTOS ?=

# The Python version chooses the packages (requirements.txt): up to 3.11 the classic stack, from 3.12
# on the current one. STACK=classic or current asks for one of them, in an environment of its own.
STACK ?= any
LOWEST_any := 9
HIGHEST_any := 13
LOWEST_classic := 9
HIGHEST_classic := 11
LOWEST_current := 12
HIGHEST_current := 13
LOWEST := $(LOWEST_$(STACK))
HIGHEST := $(HIGHEST_$(STACK))
ifeq ($(LOWEST),)
  $(error STACK=$(STACK): choose any, classic or current)
endif
VENV ?= .venv$(patsubst -any,,-$(STACK))
ifneq ($(words $(VENV)),1)
  $(error VENV=$(VENV): one folder, without spaces)
endif
# Nothing but a virtual environment is ever removed.
REMOVE_VENV := [ ! -e $(VENV) ] || [ -f $(VENV)/pyvenv.cfg ] || { \
  echo "VENV=$(VENV) is there and is no virtual environment; it is left alone."; exit 1; }; rm -rf $(VENV)

# The newest that runs, on PATH or installed by pyenv: a shim on PATH may not run, and hides others.
FITS := import sys, venv, ensurepip; sys.exit(not (3, $(LOWEST)) <= sys.version_info[:2] <= (3, $(HIGHEST)))
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
PYTHON ?= $(shell IFS=:; for name in python3.13 python3.12 python3.11 python3.10 python3.9 python3 python; do \
  for folder in $$PATH "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin; do python="$$folder/$$name"; [ -x "$$python" ] && \
  "$$python" -c '$(FITS)' >/dev/null 2>&1 && echo "$$python" && exit; done; done)

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-input
RUN := $(PY) -m tf_simclr

C_FILES := $(wildcard tf_simclr/native/*.[ch] tests/native/*.c)
C_CHECKS := -std=gnu99 -O2 -Wall -Wextra -Werror -fanalyzer

.DEFAULT_GOAL := help
.PHONY: help venv same-python demo test test-slow lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=python3.10 names the Python, VENV= the environment's folder, STACK=classic or current"
	@echo "the packages (requirements.txt), DEMO_DIR= the demo's folder."

venv: $(VENV)/ready ## build the environment only

# A Python or a stack that is asked for must be that of an environment which is there.
same-python:
	@there="$$($(PY) -c '$(VERSION)' 2>/dev/null)" || exit 0; \
	$(PY) -c '$(FITS)' 2>/dev/null || [ "$(STACK)" = any ] || { \
	  echo "STACK=$(STACK), but $(VENV) has Python $$there. Take another folder (VENV=...)."; exit 1; }
ifneq ($(origin PYTHON),file)
	@there="$$($(PY) -c '$(VERSION)' 2>/dev/null)" || exit 0; \
	asked="$$("$(PYTHON)" -c '$(VERSION)' 2>/dev/null)" || { \
	  echo "PYTHON=$(PYTHON) is no Python that runs."; exit 1; }; \
	[ "$$asked" = "$$there" ] || { \
	  echo "PYTHON=$(PYTHON) is Python $$asked, but $(VENV) has Python $$there."; \
	  echo "Take another folder (VENV=.venv-$$asked), or remove this one (rm -r $(VENV))."; exit 1; }
endif

# An environment that is there is brought up to date; the stamp comes last, so that what failed
# half-way is taken up again.
$(VENV)/ready: requirements.txt requirements-dev.txt pyproject.toml | same-python
	@rm -f $@
	@if { $(PY) -c '$(FITS)' && $(PY) -m pip --version; } >/dev/null 2>&1; then \
	  echo "Bringing $(VENV) up to date ..."; \
	else \
	  python="$(PYTHON)"; \
	  "$$python" -c '$(FITS)' >/dev/null 2>&1 || { \
	    echo "Needed for STACK=$(STACK): Python 3.$(LOWEST) to 3.$(HIGHEST) with its venv module."; \
	    echo "Tried:  $${python:-python3.13 to python3.9, python3 and python, on PATH and in pyenv}"; \
	    echo "Install one, for example:"; \
	    echo "  Ubuntu 24.04   apt-get install python3.12 python3.12-venv"; \
	    echo "  Debian 13      apt-get install python3.13 python3.13-venv"; \
	    echo "  Debian 12      apt-get install python3.11 python3.11-venv"; \
	    echo "  Ubuntu 22.04   apt-get install python3.10 python3.10-venv"; \
	    echo "  macOS          brew install python@3.$(HIGHEST)"; \
	    echo "  pyenv          pyenv install 3.$(HIGHEST)"; \
	    echo "  uv             uv python install 3.$(HIGHEST), then make PYTHON=\"\$$(uv python find 3.$(HIGHEST))\""; \
	    echo "  conda          conda create -n simclr python=3.$(HIGHEST) && conda activate simclr"; \
	    echo "or name the one you have: make PYTHON=/path/to/python3.$(HIGHEST) ..."; \
	    exit 1; }; \
	  echo "Building $(VENV) with $$("$$python" --version):" \
	    "$$("$$python" -c 'import sys; print(("the current stack, TensorFlow 2.21", "the classic stack, TensorFlow 2.15")[sys.version_info < (3, 12)])')."; \
	  echo "Hundreds of MB to download, 1 to 3 minutes on a fast line ..."; \
	  { $(REMOVE_VENV); } && "$$python" -m venv $(VENV) || exit 1; fi
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed."

demo: $(VENV)/ready ## pretrain on embedded digits, evaluate, export, report: minutes on 2 cores
	@$(RUN) --mode=pretrain --flagfile=flags/digits_demo.flags --workdir="$(DEMO_DIR)"
	@$(RUN) --mode=knn_eval --workdir="$(DEMO_DIR)"
	@$(RUN) --mode=linear_eval --workdir="$(DEMO_DIR)"
	@echo
	@echo "The report, open it in a browser:         $(DEMO_DIR)/report.html"
	@echo "The encoder, a SavedModel and its card:   $(DEMO_DIR)/encoder/"

# OpenMP threads spin while they wait: two processes with two threads each would block each other.
test: $(VENV)/ready ## the test suite: 15 to 40 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready ## the slow tests
	@$(PY) -m pytest -q --durations=15 -m slow

lint: $(VENV)/ready ## check style, format and types; C code too if there is gcc
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES)
	@if gcc -fanalyzer -x c -c /dev/null -o /dev/null >/dev/null 2>&1; then \
	  include=$$($(PY) -c 'import importlib.util as u; print(u.find_spec("tensorflow").submodule_search_locations[0])')/include; \
	  for file in tf_simclr/native/*.c; do \
	    gcc $(C_CHECKS) -isystem "$$include" -c $$file -o /dev/null || exit 1; \
	  done; \
	else echo "No gcc: the C files are not checked for warnings."; fi

format: $(VENV)/ready ## fix style and format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(C_FILES)

# A file that is no benchmark does nothing when run.
bench: $(VENV)/ready ## every benchmark, a JSON line each; PEER=, PHOTOS=: see BUILD.md
	@for file in benchmarks/*.py; do \
	  $(PY) $$file $(if $(PEER),--peer="$(PEER)") $(if $(PHOTOS),--photos="$(PHOTOS)") || exit 1; \
	done

clean: ## remove the environment, caches and runs/demo; other runs stay
	@$(REMOVE_VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo
	@find tf_simclr tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
