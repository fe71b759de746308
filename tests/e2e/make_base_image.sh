#!/usr/bin/env bash
# Builds a substitute for AWS's Lambda base image from this machine's Python, for machines that cannot pull images.
# BASE_PYTHON sets the version; the default is 3.13.
# usage: make_base_image.sh TAG RUNTIME_INTERFACE_EMULATOR
# The emulator comes with the aws-sam-cli wheel: samcli/local/rapid/aws-lambda-rie-x86_64.
set -euo pipefail

readonly VERSION=${BASE_PYTHON:-3.13}
readonly AWSLAMBDARIC=awslambdaric==4.2.2
readonly LIBRARIES=usr/lib/x86_64-linux-gnu
# Programs that sam's own layer, a Dockerfile's RUN and AWS's entry point call. AWS's image has more.
readonly PROGRAMS=(bash cat chmod cp du env id ln ls mkdir mv rm sh)
# Libraries that wheels still name although glibc 2.34 merged them into libc, or that are opened by name only.
readonly OPENED_BY_NAME=(
    libdl.so.2 libgcc_s.so.1 libm.so.6 libnss_dns.so.2 libnss_files.so.2 libpthread.so.0
    libresolv.so.2 librt.so.1 libstdc++.so.6 libutil.so.1
)

main() {
    local tag=$1 emulator=$2
    if docker image inspect "$tag" >/dev/null 2>&1; then
        echo "$tag is there"
        return
    fi
    local python prefix
    python=$("$(dirname "$0")/find_python.sh")
    prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
    root=$(mktemp --directory)
    trap 'rm -rf "$root"' EXIT

    add_python "$python" "$prefix"
    add_programs
    add_runtime "$python" "$emulator"
    add_libraries "$prefix"
    add_system_files
    tar --directory "$root" --create . | docker import \
        --change "ENV PATH=$prefix/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8" \
        --change "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" \
        --change "ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime" \
        --change "WORKDIR /var/task" \
        --change 'ENTRYPOINT ["/lambda-entrypoint.sh"]' \
        - "$tag" >/dev/null
    echo "$tag is made of $python"
}

# Copies the interpreter, its standard library and pip to the path they were built for.
add_python() {
    local python=$1 prefix=$2 packages
    packages=$prefix/lib/python$VERSION/site-packages
    mkdir -p "$root$prefix" "$root$packages"
    tar --directory "$prefix" --create \
        --exclude=__pycache__ --exclude='*.a' --exclude=./include --exclude=./share \
        --exclude="./lib/python$VERSION/test" --exclude="./lib/python$VERSION/idlelib" \
        --exclude="./lib/python$VERSION/site-packages/*" . | tar --directory "$root$prefix" --extract
    cp --archive "$packages"/pip "$packages"/pip-*.dist-info "$root$packages"
    mkdir -p "$root/usr/bin"
    ln --symbolic "$prefix/bin/python$VERSION" "$root/usr/bin/python3"
    ln --symbolic --force "python$VERSION" "$root$prefix/bin/python"
}

add_programs() {
    local program
    for program in "${PROGRAMS[@]}"; do
        install -D "$(readlink --canonicalize "$(command -v "$program")")" "$root/usr/bin/$program"
    done
    ln --symbolic usr/bin "$root/bin"
}

# Adds Lambda's runtime client, and the emulator that stands in for Lambda.
add_runtime() {
    local python=$1 emulator=$2
    install -D "$emulator" "$root/usr/local/bin/aws-lambda-rie"
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --target "$root/var/runtime" "$AWSLAMBDARIC"
    cat >"$root/var/runtime/bootstrap" <<'BOOTSTRAP'
#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:/opt/python${PYTHONPATH:+:$PYTHONPATH}:$LAMBDA_RUNTIME_DIR"
exec python3 -m awslambdaric "$_HANDLER"
BOOTSTRAP
    cat >"$root/lambda-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
export _HANDLER="${1:?the first argument is the handler}"
if [ -z "$AWS_LAMBDA_RUNTIME_API" ]; then
    exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
fi
exec /var/runtime/bootstrap
ENTRYPOINT
    chmod +x "$root/var/runtime/bootstrap" "$root/lambda-entrypoint.sh"
}

# Copies every shared library that the files so far need.
add_libraries() {
    local prefix=$1 library
    mkdir -p "$root/$LIBRARIES" "$root/lib64"
    # ldd fails on scripts.
    { find "$root" -type f \( -name '*.so*' -o -path '*/bin/*' \) -exec ldd {} + 2>/dev/null || true; } |
        awk '$3 ~ "^/" {print $3}' | sort --unique |
        while read -r library; do
            [[ $library == "$root"* || $library == "$prefix"* ]] || cp --dereference "$library" "$root/$LIBRARIES/"
        done
    for library in "${OPENED_BY_NAME[@]}"; do
        cp --dereference --no-clobber "/$LIBRARIES/$library" "$root/$LIBRARIES/"
    done
    cp --dereference /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
    ln --symbolic usr/lib "$root/lib"
}

add_system_files() {
    mkdir -p "$root"/{dev,etc/ssl/certs,opt,proc,root,sys,tmp,var/task}
    chmod 1777 "$root/tmp"
    chmod 755 "$root"
    # This machine's certificate authorities: a proxy's among them lets pip work inside a build.
    cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
}

main "${1:?usage: $0 TAG RUNTIME_INTERFACE_EMULATOR}" "${2:?usage: $0 TAG RUNTIME_INTERFACE_EMULATOR}"
