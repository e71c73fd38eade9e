# The project's commands. Each installs what it needs first.
PYTHON ?= python3
export PYTHON
# What one process compiled is kept for the next: each part of a stack would take half a second of CPU more to start.
unexport PYTHONDONTWRITEBYTECODE
# Behind a proxy too, the parts of a stack find each other: they are on this machine.
export no_proxy := $(or $(no_proxy),$(NO_PROXY),::1),127.0.0.1,localhost
export NO_PROXY := $(no_proxy)
RUN := .venv/bin/python
# A file at a time to each process: what a file's tests share is started once. In the order of tests/conftest.py.
PARALLEL = -n $(or $(PROCESSES),auto) --dist loadfile --no-loadscope-reorder

.PHONY: demo test check run web chaos bench waterfall cost scale measure usage token setup packages unit lint audit format docs lock clean

demo: setup            ## stream an answer, leave and come back, on the local stack
	@$(RUN) -m local.demo

test: setup            ## lint, types and all tests
	@$(MAKE) --no-print-directory --jobs lint audit packages
	$(RUN) -m pytest $(PARALLEL)

check: setup           ## lint, types and unit tests, in a minute: before each commit
	@$(MAKE) --no-print-directory --jobs lint unit

run: setup             ## the local stack in the foreground, until Ctrl-C: STRICT=1 as strict as Google Cloud
	@HOLDFAST_STRICT=$(STRICT) exec $(RUN) -m local.stack

web: setup             ## the web examples, with their own local stack or that of make run
	@./local/setup.sh web
	@exec $(RUN) -m local.web

chaos: setup           ## break every part while answers stream: make chaos ROUNDS=20 SEED=7 LANES=2
	@$(RUN) -m chaos --rounds $(or $(ROUNDS),3) $(if $(SEED),--seed $(SEED)) $(if $(LANES),--lanes $(LANES))

bench: setup           ## measure against peers: make bench QUICK=1, ONLY=lag,cost, ROUNDS=5
	@./local/setup.sh bench
	@$(RUN) -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))
	@$(if $(QUICK)$(ONLY),:,$(RUN) -m scale)

waterfall: setup       ## draw where a start's time goes: writes docs/performance.md and docs/waterfall.svg
	@$(RUN) -m bench.waterfall

cost: setup            ## count an answer's operations and their price: writes docs/cost.md and docs/cost.svg
	@$(RUN) -m cost
	@$(RUN) -m scale

scale: setup           ## compute how it scales from what cost and bench measured: writes docs/scale.md and docs/scale.svg
	@$(RUN) -m scale

measure: setup         ## measure Firestore and Cloud Tasks in your project: make measure PROJECT=p LOCATION=us-central1
	@exec $(RUN) -m operations.measure $(if $(PROJECT),--project "$(PROJECT)") $(if $(DATABASE),--database "$(DATABASE)") \
		$(if $(LOCATION),--location "$(LOCATION)") $(if $(QUEUE),--queue "$(QUEUE)") \
		$(if $(RATES),--rates "$(RATES)") $(if $(SECONDS),--seconds "$(SECONDS)")

usage: setup           ## what answers took: make usage PROJECT=p UID=alice, or DAY=2026-11-28
	@exec $(RUN) -m operations.usage $(if $(PROJECT),--project "$(PROJECT)") $(if $(DATABASE),--database "$(DATABASE)") \
		$(if $(UID),--uid "$(UID)") $(if $(DAY),--day "$(DAY)")

token: setup           ## an ID token for the local stack: make token USER=alice
	@$(RUN) -m local.token $(USER)

setup:
	@./local/setup.sh

packages: setup
	@./local/setup.sh tests

unit: setup
	$(RUN) -m pytest tests/unit $(PARALLEL)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/shellcheck -x -a deploy.sh local/*.sh .ci/run

audit: setup           ## ask PyPI for known vulnerabilities in the deployed packages
	@$(RUN) -m operations.audit

format: setup
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

docs: setup            ## write the table of settings from lib/runtime/settings.py
	$(RUN) -m operations.settings_table

lock: setup            ## compile the lock files from the .in files
	for name in requirements requirements-dev requirements-clients requirements-java; do \
		.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--custom-compile-command "make lock" $$name.in -o $$name.txt; \
	done

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/e2e/*/node_modules bench/node/node_modules \
		clients/js/node_modules examples/*/node_modules examples/*/public/app.js examples/*/public/app.js.map build
