# shellcheck shell=bash
# Sourced by the scripts beside it. make_venv NAME REQUIREMENTS sets $venv to a virtual environment
# of that name with what the file pins, made where it is not there yet or the file has changed.
# Exits 77 when it cannot be made (no python3-venv, no network): not a failure of ours, but nothing
# was tested.
set -euo pipefail

make_venv() {
  venv="${XDG_CACHE_HOME:-$HOME/.cache}/lorica/$1-client"
  if cmp -s "$2" "$venv/made-from.txt"; then return; fi
  echo "making $venv" >&2
  rm -rf "$venv"
  "${PYTHON3:-python3}" -m venv "$venv" >&2 &&
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$2" >&2 &&
    cp "$2" "$venv/made-from.txt" ||
    { echo "cannot make a Python environment for $2: skipped" >&2; exit 77; }
}
