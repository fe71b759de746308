#!/usr/bin/env bash
# Prints the path of a Python of Lambda's version, with pip and not a distribution's own, or says what to install.
# BASE_PYTHON says another version.
# usage: find_python.sh
set -euo pipefail

readonly VERSION=${BASE_PYTHON:-3.13}

for candidate in "$(command -v python$VERSION)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$VERSION".*/bin/python$VERSION; do
    # pyenv's shims are there even where they lead nowhere; a distribution's own Python is all over /usr.
    if "$candidate" -c 'import pip, sys; sys.exit(sys.base_prefix == "/usr")' 2>/dev/null; then
        echo "$candidate"
        exit
    fi
done
echo "Lambda runs Python $VERSION, and none with pip is on PATH or in pyenv (a distribution's in /usr will not do):" \
    "install it, for example by \`pyenv install $VERSION\`" >&2
exit 1
