VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench planted planner clean

# The main job on real digits, with a PDF at the end.
demo: $(READY)
	$(BIN)/gapkit demo

# Everything, the slow tests too, a process for each core.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed, memory and exactness beside peers, quality over many seeds; about an hour.
# cka-pytorch declares torchvision, which cannot be had beside every torch, and works without it.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[peers]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps cka-pytorch==1.1.3
	$(BIN)/python benchmarks/results.py
	$(BIN)/python benchmarks/live.py digits
	$(BIN)/python benchmarks/live.py moderation

# Students whose failure was planted: what gapkit names, with controls and without. Hours; it resumes.
planted: $(READY)
	$(BIN)/python benchmarks/planted/run.py --half report
	$(BIN)/python benchmarks/planted/run.py --half report --no-controls
	$(BIN)/python benchmarks/planted/tables.py runs/planted/report-budget-16.jsonl runs/planted/report-no-controls.jsonl

# What the planner is worth beside other searches, on 540 simulated worlds (the half it was tuned on apart from the half
# it is judged by), 20 searches each, and on recorded tables; the budget is a quarter of what every arm costs once, and
# under four seeds; hours on two cores; it resumes, and the tables can be had at any time.
planner: $(READY)
	for each in 1 4; do for half in recorded report tune; do \
	$(BIN)/python benchmarks/planner/run.py --half $$half --each $$each || exit 2; done; done
	$(BIN)/python benchmarks/planner/run.py --half small --seeds 1
	$(BIN)/python benchmarks/planner/tables.py runs/planner/*.jsonl
	$(BIN)/python benchmarks/planner/seeds.py

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs
