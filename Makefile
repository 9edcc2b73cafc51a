# make demo | make test | make check | make bench | make test-gpu | make ui
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check fast bench test-gpu ui clean browser

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,ocr]'
	touch $@

check:
	$(BIN)/ruff format --check kb rag finetune ui tests data
	$(BIN)/ruff check kb rag finetune ui tests data
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser" -n 2

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not gpu" -n 2

test-gpu:
	$(BIN)/python -m pytest -m gpu
