# The project's commands: `make` alone lists them.
# Those that need packages install them into .venv first, once.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that runs and that TensorFlow has a build for. A name on the PATH
# is no proof: a pyenv shim stands there for versions that are not installed.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && exit; done; echo python3)

# Kernels run in chapters/, where a relative path would name another folder.
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

# Tests read the stand-in, never a copy of MovieLens that happens to be at hand.
STAND_IN := env -u MEMEMBED_DATA_DIR MEMEMBED_DATASET=synthetic:130000
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help book test test-book lab venv lint lock links colab repository clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

book: $(INSTALLED) ## run every chapter and build the book
	@rm -rf _build
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: $(INSTALLED) ## test the package, and run every chapter on stand-in data
	$(STAND_IN) $(BIN)/python -m pytest -n $(WORKERS) --cov --nbmake chapters memembed tests

test-book: $(INSTALLED) ## check the pages that `make book` built
	$(BIN)/python -m pytest -m book tests/book

lab: $(INSTALLED) ## open the chapters in JupyterLab
	$(BIN)/jupyter-lab --notebook-dir=chapters

venv: $(INSTALLED) ## install the locked packages into .venv

lint: $(INSTALLED) ## check style and spelling, and that no notebook holds outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/nbstripout --verify --keep-id chapters/*.ipynb

lock: $(INSTALLED) ## write requirements.lock anew; UPGRADE=1 for the newest versions
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock

# The links' own settings: the chapters as they stand, not run.
links: $(INSTALLED) ## check that the links out of the book still lead somewhere
	@mkdir -p _build
	@sed -e 's/execute_notebooks: force/execute_notebooks: "off"/' \
		-e 's|: tools #|: ../tools #|' _config.yml > _build/links.yml
	$(BIN)/jupyter-book build . --config _build/links.yml --path-output _build/links \
		--builder linkcheck

colab: ## run the chapters on the versions that Colab has, in .venv-colab
	$(PYTHON) -m venv --clear .venv-colab
	.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tests/colab-constraints.txt --editable '.[test]'
	$(STAND_IN) .venv-colab/bin/python -m pytest -n $(WORKERS) --nbmake chapters

repository: ## move every link to another repository, as in URL=https://github.com/OWNER/NAME
	@$(PYTHON) tools/repository.py '$(URL)'

clean: ## remove what was built, but not .venv
	rm -rf _build .coverage .hypothesis .pytest_cache .ruff_cache .venv-colab
	find benchmarks chapters memembed tests tools \( -name __pycache__ -o \
		-name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): requirements.lock pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py

# The stamp holds the folder that it was made for: a moved .venv does not work.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif
