# Each target makes its environment by itself.
# make demo   make test   make test-all   make test-lowest   make browser   make notebooks   make words   make lint   make repository NAME=alice/covseg
PYTHON ?= python3
PYTHON_LOWEST ?= python3.10
BIN = .venv/bin

demo: .venv/installed
	$(BIN)/covseg run --study study -p PROFILE demo

test: .venv/installed lint
	$(BIN)/pytest

# What takes long too: twenty kills, clusters, several devices, all walks through the notebooks, the lowest versions.
test-all: .venv/installed lint
	COVSEG_KILLS=20 $(BIN)/pytest -m "slow or not slow"
	$(MAKE) test-lowest

notebooks: .venv/installed
	$(BIN)/python tests/refresh_notebooks.py
	$(BIN)/python tests/test_docs.py

words: .venv/installed
	$(BIN)/python tests/test_docs.py

# The suite with the lowest version of each package that requirements.txt allows.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest

# The notebooks in JupyterLab in a headless Chromium; screenshots in browser/.
browser: .venv/installed
	$(BIN)/pip install --quiet --editable '.[browser]'
	$(BIN)/python tests/browser.py

repository:
	@$(PYTHON) tests/set_repository.py $(NAME)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv-lowest/installed: requirements.txt pyproject.toml
	$(PYTHON_LOWEST) -m venv --clear .venv-lowest
	sed -n 's/>=/==/p' requirements.txt > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[dev]'
	touch $@

.PHONY: demo test test-all test-lowest browser repository notebooks words lint
