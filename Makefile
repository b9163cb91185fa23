# Everything sets itself up: the first `make demo` or `make test` builds .venv, later ones are fast.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Many tests wait, so that there is work for more processes than cores.
PYTEST := "$(BIN)/python" -m pytest -n 4 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-long coverage lint format bench bench-check bench-record lock \
	clean package tools

help: ## List what can be made
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv], where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-16s%s\n' "$$name" "$$text"; done

demo: package ## Watch the proxy on a simulated cluster; no root, no cluster
	@"$(BIN)/kproxy" demo

test: tools ## Run the tests: some minutes
	$(PYTEST)

test-all: test ## Run the tests, and those that `make test` leaves out: everything but soaks
	$(PYTEST) -m "extra and not long"

test-long: tools ## Run the soaks, the sizes that take minutes, and a data plane in another process
	$(PYTEST) -o faulthandler_timeout=7200 --hypothesis-profile new-examples -m long
	$(PYTEST) --plane process tests/reconcile tests/convergence tests/ops tests/test_server.py tests/e2e

coverage: tools ## Run the tests, and show which lines they do not reach
	"$(BIN)/coverage" erase
	"$(BIN)/coverage" run -m pytest
	"$(BIN)/coverage" combine -q
	"$(BIN)/coverage" report

lint: tools ## Check style, types and architecture
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-logo

format: tools ## Let ruff put the code in shape
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

bench: tools ## Measure what a userspace proxy costs here: 90 seconds, a table, and build/bench.html
	@mkdir -p build
	"$(BIN)/python" -m kproxy bench --quick --json build/bench.json --html build/bench.html

bench-check: tools ## Ask whether kproxy has fallen behind its peers since the run in benchmarks/results
	"$(BIN)/python" -m benchmarks.check

bench-record: RECORD := benchmarks/results/$(shell date +%F)
bench-record: tools ## Record runs in benchmarks/results: as root, on a quiet machine, 25 minutes
	"$(BIN)/python" -m kproxy bench --quick --json benchmarks/results/quick.json
	"$(BIN)/python" -m kproxy bench --kernel --json $(RECORD).json --html $(RECORD).html

lock: ## Pin the newest versions that pyproject.toml allows, in constraints.txt
	rm -rf "$(VENV)/lock" && $(PYTHON) -m venv "$(VENV)/lock"
	"$(VENV)/lock/bin/python" -m pip install --quiet -e '.[dev]'
	"$(VENV)/lock/bin/python" -m pip freeze --exclude-editable > constraints.txt
	rm -rf "$(VENV)/lock"

clean: ## Remove what was made
	rm -rf "$(VENV)" build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

package:
	@.ci/install "$(VENV)" "$(PYTHON)" package

tools:
	@.ci/install "$(VENV)" "$(PYTHON)" tools
