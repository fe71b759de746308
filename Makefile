# Each target makes what it needs; nothing but Python 3.11 and make is expected of the machine.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

SAM := .venv-sam
AUDIT := .venv-audit

.PHONY: run test lint audit lock tools e2e image-size bench bench-queue bench-container storm explore train evaluate export clean

run: $(VENV)/local  ## the whole way of an image through the emulated stack; IMAGE=path.tif for your own
	$(BIN)/cytomask demo $(if $(IMAGE),"$(IMAGE)")

test: $(VENV)/dev  ## unit and functional tests
	$(BIN)/pytest

lint: $(VENV)/dev  ## format, lint, types and the import contract
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	rm -rf build/imports && mkdir -p build/imports && cp -rL layers/cytomask/cytomask build/imports
	PYTHONPATH=build/imports $(BIN)/lint-imports --no-logo

audit: $(AUDIT)/ready  ## template and Dockerfiles against checkov's rules; what is passed over says why, there
	$(AUDIT)/bin/checkov --file template.yaml functions/segment/Dockerfile training/Dockerfile \
		--framework cloudformation dockerfile --compact --quiet --skip-download

lock: $(VENV)/dev  ## the hashes of what the image and the layer install, after a change of their dependencies
	$(BIN)/python -m cytomask.infra.lock

tools: $(VENV)/dev $(SAM)/ready  ## what docs/local-testing.md needs beside Docker: the project's tools, and sam's

e2e: tools  ## sam build, sam local, sam deploy and the real container; needs Docker, or root on Debian
	tests/e2e/with_docker.sh $(BIN)/pytest tests/e2e

image-size: tools  ## the container image's layers, against their budget
	tests/e2e/with_docker.sh tests/e2e/image_size.sh

bench: $(VENV)/dev  ## the serving path against the reference path: DATA=folder for the IoU, OPENVINO=a Python that has it
	$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)") $(if $(OPENVINO),--openvino "$(OPENVINO)") $(ARGS)

bench-queue: $(VENV)/dev  ## a backlog through the emulated stack: IMAGES=1000
	$(BIN)/python -m benchmarks.queue $(if $(IMAGES),--images $(IMAGES)) $(ARGS)

bench-container: tools  ## a first and a second invocation in the real container: FIRST=a.tif SECOND=b.tif
	tests/e2e/with_docker.sh benchmarks/container.sh "$(FIRST)" "$(SECOND)"

storm: $(VENV)/dev  ## faults, kills and duplicates over the emulated stack, then a count of what is left: IMAGES=10000
	$(BIN)/python -m benchmarks.storm $(if $(IMAGES),--images $(IMAGES))

explore: $(VENV)/dev  ## what is in the data: DATA=folder ROWS="livecell/train …" OUT=report.html
	$(BIN)/python -m cytomask.training.explore $(ROWS) --data "$(DATA)" --out "$(OUT)"

train: $(VENV)/dev  ## weights from images: CONFIG=training/configs/swin_unet.yaml DATA=folder OUT=folder
	$(BIN)/python -m cytomask.training.train "$(CONFIG)" --data "$(DATA)" --out "$(OUT)" --resume $(ARGS)

evaluate: $(VENV)/dev  ## scores of the weights that serve: DATA=folder ROWS="livecell_like/val …" OUT=folder
	$(BIN)/python -m cytomask.training.evaluate $(ROWS) --data "$(DATA)" $(if $(OUT),--out "$(OUT)") $(ARGS)

export: $(VENV)/dev  ## make a checkpoint the weights that serve, if no worse: CHECKPOINT= NAME= DATA= ROWS= ARGS=
	$(BIN)/python -m cytomask.training.promote "$(CHECKPOINT)" $(ROWS) --data "$(DATA)" --name "$(NAME)" $(ARGS)

clean:  ## everything that was made
	rm -rf $(VENV) $(SAM) $(AUDIT) .aws-sam out masks

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,train,dev]'
	touch $@ $(VENV)/local

$(SAM)/ready: tests/e2e/requirements.txt
	$(PYTHON) -m venv $(SAM)
	$(SAM)/bin/pip install --quiet --requirement $<
	touch $@

$(AUDIT)/ready: infra/audit-requirements.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --requirement $<
	touch $@
