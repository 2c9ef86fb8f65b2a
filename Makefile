# Everything runs in .venv, which the first target that needs it makes. A second run finds it and starts at once.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
TORCH := torch==2.14.1 torchvision==0.29.1
CLIPS_WHEEL := absolutely-not-scikit-video==1.1.12
REAL_CLIPS := .cache/real_clips
# One process a core, each with files of its own: most tests keep one core busy
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# $(call apt_install,PACKAGE): installs a Debian package where we may, else says in one line what to do.
apt_install = { if ! command -v apt-get >/dev/null; then sudo=no; elif [ "$$(id -u)" = 0 ]; then sudo=; \
	elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo=no; fi; \
	if [ "$$sudo" = no ]; then echo "$(1) is missing: sudo apt-get install $(1), or as your system installs it" >&2; exit 1; fi; \
	echo "installing $(1) with apt-get"; $$sudo apt-get update -qq; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }

.DEFAULT_GOAL := help
.PHONY: help setup test check format demo bench proof mutants clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv with the package in it, and FFmpeg's libraries where they are missing

test: $(VENV)/.installed-test $(REAL_CLIPS) ## Run the tests, but those that take minutes
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

check: $(VENV)/.installed-test ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/codespell

format: $(VENV)/.installed-test ## Put the code into the form that check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.installed ## Train a tiny model on rendered videos and write a report; RECIPE=apollo-tiny for Apollo
	$(BIN)/lightning-apollo demo $(RECIPE)

bench: $(VENV)/.installed-test $(REAL_CLIPS) ## Run the benchmarks; each writes a CSV and a picture
	set -e; for script in benchmarks/bench_*.py; do echo "$$script"; $(BIN)/python "$$script"; done

proof: $(VENV)/.installed-test $(REAL_CLIPS) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

mutants: $(VENV)/.installed-test ## Plant faults in the kernels, one at a time: the tests must notice each
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.kernels.mutants --csv benchmarks/results/kernels_mutants.csv

clean: ## Remove the environment and every cache, but no run
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt_install,$(notdir $(PYTHON))-venv)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "installing torch and the package; with CUDA some 3 GB are downloaded, which takes minutes"
	$(PIP_INSTALL) $(TORCH)
	$(PIP_INSTALL) --editable .
	@$(BIN)/python -c 'import torchcodec.decoders' 2>/dev/null || $(call apt_install,ffmpeg)
	@$(BIN)/python -c 'import torchcodec.decoders' 2>/dev/null || { \
		echo "torchcodec does not load: run $(BIN)/lightning-apollo doctor" >&2; exit 1; }
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@

# Three real clips that tests and benchmarks read: a wheel that carries them is unpacked, never imported.
$(REAL_CLIPS): | $(VENV)/.installed
	rm -rf $@.partial
	$(BIN)/python -m pip download --quiet --no-deps --dest $@.partial $(CLIPS_WHEEL)
	for wheel in $@.partial/*.whl; do $(BIN)/python -m zipfile -e "$$wheel" $@.partial; done
	mv $@.partial/skvideo/datasets/data $@
	rm -r $@.partial
