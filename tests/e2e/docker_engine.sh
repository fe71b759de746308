#!/usr/bin/env bash
# Finds a Docker engine; as root on Debian, installs and starts one. `stop` stops only an engine that `start` started.
# usage: docker_engine.sh start|stop
set -euo pipefail

readonly PID_FILE=/run/cytomask-dockerd.pid
readonly LOG=/var/log/cytomask-dockerd.log
readonly BRIDGE=172.17.0.1
readonly PATIENCE_SECONDS=30

start() {
    if ! answers; then
        install_engine
        start_engine
    fi
    check_bridge
    docker version --format 'Docker engine {{.Server.Version}}'
}

stop() {
    [[ -f $PID_FILE ]] || return 0
    local pid
    pid=$(<"$PID_FILE")
    # The number in the file may belong to another process by now.
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]]; then
        kill "$pid"
        wait_until "dockerd did not stop; its log is $LOG" stopped "$pid"
    fi
    rm -f "$PID_FILE"
}

answers() {
    docker version >/dev/null 2>&1
}

stopped() {
    ! kill -0 "$1" 2>/dev/null
}

install_engine() {
    command -v dockerd >/dev/null && return
    command -v apt-get >/dev/null || give_up "no Docker engine answers; install one (this script can do it on Debian only)"
    ((EUID == 0)) || give_up "no Docker engine answers; run as root to install docker.io"
    echo "installing Debian's docker.io"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends docker.io iproute2 >/dev/null
}

start_engine() {
    ((EUID == 0)) || give_up "no Docker engine answers; start the installed one, or run as root"
    # A second dockerd would delete the first one's bridge.
    ! pgrep -x dockerd >/dev/null || give_up "dockerd runs but does not answer; see \`docker version\`"
    setsid dockerd --pidfile "$PID_FILE" >"$LOG" 2>&1 </dev/null &
    wait_until "dockerd did not start: $(tail -n 3 "$LOG" 2>/dev/null)" answers
}

# Without the bridge, packets for the containers' host would leave this machine.
check_bridge() {
    ip route get "$BRIDGE" | grep -q ^local ||
        give_up "this machine lacks the address $BRIDGE of Docker's bridge, where the emulated account listens"
}

wait_until() {
    local sentence=$1
    shift
    for ((waited = 0; waited < PATIENCE_SECONDS * 5; waited++)); do
        "$@" && return
        sleep 0.2
    done
    give_up "$sentence"
}

give_up() {
    echo "e2e tests need Docker: $1" >&2
    exit 1
}

case ${1:-} in
    start | stop) "$1" ;;
    *) give_up "usage: $0 start|stop" ;;
esac
