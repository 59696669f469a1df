# Each target makes its environment by itself.
PYTHON ?= python3
PYTHON_LOWEST ?= python3.10
PYTHON_COLAB ?= python3.13
BIN = .venv/bin
QUICK = $(addprefix tests/test_, volumes.py slicing.py cases.py splits.py files.py study.py \
  resizing.py metrics.py objectives.py unet.py plots.py modules.py)

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: .venv/installed  ## the ten notebooks on phantom volumes, into ./study (minutes)
	$(BIN)/covseg run --study study -p PROFILE demo

test: .venv/installed lint  ## lint, tests, and the notebooks against their committed outputs
	$(BIN)/pytest

check: .venv/installed lint  ## lint and the quick tests: under a minute
	$(BIN)/pytest -m "not slow" $(QUICK)

# and what takes long: twenty kills, clusters, the second demo, lowest versions
test-all: .venv/installed lint  ## all tests (an hour)
	COVSEG_KILLS=20 $(BIN)/pytest -m "slow or not slow"
	$(MAKE) test-lowest test-colab site

notebooks: .venv/installed  ## make the outputs of the committed notebooks again
	$(BIN)/python tests/refresh_notebooks.py

test-lowest: .venv-lowest/installed  ## the tests with the lowest versions in requirements.txt
	.venv-lowest/bin/pytest

test-colab: .venv/installed .venv-colab/installed  ## all notebooks with Colab's own packages
	COVSEG_COLAB_PYTHON=$(CURDIR)/.venv-colab/bin/python $(BIN)/pytest -n 0 -m slow tests/test_colab_image.py

colab-packages:  ## take a newer list: make colab-packages LIST=freeze.txt DATE=2026-11
	@$(PYTHON) tests/colab_packages.py $(LIST) $(DATE)

browser: .venv/installed  ## the notebooks in JupyterLab in a headless Chromium
	$(BIN)/pip install --quiet --editable '.[browser]'
	$(BIN)/python tests/browser.py

site: .venv-site/installed  ## the site, in build/site
	.venv-site/bin/python tests/site_pages.py
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --quiet --strict
	.venv-site/bin/python tests/site_pages.py check

repository:  ## set the GitHub repository: make repository NAME=alice/covseg
	@$(PYTHON) tests/set_repository.py $(NAME)

parts: .venv/installed  ## put badges, set-up cell and links into every notebook again
	$(BIN)/python tests/notebook_parts.py

lint: .venv/installed  ## ruff, mypy, import-linter, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: .venv/installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv-lowest/installed: requirements.txt pyproject.toml
	$(PYTHON_LOWEST) -m venv --clear .venv-lowest
	sed -n 's/>=/==/p' requirements.txt > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[dev]'
	touch $@

.venv-site/installed: docs/requirements.txt
	$(PYTHON) -m venv --clear .venv-site
	.venv-site/bin/pip install --quiet --requirement docs/requirements.txt
	touch $@

# every package that covseg imports or could move, in Colab's version
.venv-colab/installed: requirements.txt $(wildcard tests/colab_packages_*.txt)
	$(PYTHON_COLAB) -m venv --clear .venv-colab
	.venv-colab/bin/python tests/colab_packages.py install
	touch $@

.PHONY: help check format demo test test-all test-lowest test-colab colab-packages browser site repository \
  parts notebooks lint
