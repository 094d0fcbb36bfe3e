# The project's commands: `make` alone lists them.
# Commands that need packages install them first, once, into .venv. The tests of the
# library on JAX or Torch use .venv-jax or .venv-torch.

VENVS := .venv .venv-jax .venv-torch
BIN := .venv/bin
INSTALLED := .venv/.installed

# The first Python that runs and that TensorFlow has a build for. Being on the PATH is
# not enough: pyenv puts shims there for versions that are not installed.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && exit; done; echo python3)

# Kernels run in chapters/, where a relative path would point to another folder.
ifneq ($(strip $(MEMEMBED_DATA_DIR)),)
override MEMEMBED_DATA_DIR := $(if $(filter /%,$(firstword $(MEMEMBED_DATA_DIR))),,$(CURDIR)/)$(MEMEMBED_DATA_DIR)
export MEMEMBED_DATA_DIR
else
unexport MEMEMBED_DATA_DIR
endif
ifeq ($(strip $(MEMEMBED_DATASET)),)
unexport MEMEMBED_DATASET
endif
export TF_CPP_MIN_LOG_LEVEL := 3
export IPYTHONDIR := $(CURDIR)/tools/ipython

# Tests always use synthetic ratings, even if a copy of MovieLens is available.
STAND_IN := env -u MEMEMBED_DATA_DIR MEMEMBED_DATASET=synthetic:130000
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help book test test-backends test-tensorflow test-jax test-torch test-book \
	test-lab distributed solutions bench study lab venv lint lock pictures links colab \
	repository clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

book: $(INSTALLED) ## run every chapter and build the book
	@rm -rf _build
	$(BIN)/python tools/run_chapters.py _build
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

# COVERAGE=--cov counts the lines that the tests run, which takes a fifth longer.
test: $(INSTALLED) ## test the package, and run every chapter on stand-in data
	$(STAND_IN) $(BIN)/python -m pytest -n $(WORKERS) $(COVERAGE) --nbmake \
		chapters memembed tests

test-backends: ## test the library on TensorFlow, JAX and Torch; on one: make test-jax
	@$(MAKE) --keep-going --no-print-directory test-tensorflow test-jax test-torch

LIBRARY := allocation compression epochs examples fine_tuning optimizers rebuild \
	sensitivity tables
test-tensorflow: .venv/.installed
test-jax: .venv-jax/.installed
test-torch: .venv-torch/.installed
# What JAX compiles here runs once or twice: optimising it takes longer than it saves.
test-jax: export JAX_DISABLE_MOST_OPTIMIZATIONS := 1
test-jax: export XLA_FLAGS := --xla_force_host_platform_device_count=8
test-tensorflow test-jax test-torch:
	@echo "The library on $(@:test-%=%), in $(<D):"
	KERAS_BACKEND=$(@:test-%=%) $(<D)/bin/python -m pytest -n $(WORKERS) \
		memembed/layers $(LIBRARY:%=memembed/%.py) \
		tests/layers tests/compression tests/test_optimizers.py tests/test_package.py

distributed: .venv-jax/.installed ## train in two processes, and kill one of them ten times
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest tests/experiments/test_distributed.py

test-book: $(INSTALLED) ## check the pages that `make book` built
	$(BIN)/python -m pytest -n $(WORKERS) -rs -m book tests/book

test-lab: $(INSTALLED) ## run every chapter in JupyterLab, or CHAPTERS=chapters/...
	$(BIN)/python -m pytest -n $(WORKERS) -rs -m lab tests/book \
		$(if $(CHAPTERS),-k 'landing$(patsubst %, or %,$(basename $(notdir $(CHAPTERS))))')

solutions: $(INSTALLED) ## run every chapter with the solutions of its exercises
	@rm -rf .solutions  # nbmake finds nothing in _build
	$(BIN)/python tools/solutions.py .solutions
	$(STAND_IN) $(BIN)/python -m pytest -n $(WORKERS) --nbmake .solutions

study: $(INSTALLED) ## train all models of chapters 5 to 7; resumes
	$(BIN)/python -m memembed.experiments.study
	$(BIN)/python -m memembed.experiments.ladder
	$(BIN)/python -m memembed.experiments.trials
	$(BIN)/python -m memembed.experiments.evidence

bench: $(VENVS:=/.installed) ## time training and the layers against others; see benchmarks/
	$(BIN)/python -m benchmarks

lab: $(INSTALLED) ## open the chapters in JupyterLab
	$(BIN)/jupyter-lab --config=tools/lab/jupyter_lab_config.py

venv: $(INSTALLED) ## install the locked packages into .venv

lint: $(INSTALLED) ## check style and spelling, and that no notebook holds outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/nbstripout --verify --keep-id chapters/*.ipynb

# With the extras: pip, which make_venv.py falls back on, refuses a lock without them.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-strip-extras $(if $(UPGRADE),--upgrade)

# A package has the same version in all locks. Torch is in none: tools/make_venv.py
# says why.
lock: $(INSTALLED) ## update the lock files; UPGRADE=1 for the newest versions
	$(COMPILE) --extra dev --group lock --override tools/lock-overrides.txt \
		--output-file requirements.lock
	$(COMPILE) --extra test-layers,distributed --constraint requirements.lock \
		--output-file requirements-jax.lock
	$(COMPILE) --extra test-layers --constraint requirements.lock \
		--output-file requirements-torch.lock

pictures: $(INSTALLED) ## draw the pictures of the landing page again
	$(BIN)/python tools/pictures.py

# _build/links.yml is _config.yml without running the chapters.
links: $(INSTALLED) ## check the external links of the book
	@mkdir -p _build
	@sed -e 's/execute_notebooks: cache/execute_notebooks: "off"/' \
		-e 's|: tools #|: ../tools #|' _config.yml > _build/links.yml
	$(BIN)/jupyter-book build . --config _build/links.yml --path-output _build/links \
		--builder linkcheck

colab: ## run each chapter as Colab does, on Colab's versions, in .venv-colab
	$(STAND_IN) $(PYTHON) tools/colab.py .venv-colab $(CHAPTERS)

repository: ## change every link to another repository: URL=https://github.com/OWNER/NAME
	@$(PYTHON) tools/repository.py '$(URL)'

clean: ## remove what was built, but not .venv, .venv-jax and .venv-torch
	rm -rf _build .solutions .coverage .hypothesis .pytest_cache .ruff_cache .venv-colab
	find benchmarks chapters memembed tests tools \( -name __pycache__ -o \
		-name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

.venv/.installed: requirements.lock
.venv-jax/.installed: requirements-jax.lock
.venv-torch/.installed: requirements-torch.lock
$(VENVS:=/.installed): pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(@D)

# The stamp contains the folder of the environment: a moved environment does not work.
.PHONY: $(shell for venv in $(VENVS); do \
	[ "$$(cat $$venv/.installed 2>/dev/null)" = "$$(pwd -P)" ] || echo $$venv/.installed; \
	done)
