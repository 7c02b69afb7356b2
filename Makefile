# Short names for what is done often. `make demo` and `make test` set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help setup demo loop-demo serve docs reference lint format conformance test test-unit test-integration test-full test-gpu bench requirements clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY) ## Install everything, pinned, into .venv.

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(READY) ## Run the whole loop on real speech and serve the result.
	$(BIN)/python -m training demo

loop-demo: $(READY) ## Correct a running service, retrain on the corrections, and see it answer better.
	$(BIN)/python -m training loop-demo

serve: $(READY) ## Serve the production version at http://127.0.0.1:8000.
	$(BIN)/python -m service

COG := $(BIN)/cog -I . -I docs/reference
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

docs: reference ## Build the documentation's site into runs/site.
	$(MKDOCS) build --strict
	@echo "runs/site/index.html"

reference: $(READY) ## Write what the reference pages take from the program.
	$(COG) -r docs/reference/*.md

lint: $(READY) ## Check style, types, the import rule, and that the documentation is true to the program.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(COG) --check docs/reference/*.md
	$(MKDOCS) build --strict # not --quiet, which counts no warning

format: $(READY) ## Mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

URL ?= http://127.0.0.1:8000/v1
conformance: $(READY) ## Run the conformance suite against a server (URL=...), and write docs/conformance.md.
	$(BIN)/python -m tests.conformance --base-url $(URL) --upload-limit 100000000 --name Whisperloop \
		--json runs/conformance.json --markdown docs/conformance.md

test: test-unit test-integration ## Run the unit and the integration tier.

test-unit: $(READY) ## No weights, no network; five minutes on two cores.
	$(BIN)/python -m pytest -n auto -q tests/unit

test-integration: $(READY) ## The real base model, real speech, a real server.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q --durations=5 -m "not full" tests/integration

bench: $(READY) ## Measure beside the peers (half an hour; the demonstration first, if there is no version yet).
	$(BIN)/python -m benchmarks run

test-full: test demo ## Everything, what takes minutes and the demonstration included.
	$(BIN)/python -m pytest -q -s --durations=5 -m full tests/integration

test-gpu: $(READY) ## What only a GPU can show; skipped where there is none.
	$(BIN)/python -m pytest -q -s -m gpu tests/integration

requirements: $(READY) ## Pin what is installed now, without addresses; GPU wheels only where they exist.
	$(BIN)/pip freeze --exclude-editable | sed -E \
		-e "s/^((nvidia|cuda|triton)[^=]*==.*)$$/\1 ; sys_platform == 'linux' and platform_machine == 'x86_64'/" \
		-e "s/^(silero.vad.lite==.*)$$/\1 ; sys_platform != 'linux' or platform_machine == 'x86_64'/" > requirements.txt

clean: ## Remove the environment and everything that runs left behind.
	rm -rf .venv runs
