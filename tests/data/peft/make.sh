#!/usr/bin/env bash
# Makes the PEFT cases anew, in a virtual environment with the pinned torch, transformers and peft
# (some gigabytes, once). Takes a minute. Exit 77: see client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../clients/client_venv.sh
source "$here/../../clients/client_venv.sh"
make_venv peft "$here/requirements.txt"
HF_HUB_OFFLINE=1 PYTHONHASHSEED=0 "$venv/bin/python" "$here/make_cases.py" "$@"
