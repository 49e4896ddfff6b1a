# make demo: set up and run the whole pipeline on the embedded teacher.  make test: set up and run every check.
# make demo-check: run the whole demo and compare it with the README (minutes).
# make studies-test: check the studies' own arithmetic.  make docs: build the docs site into build/site.
# A GPU machine leaves the constraints out:  make demo CONSTRAINTS=
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= -c constraints-cpu.txt
BIN = $(VENV)/bin

demo: $(VENV)/core
	$(BIN)/minipuzzle demo

test: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/lint-imports
	$(MAKE) -j 2 types tests

types: $(VENV)/dev
	$(BIN)/mypy

# Bytecode is kept and freed memory is not given back: a tenth of the processor time.
tests: $(VENV)/dev
	PYTHONDONTWRITEBYTECODE= MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483648 XDG_CACHE_HOME=$(abspath $(VENV))/cache MINIPUZZLE_TIME_LIMIT=60 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

demo-check: $(VENV)/dev
	$(BIN)/python tests/demo_record.py --check

studies-test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest studies/tests

docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/core: pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(CONSTRAINTS) -e .
	touch $@

$(VENV)/dev: pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(CONSTRAINTS) -e ".[dev]"
	touch $@ $(VENV)/core

.PHONY: demo demo-check test types tests studies-test docs
