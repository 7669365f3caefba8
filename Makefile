# Everything runs in .venv at the root; nothing needs root. The first run installs, later ones start at once.
#   make demo    the wheel on real digits, offline
#   make test    checks, then the whole suite
#   make check   ruff, mypy, the import contract, requirements.txt
#   make bench   Everlearn beside its peers, ratios printed
#   make docs    the documentation, into site/
#   make soak    the full matrix of kills (long)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs soak requirements commands settings pictures clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary --quiet --no-input
export PIP_NO_INPUT := 1

# The first of these that is 3.11 or newer; `make PYTHON=/path/to/python demo` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done)

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Everlearn needs Python 3.11 or newer; python3 here is: $$(python3 --version 2>&1)." \
		"Install one, or name it: make PYTHON=/path/to/python3.11 demo" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Everlearn needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "No virtual environment could be made; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

# One stamp for each set of extras, redone when pyproject.toml changes.
$(VENV)/.installed-core: pyproject.toml | $(BIN)/python
	@echo "Installing Everlearn into $(VENV) ..." >&2
	@$(PIP) -e . </dev/null
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing Everlearn with [$*] into $(VENV) ..." >&2
	@$(PIP) -e '.[$*]' </dev/null
	@touch $@

demo: $(VENV)/.installed-core
	$(BIN)/everlearn demo

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/make_requirements.py --check

test: check
	$(BIN)/pytest

soak: $(VENV)/.installed-test
	$(BIN)/pytest -m soak --timeout=3600

# make bench DATA="PHOTOS FILE.npz" names the image folders to measure on; the others make their own data.
DATA ?= $(wildcard ../shared/data/sign_digits ../shared/data/mnist.npz)
bench: $(VENV)/.installed-bench
	@set -e; for script in benchmarks/*.py; do \
		case $$script in \
			*accuracy.py|*class_incremental.py) given="$(DATA)";; \
			*cleanvision.py|*prequential_images.py) given="$(filter-out %.npz,$(DATA))";; \
			*) echo "== $$script"; $(BIN)/python $$script; continue;; \
		esac; \
		echo "== $$script $$given"; \
		if [ -n "$$given" ]; then $(BIN)/python $$script $$given; else echo 'skipped: name data with make bench DATA="…"'; fi; \
	done

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict --quiet

requirements: $(BIN)/python
	$(BIN)/python scripts/make_requirements.py

commands: $(VENV)/.installed-core
	$(BIN)/python scripts/make_commands.py

settings: $(VENV)/.installed-core
	$(BIN)/python scripts/make_settings.py

pictures: $(VENV)/.installed-core
	$(BIN)/python scripts/make_pictures.py

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
