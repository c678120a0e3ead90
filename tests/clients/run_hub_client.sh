#!/bin/sh
# Usage: run_hub_client.sh ENDPOINT REPO REVISION CACHE_DIR
#
# Runs hub_client.py in a virtual environment of its own with the pinned huggingface_hub.
# Exit 77 when the environment cannot be made (no python3-venv, no network): not a failure
# of ours, but nothing was tested.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lorica/hub-client"
python3=${PYTHON3:-python3}

if ! cmp -s "$here/hub-requirements.txt" "$venv/made-from.txt"; then
  echo "making $venv" >&2
  rm -rf "$venv"
  "$python3" -m venv "$venv" >&2 &&
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/hub-requirements.txt" >&2 &&
    cp "$here/hub-requirements.txt" "$venv/made-from.txt" ||
    { echo "cannot make a Python environment with huggingface_hub: skipped" >&2; exit 77; }
fi
"$venv/bin/python" "$here/hub_client.py" "$@"
