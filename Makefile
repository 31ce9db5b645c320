# The two commands of the README. Everything they need is installed into .venv. On a machine with a
# GPU `simulate` alone would take the paper's budget, which is days.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: simulate test lint environment

simulate: environment
	$(BIN)/hyfree-ray simulate --sites 5 --budget small

test: environment lint
	$(BIN)/python -m pytest

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

environment: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv: some minutes, and nothing is printed meanwhile"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
