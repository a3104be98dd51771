# `make demo` and `make test` need Python 3.10 or newer and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check pytest browser configuration clean

demo: $(STAMP)
	$(BIN)/equipoise demo --overwrite

test: check browser pytest

# One process per processor, each with one thread; the tests of a class or a module stay together.
pytest: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadscope

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# The reference of the training configuration, from its schema.
configuration: $(STAMP)
	$(BIN)/python -m equipoise.training.reference > docs/configuration.md

# The report is tested in Chromium. If it cannot be installed, those tests are skipped.
browser:
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
	  (timeout 30 apt-get -qq update; timeout 120 apt-get -qq install -y --no-install-recommends \
	  chromium) > /dev/null 2>&1; } || echo "no Chromium: its tests are skipped"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip>=25.1'  # the first version with --group
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	touch $(STAMP)

clean:
	rm -rf .venv demo
