# make demo and make test need Python 3.11, pip and make, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
RELEASE_STAMP := $(VENV)/.installed-release
NT_VENV := .venv-neural-tangents
NT_STAMP := $(NT_VENV)/.installed
TD_FOLDER := .venv-torchdeq
TD_STAMP := $(TD_FOLDER)/.installed
# Two workers with one thread each: they must not compete for two cores.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -q

.PHONY: install demo test test-slow coverage lint format docs bench dist audit clean

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

install: $(STAMP)

# Threads that wait must not spin: on a busy machine that costs a factor of ten.
demo: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python examples/demo.py

test: $(STAMP)
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m slow

# Doctests and all tests, the slow ones too; branches count.
coverage: $(STAMP)
	$(PYTEST) -m "not gpu" --cov --cov-report=term-missing:skip-covered

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell sklearn_deq tests examples benchmarks docs README.md CONTRIBUTING.md

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# The site, in out/site: every example is run, and timed, on one thread: two that wait
# for each other on a busy machine take ten times as long. A warning is an error.
docs: $(DOCS_STAMP)
	$(TEST_ENV) $(BIN)/python -m sphinx -b html -W --keep-going -q docs out/site
	$(BIN)/python docs/check_site.py out/site
	@echo "The site is in out/site/index.html."

$(RELEASE_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[release]"
	touch $@

# Wheel and source archive, checked; `make dist` uploads nothing.
dist: $(RELEASE_STAMP)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# Known vulnerabilities of what is installed, torch's CPU build (+cpu) as the release that
# it is of. What cannot be looked up is an error: an audit that skips is none.
audit: $(RELEASE_STAMP)
	$(BIN)/pip freeze --exclude-editable | sed 's/+.*//' | \
		$(BIN)/pip-audit --strict --disable-pip --no-deps -r /dev/stdin

# neural-tangents needs older jax and numpy: an environment of its own.
$(NT_STAMP): benchmarks/requirements-neural-tangents.txt
	$(PYTHON) -m venv $(NT_VENV)
	$(NT_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# torchdeq is pure Python and runs with the torch that is there: a folder of its own.
$(TD_STAMP): benchmarks/requirements-torchdeq.txt $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(TD_FOLDER) -r $<
	touch $@

bench: $(STAMP) $(NT_STAMP) $(TD_STAMP)
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(NT_VENV) $(TD_FOLDER) out build dist docs/auto_examples docs/generated .pytest_cache .ruff_cache .mypy_cache .hypothesis
