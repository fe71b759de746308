# Every target installs what it needs. The machine must offer only make and Python 3.11 or newer.
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

# One process per core; each file stays in one process, so that its fixtures are made once. Files begin in the
# order of tests/conftest.py.
PYTEST := $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# Python 3.12 and later count lines nearly for free (PEP 669).
export COVERAGE_CORE := $(shell $(PYTHON) -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')

SAM := .venv-sam
AUDIT := .venv-audit
DOCS := .venv-docs

# Some machines turn Python's bytecode cache off; every test process would then compile its plugins anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-slow browser lint lint-js audit docs lock tools e2e image-size bench bench-queue bench-container \
	storm explore train evaluate export deploy destroy picture clean

help:  ## show this list
	@echo "make TARGET [VARIABLE=value]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/local  ## segment images through the emulated stack; IMAGE=my.tif or IMAGE=folder for your own
	$(BIN)/cytomask demo $(if $(IMAGE),"$(IMAGE)")

test: $(VENV)/dev  ## run the unit and functional tests, except the slow ones; ARGS="-k name" for some
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/dev  ## run the slow tests (kills, storms, several processes), and each property at length
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=ci $(ARGS)

lint: $(VENV)/dev  ## check format, lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	for tests in unit functional e2e browser; do \
		MYPYPATH=.:tests:tests/$$tests:tests/unit/images:tests/functional/faults $(BIN)/mypy tests/$$tests || exit; done
	rm -rf build/imports && mkdir -p build/imports && cp -rL layers/cytomask/cytomask build/imports
	PYTHONPATH=build/imports $(BIN)/lint-imports --no-logo

lint-js:  ## check the types of the page's modules with TypeScript; needs npm
	npm install --silent --no-save --prefix build/node typescript@5.9.3
	build/node/node_modules/.bin/tsc --project web

browser: $(VENV)/dev  ## test the page in Chromium (CHROMIUM=path; apt-get install chromium)
	$(PYTEST) tests/browser

audit: $(AUDIT)/ready  ## check the template and the Dockerfiles with checkov; each skipped rule states its reason
	$(AUDIT)/bin/checkov --file template.yaml functions/segment/Dockerfile training/Dockerfile \
		--framework cloudformation dockerfile --compact --quiet --skip-download

docs: $(DOCS)/ready  ## build the docs' site into build/site; a broken link fails
	$(DOCS)/bin/python infra/site.py build/site-source
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

lock: $(VENV)/dev  ## rewrite the hashed requirements of image and layer; run it after changing a dependency
	$(BIN)/python -m cytomask.infra.lock

tools: $(VENV)/dev $(SAM)/ready  ## install what docs/local-testing.md needs, except Docker

e2e: tools  ## test sam build, sam local, sam deploy and the real container; needs Docker, or root on Debian
	tests/e2e/with_docker.sh $(BIN)/pytest tests/e2e

image-size: tools  ## compare the container image's layers with their budget
	tests/e2e/with_docker.sh tests/e2e/image_size.sh

deploy: $(SAM)/ready  ## build the stack and deploy it to your AWS account; BUILD= and ARGS= for sam build and deploy
	$(SAM)/bin/sam build $(BUILD)
	$(SAM)/bin/sam deploy $(ARGS)

destroy: $(VENV)/local  ## remove a stack and all it holds, after asking; set STACK, ARGS=--keep-table
	$(BIN)/python -m cytomask.infra.destroy $(if $(STACK),"$(STACK)",cytomask) $(ARGS)

bench: $(VENV)/dev  ## compare serving with the reference; DATA=folder adds IoU, OPENVINO=python adds OpenVINO
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)") $(if $(OPENVINO),--openvino "$(OPENVINO)") $(ARGS)

bench-queue: $(VENV)/dev  ## send a backlog through the emulated stack; IMAGES=1000
	$(BIN)/python -m benchmarks.queue $(if $(IMAGES),--images $(IMAGES)) $(ARGS)

bench-container: tools  ## time a cold and a warm call in the real container; FIRST=a.tif SECOND=b.tif
	tests/e2e/with_docker.sh benchmarks/container.sh "$(FIRST)" "$(SECOND)"

storm: $(VENV)/dev  ## upload amid faults, kills and duplicates, then count what is left; IMAGES=10000 BACKFILLED=0.5
	$(BIN)/python -m benchmarks.storm $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(BACKFILLED),--backfilled $(BACKFILLED))

explore: $(VENV)/dev  ## describe a data set in one HTML file; DATA=folder ROWS="livecell/train …" OUT=report.html
	$(BIN)/python -m cytomask.training.explore $(ROWS) --data "$(DATA)" --out "$(OUT)"

train: $(VENV)/dev  ## train a network; CONFIG=training/configs/swin_unet.yaml DATA=folder OUT=folder
	$(BIN)/python -m cytomask.training.train "$(CONFIG)" --data "$(DATA)" --out "$(OUT)" --resume $(ARGS)

evaluate: $(VENV)/dev  ## score the served weights; DATA=folder ROWS="livecell_fields/val somata:sartorius/val …" OUT=folder
	$(BIN)/python -m cytomask.training.evaluate $(ROWS) --data "$(DATA)" $(if $(OUT),--out "$(OUT)") $(ARGS)

export: $(VENV)/dev  ## serve a checkpoint if it scores no lower; CHECKPOINT= NAME= DATA= ROWS= ARGS=
	$(BIN)/python -m cytomask.training.promote "$(CHECKPOINT)" $(ROWS) --data "$(DATA)" --name "$(NAME)" $(ARGS)

picture: $(VENV)/local  ## draw the README's picture again
	$(BIN)/python docs/picture.py

clean:  ## delete everything that make has made
	rm -rf $(VENV) $(SAM) $(AUDIT) $(DOCS) .aws-sam build out masks

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,web]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,web,train,microscopes,dev]'
	touch $@ $(VENV)/local

$(SAM)/ready: tests/e2e/requirements.txt
	$(PYTHON) -m venv $(SAM)
	$(SAM)/bin/pip install --quiet --requirement $<
	touch $@

$(DOCS)/ready: infra/site-requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement $<
	touch $@

$(AUDIT)/ready: infra/audit-requirements.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --requirement $<
	touch $@
