#!/usr/bin/env bash
# Make .venv with a pip in it, also where Debian's python3-venv is not installed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python=$(find_python)
say "virtual environment: .venv, $("$python" -V)"
rm -rf "$venv"

# The Makefile reads it: an environment holds absolute paths and does not survive a move of the checkout.
record_place() { echo "$repository" >"$venv/.made-in"; }

if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv "$venv" >/dev/null 2>&1; then
    record_place
    exit 0
fi

# Debian ships ensurepip and its wheel apart from Python. The wheel alone is enough: pip runs from it.
rm -rf "$venv"
"$python" -m venv --without-pip "$venv" ||
    fail "$python cannot make a virtual environment" "$(as_root)apt-get install -y python3-venv"
wheels() { find "$tools/root/usr/share/python-wheels" /usr/share/python-wheels -name 'pip-*.whl' 2>/dev/null || true; }
if [ -z "$(wheels)" ]; then
    "$repository/deploy/setup/debian-download.sh" python3-pip-whl
fi
wheel=$(wheels | head -n 1)
[ -n "$wheel" ] || fail "Debian's python3-pip-whl holds no pip wheel" "$(as_root)apt-get install -y python3-venv"
quietly "$tools/pip.log" "$venv/bin/python" "$wheel/pip" install --quiet --no-index "$wheel" ||
    fail "pip could not install itself from $wheel (log above)" "$(as_root)apt-get install -y python3-venv"
record_place
