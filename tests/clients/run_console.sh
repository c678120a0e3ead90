#!/usr/bin/env bash
# Usage: run_console.sh URL SCREENSHOTS_DIR [KEY]
#
# Uses the console of a server that is already there, in a headless Chromium (Debian's packages
# chromium and chromium-driver). Exit 77: none here, or see client_venv.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=client_venv.sh
source "$here/client_venv.sh"
for program in chromium chromedriver; do
  [ -x "/usr/bin/$program" ] || { echo "no $program: skipped" >&2; exit 77; }
done
make_venv selenium "$here/selenium-requirements.txt"
"$venv/bin/python" "$here/console_client.py" "$@"
