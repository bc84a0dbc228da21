# Each command creates .venv and installs what it needs; a machine with only python3 (3.11 or newer) will do.
#   make demo    train, test and simulate on the bundled data
#   make test    the tests
#   make thorough    the tests that take longer, notebooks among them
#   make slow    those that take more than a minute each, long simulations among them: some hours in all
#   make lint    formatting, lint, types
#   make bench   times and memory beside mace-torch and mlip, which it installs; BENCH=md: steps of molecular dynamics per second
SHELL := /bin/bash
VENV ?= .venv
JOBS ?= 2
EXTRAS ?= all
PYTEST_ARGS ?=
BENCH ?= peers

PY := $(VENV)/bin/python
X32 = $(shell grep -rl "mark\.x32" tests --include="test_*.py") # what is collected takes time, too
FIND_PYTHON = for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && exec $$p -m venv $(VENV); done; \
	echo "macejax needs python 3.11 or newer with the venv module (on Debian: apt install python3-venv); PYTHON=/path/to/python names one." >&2; exit 1

.PHONY: demo test thorough slow lint format bench install clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed-core
	rm -rf demo_run/ethanol
	$(VENV)/bin/macejax demo --output demo_run

test: $(VENV)/.installed-test
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)
	MACEJAX_TEST_X64=0 $(PY) -m pytest -n $(JOBS) --dist loadfile -m "x32 and not slow and not gpu and not physics_long" $(PYTEST_ARGS) $(X32)

thorough: $(VENV)/.installed-test
	$(PY) -m pytest -n $(JOBS) -m "thorough and not slow and not gpu and not physics_long" $(PYTEST_ARGS)

slow: $(VENV)/.installed-test
	XLA_FLAGS= $(PY) -m pytest -n $(JOBS) -m "bits and not slow and not gpu and not physics_long" $(PYTEST_ARGS)
	$(PY) -m pytest -n $(JOBS) -m "(slow or physics_long) and not gpu" $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/.installed-lint
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# mlip wants other versions of what we use: it has an environment of its own.
bench: $(VENV)/.installed-torch $(VENV)-mlip/.installed
ifeq ($(BENCH),md)
	$(PY) experiments/md_engines/run.py --mlip $(VENV)-mlip/bin/python --output experiments/md_engines/results/md.json
else
	$(PY) experiments/bench/run.py --set $(BENCH) --mlip $(VENV)-mlip/bin/python --output experiments/bench/results/$(BENCH).json
	$(PY) experiments/bench/report.py
endif

install: $(VENV)/.installed-$(EXTRAS)

$(PY):
	@$(FIND_PYTHON)

# One stamp for each set of extras, so that nothing is installed twice.
$(VENV)/.installed-core: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet -c constraints.txt -e ".[$*]"
	@touch $@ $(VENV)/.installed-core

$(VENV)-mlip/.installed: $(VENV)/.installed-core
	$(PY) -m venv $(VENV)-mlip
	$(VENV)-mlip/bin/python -m pip install --quiet mlip "$$($(PY) -m pip freeze | grep -i '^jax==')" "$$($(PY) -m pip freeze | grep -i '^jaxlib==')"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-mlip .cache demo_run
