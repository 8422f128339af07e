#!/usr/bin/env bash
# packages.sh locked | project: install what requirements-dev.lock pins, or the project itself.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Index, proxy and certificates are the machine's business: pip reads its own configuration.
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

# Published as source only. It is built by the locked setuptools: pip would fetch an unlocked one.
source_only=pysyncobj

# install LOCK: no resolving, so nothing that is not in the file; every file must match its hash.
install() {
    quietly "$tools/pip.log" pip install --no-deps --require-hashes --only-binary :all: --no-binary "$source_only" \
        --use-pep517 --no-build-isolation --requirement "$1" ||
        fail "pip could not install the locked packages (log above)" \
            ".venv/bin/python -m pip download --no-deps -d .tools/probe msgspec  # shows whether pip reaches its index"
}

locked() {
    say "$(grep -c '^[a-z].*==' requirements-dev.lock) locked packages, checked by hash"
    mkdir -p "$tools"
    sed -n '/^setuptools==/,/^[^ ]/p' requirements-dev.lock | sed -e '2,${/^[^ ]/d}' >"$tools/setuptools.lock"
    install "$tools/setuptools.lock"
    install requirements-dev.lock
    quietly "$tools/pip.log" pip check || fail "the locked packages contradict each other (above)" "make lock"
}

project() {
    say "isthmus itself, as a link to this checkout: .venv/bin/isthmus"
    quietly "$tools/pip.log" pip install --no-deps --no-index --no-build-isolation --editable . \
        --config-settings editable_mode=compat ||
        fail "the project could not be installed (log above)" "make clean setup"
}

case ${1-} in
    locked) locked ;;
    project) project ;;
    *) fail "packages.sh: argument is '${1-}', expected locked or project" ;;
esac
