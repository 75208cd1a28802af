# Every target makes .venv first if it is missing or out of date, so each works as the first command after a clone.
# Settable: PYTHON (3.11 to 3.13), JOBS (notebooks run at a time), AGAIN=1 (run finished ones anew), WORKERS (tests),
# CONFIG (what cluster-test runs).

PYTHON ?=
AGAIN ?=
JOBS ?= 2
WORKERS ?= 2
CONFIG ?=
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

# As lt_utils/__init__.py says; a notebook may import torch before it.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 2000

.DEFAULT_GOAL := help
.PHONY: help run test cluster-test lab exercises full bench notebooks lint lock

help:
	@echo "make run        the whole course on the bundled data, in minutes; ends with the path of its report"
	@echo "make test       every unit and every notebook tested"
	@echo "make lab        JupyterLab in notebooks/"
	@echo "make exercises  a copy of the exercises to work in, my_exercises/; your work there is never overwritten"
	@echo "make full       the full experiments on CIFAR-10/100-LT (config/cifar.yaml): a GPU and hours, or a cluster"
	@echo "make cluster-test  batches on a small SLURM on this machine (apt install slurm-wlm munge), killed, cut off, cancelled"
	@echo "make bench      speed beside other libraries"
	@echo "make notebooks  execute all notebooks and solutions in place; make lint: check the style; make lock: compile the lock anew"

run: $(READY)
	@exec $(BIN)/python -m course run config/quick.yaml --jobs $(JOBS) $(if $(AGAIN),--again)

full: $(READY)
	@exec $(BIN)/python -m course run config/cifar.yaml --jobs $(JOBS) $(if $(AGAIN),--again)

# Two workers with one thread each are quicker than one with two. A notebook's cells share a kernel: they stay together.
test: $(READY)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope \
		--nbval --nbval-current-env --nbval-cell-timeout 3000 \
		$(if $(MAKE_TERMOUT),,--color=no) tests $(wildcard notebooks solutions)

# On a SLURM that the test starts and ends itself. CONFIG=config/quick.yaml: the whole quick batch instead of two notebooks.
cluster-test: $(READY)
	@LT_CLUSTER_TEST=1 LT_CLUSTER_CONFIG=$(CONFIG) exec $(BIN)/python -m pytest -v tests/cluster

lab: $(READY)
	@exec $(BIN)/python -m jupyterlab --notebook-dir=.

exercises: $(READY)
	@exec $(BIN)/python -m course exercises start

bench: $(READY)
	@exec $(BIN)/python -m benchmarks

# One thread, as in `make run`: so the digits of both are equal.
notebooks: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m course refresh $(sort $(wildcard notebooks/*.ipynb))
	@exec $(BIN)/python -m course exercises build --execute

lint: $(READY)
	@exec $(BIN)/ruff check .

# Written so that plain pip installs it: no index, no paths.
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv"; exit 1; }
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --quiet \
		--no-header --annotation-style line --output-file requirements.lock

# A half-made .venv has no .ready: it is made anew. One that is only out of date is brought up to date in place.
$(READY): requirements.lock pyproject.toml
	@set -e; python=; \
	for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
		if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
		then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 found ($(or $(PYTHON),python3.13, python3.12, python3.11, python3));" \
			"install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot make virtual environments; on Debian and Ubuntu install its venv package" \
			"(apt install python3-venv)"; exit 1; fi; \
	if [ -f $@ ] && $(BIN)/python -c '' 2>/dev/null; then echo "Bringing $(VENV) up to date."; \
	else echo "Making $(VENV) with $$python (once; the installation takes some minutes and about 6 GB)."; \
		rm -rf $(VENV); "$$python" -m venv $(VENV); fi; \
	rm -f $@; \
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock; \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	touch $@
