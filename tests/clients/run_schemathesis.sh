#!/usr/bin/env bash
# Usage: run_schemathesis.sh URL
#
# Holds a server that is already there against the document that it serves at /openapi.json:
# whatever the document allows and a little of what it does not. What takes adapters away comes
# last: behind it everything else would only be told that there is no such adapter. Exit 77: see
# client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
make_venv schemathesis "$here/schemathesis-requirements.txt"
cd "$(mktemp -d)" # it leaves its examples where it is
trap 'rm -rf "$PWD"' EXIT
takes_away='/(DeleteAdapter|unload_lora_adapter)$'
for which in exclude include; do
  "$venv/bin/st" --config-file "$here/schemathesis.toml" run "$1/openapi.json" \
    --phases examples,coverage,fuzzing --max-examples 8 --seed "${LORICA_SEED:-1}" \
    --continue-on-failure --no-color --warnings off \
    "--$which-path-regex" "$takes_away"
done
