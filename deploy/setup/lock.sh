#!/usr/bin/env bash
# lock.sh [PIP-COMPILE OPTION...]: write requirements.lock (what runs) and requirements-dev.lock (that, and what
# checks it) from pyproject.toml. Versions already locked stay unless pyproject.toml excludes them; --upgrade or
# --upgrade-package NAME moves them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PIP_TOOLS_VERSION=7.6.2

compiler=$tools/lock
if [ ! -x "$compiler/bin/pip-compile" ]; then
    say "pip-tools $PIP_TOOLS_VERSION in .tools/lock"
    "$venv/bin/python" -m venv --without-pip "$compiler"
    quietly "$tools/pip.log" "$venv/bin/python" -m pip --python "$compiler/bin/python" install pip "pip-tools==$PIP_TOOLS_VERSION" ||
        fail "pip could not install pip-tools (log above)"
fi

# requirements EXPRESSION: one line for each of the requirements that pyproject.toml holds there.
requirements() {
    "$venv/bin/python" -c "import sys, tomllib; p = tomllib.load(sys.stdin.buffer); print(*$1, sep='\n')" <pyproject.toml
}

# compile OUTPUT OPTION...: requirements on standard input. No name of an index or host gets into the file.
compile() {
    local output=$1
    shift
    say "$output"
    quietly "$tools/lock.log" "$compiler/bin/pip-compile" --quiet --generate-hashes --strip-extras --allow-unsafe \
        --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        --output-file "$output" "$@" - || fail "pip-compile could not resolve $output (log above)"
    # Where a requirement came from: pip-compile knows it only as its standard input.
    sed -i -e 's/^\(  *# via\) -r -$/\1 pyproject.toml/' -e 's/^\(  *#  *\)-r -$/\1pyproject.toml/' "$output"
}

requirements "p['project']['dependencies']" | compile requirements.lock "$@"
requirements "p['project']['dependencies'] + p['dependency-groups']['dev']" |
    compile requirements-dev.lock --constraint requirements.lock "$@"
