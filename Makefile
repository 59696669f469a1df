# Each target makes .venv by itself.   make demo   make test   make notebooks   make words   make lint
PYTHON ?= python3
BIN = .venv/bin

demo: .venv/installed
	$(BIN)/covseg run --study study -p PROFILE demo

test: .venv/installed lint
	$(BIN)/pytest

notebooks: .venv/installed
	$(BIN)/python tests/refresh_notebooks.py
	$(BIN)/python tests/test_docs.py

words: .venv/installed
	$(BIN)/python tests/test_docs.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.PHONY: demo test notebooks words lint
