# Each target makes what it needs; nothing but Python 3.11 and make is expected of the machine.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint clean

run: $(VENV)/local  ## the whole way of an image through the emulated stack; IMAGE=path.tif for your own
	$(BIN)/cytomask demo $(if $(IMAGE),"$(IMAGE)")

test: $(VENV)/dev  ## unit and functional tests
	$(BIN)/pytest

lint: $(VENV)/dev  ## format, lint, types and the import contract
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:  ## everything that was made
	rm -rf $(VENV) out masks

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,train,dev]'
	touch $@ $(VENV)/local
