#!/bin/sh
# Usage: run_http_client.sh NAME SCRIPT URL [ARGUMENT...] < PROMPT
#
# Runs SCRIPT of this folder with what NAME-requirements.txt pins, in a virtual environment of
# its own, against a server that is already there. NAMEs: lorax-0.6, lorax-0.5, openai.
# Exit 77 when the environment cannot be made (no python3-venv, no network): not a failure
# of ours, but nothing was tested.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/$1-requirements.txt
script=$here/$2
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lorica/$1-client"
python3=${PYTHON3:-python3}
shift 2

if ! cmp -s "$requirements" "$venv/made-from.txt"; then
  echo "making $venv" >&2
  rm -rf "$venv"
  "$python3" -m venv "$venv" >&2 &&
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements" >&2 &&
    cp "$requirements" "$venv/made-from.txt" ||
    { echo "cannot make a Python environment for $requirements: skipped" >&2; exit 77; }
fi
"$venv/bin/python" "$script" "$@"
