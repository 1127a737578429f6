# Two commands matter: `make run` starts the app, `make test` runs the tests. Both install what they need first.
# `make test` takes about four minutes on two cores; `make test-all` also runs what is slow and what opens a browser.
# `make screens` takes pictures of every tab in its states, for looking at.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
MARK ?= not slow and not browser and $(USUAL)
USUAL := not gpu and not network and not timed and not soak
# Test processes: one more than there are cores, for tests also wait. A file of tests stays in one process; the long
# ones (browser) come first.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + 1))")
NO_NODE := The check of the page's scripts needs Node.js and npm; install them (apt-get install nodejs npm).

.PHONY: run test test-all check check-scripts node fix lock screens elsewhere clean

run: .venv/.app
	@$(BIN)/python app.py $(ARGS)

test: .venv/.dev
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "$(MARK)" $(ARGS)

test-all: MARK := $(USUAL)
test-all: test

check: .venv/.dev
	@find ui -name "*.pyi" -delete # Gradio writes them beside its components, and they go out of date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/windows
	$(BIN)/mypy --python-version 3.14 --cache-dir .mypy_cache/newest
	@$(MAKE) --no-print-directory check-scripts

check-scripts: node assets/node_modules/.done
	npm --prefix assets run --silent check

node:
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "$(NO_NODE)" >&2; exit 1; }

assets/node_modules/.done: assets/package-lock.json | node
	@npm --prefix assets ci --silent --no-audit --no-fund
	@touch $@

fix: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	@$(PYTHON) -m venv .venv

# The lock holds all but torch, whose build depends on the machine: the second line brings it and what it needs.
.venv/.app: requirements.txt requirements.lock requirements-starter.txt | .venv/bin/python
	@echo "Installing (once; a few minutes) …"
	@$(PIP) install --no-deps --require-hashes -r requirements.lock
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps --require-hashes -r requirements-starter.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.app
	@$(PIP) install -r requirements-dev.txt
	@touch $@

# Chooses the version of every package that requirements.txt brings, and lists them with their licences. Versions stay
# as they are where they can; make lock ARGS=--upgrade takes the newest.
lock: .venv/.dev
	@$(BIN)/uv pip compile -q requirements.txt --no-config --universal --python-version 3.11 --generate-hashes \
		--no-emit-package torch --excludes requirements-unlocked.txt -o requirements.lock $(ARGS)
	@$(MAKE) --no-print-directory .venv/.app
	@$(BIN)/python -m tests.support.dependency_list

# Reads exports by transformers 4: an environment that has all but that from .venv.
elsewhere: .elsewhere/.done
	@SLIMLLM_ELSEWHERE=.elsewhere/bin/python $(BIN)/python -m pytest tests/export/test_transformers_4.py -m elsewhere $(ARGS)

.elsewhere/.done: requirements-elsewhere.txt .venv/.dev
	@$(BIN)/python -m venv .elsewhere
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.elsewhere/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	@.elsewhere/bin/python -m pip --disable-pip-version-check -q install --no-deps -r requirements-elsewhere.txt
	@touch $@

screens: .venv/.dev
	@$(BIN)/python -m tests.support.screens $(ARGS)

clean:
	rm -rf .venv .elsewhere build dist slimllm.egg-info assets/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis out screens
