# make test-newest tries the newest releases of the libraries, in an environment of its own.
# make demo | check | test | test-slow | test-browser | test-integrations | docs | screenshots |
# faults | bench:
# each makes .venv first, if it is not there. CONTRIBUTING.md says what they cost.
PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
MOVING := accelerate diffusers gradio peft tokenizers transformers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := $(PIP) install --require-hashes --no-deps -r requirements
SOURCES := pyproject.toml constraints.txt requirements/demo.txt

INTEGRATIONS ?= $(BIN)/python

.PHONY: demo check test test-slow test-newest test-browser test-integrations docs screenshots faults bench lint clean

demo: $(VENV)/.demo
	$(BIN)/svfit demo

check: $(VENV)/.test lint
	$(BIN)/python tests/touched.py

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip --quiet install -e .[test]
	$(NEWEST)/bin/python -m pip --quiet install --upgrade $(MOVING)
	$(NEWEST)/bin/python -m pip list
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile

test-browser: $(VENV)/.test
	$(LOCKED)/browser.txt
	npm ci --prefix tests/end_to_end/axe
	$(BIN)/python -m pytest -m slow tests/end_to_end/test_browser.py

docs: $(VENV)/.test
	$(LOCKED)/docs.txt
	$(BIN)/mkdocs build --strict

screenshots: $(VENV)/.test
	$(LOCKED)/browser.txt
	$(BIN)/python docs/screenshots.py --train --docs

# Where COMFYUI, SD_SCRIPTS, FORGE, INVOKEAI, PEFT name checkouts; the others' tests are skipped, and named.
# INTEGRATIONS: a Python with this package's requirements and the programs' own.
test-integrations: $(VENV)/.test
	COMFYUI=$(COMFYUI) SD_SCRIPTS=$(SD_SCRIPTS) FORGE=$(FORGE) INVOKEAI=$(INVOKEAI) PEFT=$(PEFT) \
		PYTHONPATH=.:tests \
		$(INTEGRATIONS) -m pytest -rs -p helpers.torchvision_operators tests/integrations

faults: $(VENV)/.test
	$(BIN)/python tests/faults/run.py --green $(FAULTS)

bench: $(VENV)/.test
	$(LOCKED)/bench.txt
	$(BIN)/python -m benchmarks.speed $(BENCH)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.demo: $(SOURCES)
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and 'Python 3.11 to 3.13 is needed; name one as in: make demo PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(LOCKED)/demo.txt
	$(PIP) install -c constraints.txt torch
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt
	$(LOCKED)/test.txt
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) build dist *.egg-info
