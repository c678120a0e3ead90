#!/bin/sh
# Usage: run_python_client.sh HOST:PORT ADAPTER_ID < PROMPT
#
# Makes stubs from proto/lorica/v1 with grpcio-tools, in a virtual environment of its own
# with pinned versions, and runs python_client.py against a server that is already there.
# Exit 77 when the environment cannot be made (no python3-venv, no network): not a failure
# of ours, but nothing was tested.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lorica/python-client"
python3=${PYTHON3:-python3}

if ! cmp -s "$here/requirements.txt" "$venv/made-from.txt"; then
  echo "making $venv" >&2
  rm -rf "$venv"
  "$python3" -m venv "$venv" >&2 &&
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2 &&
    cp "$here/requirements.txt" "$venv/made-from.txt" ||
    { echo "cannot make a Python environment with grpcio: skipped" >&2; exit 77; }
fi

stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT
"$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" --python_out="$stubs" \
  --grpc_python_out="$stubs" "$root"/proto/lorica/v1/*.proto
"$venv/bin/python" "$here/python_client.py" "$stubs" "$@"
