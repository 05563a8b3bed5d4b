# Every target makes .venv and installs what it needs by itself; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SETUP := pyproject.toml deploy/constraints.txt

.DEFAULT_GOAL := help

.PHONY: help  ## List the targets.
help:
	@grep -E '^\.PHONY: [a-z-]+  ## ' Makefile | sed -E 's/^\.PHONY: ([a-z-]+)  ## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: serve  ## Set up, fetch the built-in teacher once, and serve on http://127.0.0.1:8000.
serve: $(VENV)/.service
	@$(BIN)/anysize serve --fetch

.PHONY: test  ## Set up and run all tests.
test: $(VENV)/.dev
	@$(BIN)/anysize fetch
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: test-fault  ## Run the tests that break things on purpose and take minutes.
test-fault: $(VENV)/.dev
	@$(BIN)/anysize fetch
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fault -n auto --dist worksteal --timeout 1500

.PHONY: test-nightly  ## Run the tests that take an hour or so.
test-nightly: $(VENV)/.dev
	@$(BIN)/anysize fetch
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly --timeout 7200

# 2026-11-29: sqlitedict, which lm-evaluation-harness needs, unpickles its own cache, and no version of it is mended.
# The harness writes such a cache only where it is told to, and nothing here tells it.
ACCEPTED := --ignore-vuln GHSA-g4r7-86gm-pgqc --ignore-vuln PYSEC-2026-1939

.PHONY: audit  ## Look for known holes in what is pinned and dangerous calls in the code; list the parts (build/sbom.json).
audit: $(VENV)/.dev $(VENV)-audit/.done
	@$(VENV)-audit/bin/bandit --quiet --recursive --severity-level medium --configfile pyproject.toml service training
	@$(VENV)-audit/bin/pip-audit --requirement deploy/constraints.txt --no-deps --disable-pip --strict --progress-spinner off $(ACCEPTED)
	@mkdir -p build
	@$(VENV)-audit/bin/cyclonedx-py requirements deploy/constraints.txt --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

.PHONY: check  ## Format, lint, types and import rules.
check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

.PHONY: format  ## Format the code, and fix what the linter can.
format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench  ## Measure assembly, memory and mixed sizes on this machine.
bench: $(VENV)/.service
	@$(BIN)/anysize fetch
	@$(BIN)/anysize bench build
	@$(BIN)/anysize bench memory
	@$(BIN)/anysize bench mixed

.PHONY: replay  ## Build the containers without a Docker engine, and try them: as root, with podman, runc and debootstrap.
replay: $(VENV)/.dev
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python deploy/replay

.PHONY: clean  ## Remove .venv and caches; fetched models stay in the user's cache.
clean:
	@rm -rf $(VENV) $(VENV)-audit build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@echo "making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Anysize needs Python 3.11 or newer, this is %d.%d; set PYTHON=" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "cannot make a venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PIP) install --upgrade pip -c deploy/constraints.txt || { rm -rf $(VENV); exit 1; }
	@touch $@

# Apart, so that the tools' own packages are not among those that are looked at.
$(VENV)-audit/.done: pyproject.toml
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip --disable-pip-version-check --quiet install 'bandit>=1.8' 'cyclonedx-bom>=7.0' 'pip-audit>=2.9'
	@touch $@

$(VENV)/.service: $(VENV)/.venv $(SETUP)
	@echo "installing the service (torch takes a while the first time)"
	@$(PIP) install -c deploy/constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.venv $(SETUP)
	@echo "installing the service, the training pipeline and the tools (torch takes a while the first time)"
	@$(PIP) install -c deploy/constraints.txt -e '.[training,dev]'
	@touch $@ $(VENV)/.service
