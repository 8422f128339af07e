# Sourced by the other set-up scripts: where we are, how we speak.
# shellcheck shell=bash
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd "$repository"

# shellcheck disable=SC2034  # for those who source this
venv=$repository/.venv
# shellcheck disable=SC2034
tools=$repository/.tools

say() { printf '==> %s\n' "$*"; }

# fail MESSAGE [COMMAND]: say what went wrong and what to type.
fail() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '       type:  %s\n' "$2" >&2; fi
    exit 1
}

# quietly LOG COMMAND...: show the output only when the command fails.
quietly() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        return 1
    fi
}

# The interpreter: PYTHON where the caller sets it, else python3.11, else a python3 that is new enough.
find_python() {
    local candidate candidates=(python3.11 python3)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer (tried: ${candidates[*]})" "$(as_root)apt-get install -y python3.11"
}

# What an error message puts before a command that needs root.
as_root() { [ "$(id -u)" -eq 0 ] || printf "sudo "; }
