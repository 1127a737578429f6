# Two commands matter: `make run` starts the app, `make test` runs the tests. Both install what they need first.
# `make screens` takes pictures of every tab in its states, for looking at.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
MARK ?= not slow and not gpu and not network and not soak

.PHONY: run test check fix screens clean

run: .venv/.app
	@$(BIN)/python app.py $(ARGS)

test: .venv/.dev
	@$(BIN)/python -m pytest -m "$(MARK)" $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	@$(PYTHON) -m venv .venv

.venv/.app: requirements.txt requirements-starter.txt | .venv/bin/python
	@echo "Installing (once; a few minutes) …"
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps --require-hashes -r requirements-starter.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.app
	@$(PIP) install -r requirements-dev.txt
	@touch $@

screens: .venv/.dev
	@$(BIN)/python -m tests.screens $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis out screens
