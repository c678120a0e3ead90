#!/usr/bin/env bash
# Usage: run_http_client.sh NAME SCRIPT URL [ARGUMENT...] < PROMPT
#
# Runs SCRIPT of this folder with what NAME-requirements.txt pins, in a virtual environment of
# its own, against a server that is already there. NAMEs: lorax-0.6, lorax-0.5, openai.
# Exit 77: see client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
script=$here/$2
make_venv "$1" "$here/$1-requirements.txt"
shift 2
"$venv/bin/python" "$script" "$@"
