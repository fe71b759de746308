#!/usr/bin/env bash
# Two images, one after the other, through the real container under `sam local start-lambda`: what the caller waits
# for, what Lambda's emulator reports of each invocation, and the most memory that the container held.
# usage: container.sh FIRST_IMAGE SECOND_IMAGE   (within tests/e2e/with_docker.sh; see `make bench-container`)
set -euo pipefail
(($# == 2)) || { echo "usage: $0 FIRST_IMAGE SECOND_IMAGE" >&2; exit 2; }
images=("$(realpath "$1")" "$(realpath "$2")")
cd "$(dirname "$0")/.."

export PATH="$PWD/.venv/bin:$PWD/.venv-sam/bin:$PATH"
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=eu-central-1
export AWS_MAX_ATTEMPTS=1 SAM_CLI_TELEMETRY=0 DOCKER_BUILDKIT=0
readonly BUCKET=cytomask-input-000000000000-eu-central-1
logs=$(mktemp --directory)
trap 'kill -INT "${started[@]}" 2>/dev/null || true; wait || true; rm -rf "$logs"' EXIT

# usage: leave_running NAME SENTENCE COMMAND...   until it prints the sentence; its output is in the log of this name
leave_running() {
    local name=$1 sentence=$2
    shift 2
    env --default-signal=INT setsid "$@" >"$logs/$name" 2>&1 &
    started+=($!)
    for ((waited = 0; waited < 600; waited++)); do
        ! grep -q "$sentence" "$logs/$name" || return 0
        kill -0 $! || break
        sleep 0.2
    done
    cat "$logs/$name" >&2
    exit 1
}

sam build --parameter-overrides BaseImage=local/lambda-python:3.13 >"$logs/build" 2>&1 || { cat "$logs/build" >&2; exit 1; }
leave_running account '^ready' python tests/e2e/account.py
leave_running lambda 'Press CTRL+C' sam local start-lambda --warm-containers LAZY \
    --env-vars .aws-sam/environment.json --skip-pull-image

for place in 0 1; do
    curl --fail --silent --show-error --upload-file "${images[place]}" "http://172.17.0.1:4566/$BUCKET/bench/$place.tif"
    curl --fail --silent --show-error --output "$logs/answer" --write-out "invocation $((place + 1)): %{time_total} s for the caller\n" \
        --data "{\"image\": \"s3://$BUCKET/bench/$place.tif\"}" \
        http://127.0.0.1:3001/2015-03-31/functions/SegmentFunction/invocations
    python -c 'import json, sys; [result] = json.load(sys.stdin); print(
        result["status"], "cold start" if result["cold_start"] else "warm", result["timings_ms"])' <"$logs/answer"
done
grep --text --only-matching 'REPORT RequestId.*' "$logs/lambda"
container=$(docker ps --quiet --filter ancestor=segmentfunction:segment --filter ancestor=segmentfunction:rapid-x86_64 | head -n 1)
docker exec "$container" sh -c \
    'cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes' |
    awk '{printf "at most %.0f MB in the container\n", $1 / 1e6}'
