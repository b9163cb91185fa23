# Everything sets itself up: the first `make demo` or `make test` builds .venv, later ones are fast.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test coverage test-long lint format bench bench-check bench-record lock clean

demo: $(STAMP) ## Run the proxy on a sample manifest and show what it does
	@$(BIN)/kproxy demo

test: $(STAMP) ## The default test lane
	$(BIN)/python -m pytest

coverage: $(STAMP) ## The same, and which lines it did not reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

test-long: $(STAMP) ## Soaks and sizes that take minutes
	$(BIN)/python -m pytest -m long

lint: $(STAMP) ## Style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## What a userspace proxy costs here: 90 seconds, a table, and build/bench.html
	@mkdir -p build
	$(BIN)/kproxy bench --quick --json build/bench.json --html build/bench.html

bench-check: $(STAMP) ## Has kproxy fallen behind its peers since the run in benchmarks/results?
	$(BIN)/python -m benchmarks.check

bench-record: RECORD := benchmarks/results/$(shell date +%F)
bench-record: $(STAMP) ## Record runs in benchmarks/results: as root, on a quiet machine, 25 minutes
	$(BIN)/kproxy bench --quick --json benchmarks/results/quick.json
	$(BIN)/kproxy bench --kernel --json $(RECORD).json --html $(RECORD).html

lock: ## Pin the newest versions that pyproject.toml allows
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet -e '.[dev]'
	$(VENV)/lock/bin/pip freeze --exclude-editable > constraints.txt
	rm -rf $(VENV)/lock

clean: ## Remove what was built
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kproxy needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
