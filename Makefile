# Two commands from a bare clone: `make demo` and `make test`. All set-up goes into .venv, in this folder.
# PYTHON=/path/to/python3.12 make demo    picks another interpreter (3.11 or newer).

.DEFAULT_GOAL := help
.PHONY: help demo test dev docs lint clean
SHELL := /bin/sh

BIN := .venv/bin
# With a display the demo ends in napari, so only then does it install napari and a Qt binding.
DEMO_EXTRA := $(if $(DISPLAY)$(WAYLAND_DISPLAY),[all],)

help:
	@echo "make demo   segment real microscopy images by clicks and boxes, write masks and pictures into demo/"
	@echo "make test   run the whole test suite, on a virtual display"
	@echo "make dev    .venv with everything a developer needs, and the pre-commit hooks"
	@echo "make lint   ruff, mypy and the layer table"
	@echo "make docs   build the documentation into docs/_build/html"
	@echo "make clean  remove .venv and everything built"

demo:
	@sh .ci/install "$(DEMO_EXTRA)"
	@$(BIN)/segany demo --out demo

test:
	@sh .ci/install "[test]"
	@sh .ci/display
	@sh .ci/pytest $(ARGS)

dev:
	@sh .ci/install "[dev,docs]"
	@if [ -d .git ]; then $(BIN)/pre-commit install; fi

lint:
	@sh .ci/install "[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

docs:
	@sh .ci/install "[docs]"
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv demo build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
