VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

# The main job on real digits, with a PDF at the end.
demo: $(READY)
	$(BIN)/gapkit demo

# Everything, the slow tests too.
test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed, memory and exactness beside peers, the planner replayed, quality over many seeds; about an hour.
# cka-pytorch declares torchvision, which cannot be had beside every torch, and works without it.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[peers]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps cka-pytorch==1.1.3
	$(BIN)/python benchmarks/results.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/digits.py

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs
