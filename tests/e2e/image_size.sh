#!/usr/bin/env bash
# Builds the segment function's image and prints the size of each layer added to the base, in bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."

base=local/lambda-python:3.13
image=$(DOCKER_BUILDKIT=0 docker build --quiet --build-arg "BASE_IMAGE=$base" --file functions/segment/Dockerfile .)
# `docker history` lists the newest layer first; the Dockerfile's last stage has the order.
docker history --human=false --format '{{.Size}} {{.CreatedBy}}' "$image" |
    awk 'BEGIN {split("code weights packages", names); budget = 300000000}
         /COPY/ {added += $1; printf "%12d %s\n", $1, names[++layer]}
         END {printf "%12d added to the base, of %d at most\n", added, budget; exit added > budget}'
