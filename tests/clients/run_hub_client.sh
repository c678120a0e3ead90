#!/usr/bin/env bash
# Usage: run_hub_client.sh ENDPOINT REPO REVISION CACHE_DIR
#
# Runs hub_client.py in a virtual environment of its own with the pinned huggingface_hub.
# Exit 77: see client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
make_venv hub "$here/hub-requirements.txt"
"$venv/bin/python" "$here/hub_client.py" "$@"
