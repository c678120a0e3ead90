#!/usr/bin/env bash
# Usage: run_python_client.sh HOST:PORT ADAPTER_ID < PROMPT
#
# Makes stubs from proto/lorica/v1 with grpcio-tools, in a virtual environment of its own
# with pinned versions, and runs python_client.py against a server that is already there.
# Exit 77: see client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
root=$(cd "$here/../.." && pwd)
make_venv python "$here/requirements.txt"

stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT
"$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" --python_out="$stubs" \
  --grpc_python_out="$stubs" "$root"/proto/lorica/v1/*.proto
"$venv/bin/python" "$here/python_client.py" "$stubs" "$@"
