# Every command sets itself up in .venv: only python3 (3.10 or newer), pip and make are assumed.
# What a command needs is the dependency group of its name in pyproject.toml.
# ARGS go to the program behind a command: make test ARGS='-k cut', make demo ARGS=--help.
# Tests run in a process for each core; in one, for a debugger: make test ARGS='-n 0 --pdb'.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV2 := .venv-openai2

.DEFAULT_GOAL := help
.PHONY: help demo test test-openai2 lint format type cover bench docs clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.ready-demo ## Cut a real model's answer again and again, and read it whole
	$(BIN)/resumable-llm demo $(ARGS)

test: $(VENV)/.ready-test ## Run the tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

test-openai2: $(VENV2)/.ready-test-openai2 ## Run the tests of the openai SDK with openai 2, on httpx
	$(VENV2)/bin/python -m pytest -m openai $(ARGS) tests/sdks

lint: $(VENV)/.ready-lint ## Check style and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

format: $(VENV)/.ready-lint ## Mend what lint can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: $(VENV)/.ready-type ## Check the types with mypy and pyright
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

cover: $(VENV)/.ready-cover ## Run the tests and show the lines and branches they leave out
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

bench: $(VENV)/.ready-bench ## Measure us against the bare clients and against our peers
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.ready-docs ## Build the documentation in docs/_build/html
	$(BIN)/sphinx-build -W -n --keep-going docs docs/_build/html

clean: ## Remove all that these commands made
	rm -rf $(VENV) $(VENV2) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an environment is made once, and filled again when pyproject.toml changes.
$(VENV)/.ready-%: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable '.[cli,httpx2,redis,relay]' --group $*
	@touch $@

$(VENV2)/.ready-%: pyproject.toml | $(VENV2)/.made
	$(VENV2)/bin/python -m pip install --quiet --editable '.[cli]' --group $*
	@touch $@

$(VENV)/.made $(VENV2)/.made: %/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) must be Python 3.10 or newer; to name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'  # the first that knows --group
	@touch $@
