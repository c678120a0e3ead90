#!/usr/bin/env bash
# A bundle serves from wherever it was moved to, and takes no library of this machine but those
# that deploy/bundle.sh leaves out.
#
#   tests/integration/bundle.sh BUILD_FOLDER [--cuda]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=$1
shift

work=$(mktemp -d)
server=
cleanup() {
  if [ -n "$server" ]; then kill -TERM "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT
fail() {
  echo "$1" >&2
  exit 1
}

deploy/bundle.sh --from "$build" --output "$work/made" "$@"
mv "$work/made" "$work/moved"
bin=$work/moved/bin

left_out='(ld-linux|lib(c|m|dl|rt|pthread|resolv|cuda|cudart|cublas|cublasLt)\.so)'
for file in "$bin"/* "$work"/moved/lib/liblorica_*; do
  [ -e "$file" ] || continue
  strays=$(env -i ldd "$file" | awk '$2 == "=>" {print $1, $3}' | grep -v " $work/moved/" |
    grep -Ev "^$left_out" || true)
  [ -z "$strays" ] || fail "$file takes from elsewhere: $strays"
done

env -i "$bin/loricad" --model tests/data/shapes/tiny --load-format dummy --arena-bytes 16MiB \
  --grpc-address 127.0.0.1:0 --port-file "$work/port" 2>"$work/log" &
server=$!
for _ in $(seq 200); do
  [ ! -s "$work/port" ] || break
  kill -0 "$server" 2>/dev/null || fail "$(cat "$work/log")"
  sleep 0.1
done
[ -s "$work/port" ] || fail "no port after 20 s: $(cat "$work/log")"
answer() { env -i "$bin/lorica" --server "127.0.0.1:$(cat "$work/port")" "$@"; }
answer status
answer generate --token-ids 1,2,3 --max-tokens 4 --json | grep -q token_ids ||
  fail "no answer from the bundle's server"
