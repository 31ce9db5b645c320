# The two commands of the README. Everything they need is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: simulate test lint environment

simulate: environment
	$(BIN)/hyfree-ray simulate --sites 5

test: environment lint
	$(BIN)/python -m pytest -m "not chaos"

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

environment: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
