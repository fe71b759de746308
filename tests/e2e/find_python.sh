#!/usr/bin/env bash
# Prints the path of a Python of Lambda's version that has pip and is not the distribution's own.
# Set BASE_PYTHON for another version.
# usage: find_python.sh
set -euo pipefail

readonly VERSION=${BASE_PYTHON:-3.13}

for candidate in "$(command -v python$VERSION)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$VERSION".*/bin/python$VERSION; do
    # A pyenv shim may lead nowhere, so run it. A distribution's Python is spread over /usr and cannot be copied.
    if "$candidate" -c 'import pip, sys; sys.exit(sys.base_prefix == "/usr")' 2>/dev/null; then
        echo "$candidate"
        exit
    fi
done
echo "no Python $VERSION with pip on PATH or in pyenv, and Lambda runs that version (one in /usr cannot be used);" \
    "install it, for example with \`pyenv install $VERSION\`" >&2
exit 1
