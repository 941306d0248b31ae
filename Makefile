# make demo: digits, parent, 1c1 child and its control over three seeds, and their table.
# make test: lint, format, types and the default tests.
# make docs: runs what the pages show, then builds them and the references as a site.
# Both set up what they need: a virtual environment in .venv, with uv where it is present, else venv and pip.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A worker that dies fails its test, and another one takes its place.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal --max-worker-restart 10000

.PHONY: demo test lint slow gpu docs install clean

demo: $(VENV)/.installed
	$(BIN)/morphnet train -m seed=0,1,2

test: lint
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m slow

gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m gpu

docs: $(VENV)/.installed-dev
	$(PYTEST) -m docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

install: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "morphnet needs Python 3.11 or later; $(PYTHON) is older: try make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV) (PyTorch is large: some minutes)"
	@if command -v uv >/dev/null; then \
		uv venv -q --allow-existing --python $(PYTHON) $(VENV) && uv pip install -q --python $(BIN)/python -e .; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check -e .; \
	fi
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@if command -v uv >/dev/null; then \
		uv pip install -q --python $(BIN)/python -e '.[dev]'; \
	else \
		$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
