#!/usr/bin/env bash
# Usage: run_s3_server.sh BUCKET PREFIX FOLDER
#
# Runs s3_server.py in a virtual environment of its own with the pinned moto. Exit 77: see
# client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
make_venv s3 "$here/s3-requirements.txt"
exec "$venv/bin/python" "$here/s3_server.py" "$@"
