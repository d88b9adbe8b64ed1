# Every target sets itself up: nothing needs to be installed but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
# the oldest supported release, as in pyproject.toml; NumPy of its time, which does not warn
# of what it does, and Bokeh, which that Dask can stop
OLDEST_DASK = 2025.12.0
OLDEST_NUMPY = 2.4
OLDEST_BOKEH = 3.8

# Tests start hundreds of processes: each would compile the package for itself.
unexport PYTHONDONTWRITEBYTECODE

bin = $(VENV)/bin
stamp = $(VENV)/.daskref-stamp
docs_stamp = $(VENV)/.daskref-docs-stamp
oldest_stamp = $(OLDEST)/.daskref-stamp
PYTEST_ARGS ?=
# what depends on Dask and on Python; crashes, full disks and connectors do not
fast = -m "not slow and not stress and not hosts and not pythons" --ignore tests/connectors
# test processes; a file's tests, which may share a cluster or a server, stay together
JOBS ?= 2
parallel = -n $(JOBS) --dist loadfile

.PHONY: demo test test-hosts test-all stress test-oldest test-peers test-pythons bench transparency pictures lint type docs clean
.DEFAULT_GOAL := test

demo: $(stamp)
	$(bin)/python -m daskref.demo

# everything but what is marked `stress` or `hosts`
test: $(stamp)
	$(bin)/python -m pytest $(parallel) $(PYTEST_ARGS)

# Dask on many hosts: needs root or user namespaces
test-hosts: $(stamp)
	$(bin)/python -m pytest $(parallel) -m "hosts and not stress" $(PYTEST_ARGS)

test-all: $(stamp)
	$(bin)/python -m pytest -m "" --timeout 1800 $(PYTEST_ARGS)

stress: $(stamp)
	$(bin)/python -m pytest -m stress --timeout 1800 $(PYTEST_ARGS)

test-oldest: $(oldest_stamp)
	$(OLDEST)/bin/python -m pytest $(parallel) $(fast) $(PYTEST_ARGS)

# client, scheduler and workers of different Pythons: of those that are found here
# (tests/support/pythons.py)
test-peers: $(stamp)
	@$(bin)/python -m tests.support.pythons
	$(bin)/python -m pytest -n $(JOBS) -m pythons tests/package/test_pythons.py $(PYTEST_ARGS)

# that, and what depends on Python on each
test-pythons: test-peers
	@found=$$($(bin)/python -m tests.support.pythons --extras test) && \
	echo "$$found" | while read -r version python; do \
	  echo "Python $$version"; \
	  $$python -m pytest $(parallel) $(fast) $(PYTEST_ARGS) </dev/null || exit; \
	done

bench: $(stamp)
	$(bin)/daskref bench

# docs/transparency.md, out of the tables of cases of the tests
transparency: $(stamp)
	$(bin)/python -m tests.support.transparency

lint: $(stamp)
	$(bin)/ruff check .
	$(bin)/ruff format --check .

type: $(stamp)
	$(bin)/mypy

# of the examples, which need PyTorch, and of the dashboard's page, which needs Chromium
pictures: $(docs_stamp)
	$(bin)/python docs/examples/pictures.py
	$(bin)/python docs/performance/charts.py
	$(bin)/python -m tests.support.screenshots

docs: $(docs_stamp)
	$(bin)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) $(OLDEST) .venv-pythons docs/_build build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

# $(call make_venv,DIRECTORY): a fresh virtual environment, or a sentence that says
# what is missing. An environment that exists is kept.
define make_venv
	@command -v $(PYTHON) >/dev/null || { \
	  echo "daskref needs Python 3.11 or newer, and there is no '$(PYTHON)' here." \
	    "Install it, or say where it is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "daskref needs Python 3.11 or newer, but '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1). Say which one to use:" \
	    "make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without the modules venv and ensurepip." \
	    "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(1)/bin/python || { echo "making $(1)"; $(PYTHON) -m venv $(1); }
endef

pip = -m pip install --quiet --disable-pip-version-check

$(stamp): pyproject.toml
	$(call make_venv,$(VENV))
	@echo "installing daskref and what its tests need into $(VENV)"
	@$(bin)/python $(pip) --editable '.[test]'
	@touch $@

$(docs_stamp): pyproject.toml $(stamp)
	@echo "installing what the documentation needs into $(VENV)"
	@$(bin)/python $(pip) --editable '.[docs]'
	@touch $@

$(oldest_stamp): pyproject.toml Makefile
	$(call make_venv,$(OLDEST))
	@echo "installing daskref with distributed $(OLDEST_DASK) into $(OLDEST)"
	@$(OLDEST)/bin/python $(pip) --editable '.[test]' \
	  dask==$(OLDEST_DASK) distributed==$(OLDEST_DASK) numpy~=$(OLDEST_NUMPY).0 \
	  bokeh~=$(OLDEST_BOKEH).0
	@touch $@
