#!/usr/bin/env bash
# Runs a command with a Docker engine, the base image, and the Python for zip functions on its PATH. Stops the engine
# afterwards if it was not running before.
# usage: with_docker.sh COMMAND...
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$(tests/e2e/find_python.sh)
PATH=$(dirname "$python"):$PATH
export PATH

docker version >/dev/null 2>&1 || trap 'tests/e2e/docker_engine.sh stop' EXIT
tests/e2e/docker_engine.sh start
tests/e2e/make_base_image.sh local/lambda-python:3.13 \
    .venv-sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64
"$@"
