#!/usr/bin/env bash
# Usage: walkthrough.sh BIN_DIR
#
# What the README shows: an adapter from a hub, swapped under load, rolled back, evicted; a quota
# that is used up; a bill that adds up. Prints the commands and what they say; fails where one of
# these does not hold. The hub is the tests' own, the model the demo's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=$(cd "$1" && pwd)
model=${LORICA_MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/lorica/SmolLM2-135M-Instruct.Q4_1.gguf}
work=$(mktemp -d)
started=()
cleanup() {
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
PATH=$bin:$PATH

die() {
  printf 'walkthrough: %s\n' "$1" >&2
  exit 1
}
# Waits until a file holds something.
await() {
  local tries
  for tries in $(seq 600); do
    [ -s "$1" ] && return
    sleep 0.1
  done
  cat ./*.log >&2 || true
  die "nothing in $1 after $tries tries"
}
# Waits until so many lines are in a file.
await_lines() {
  local tries
  for tries in $(seq 1200); do
    [ "$(wc -l <"$1")" -lt "$2" ] || return 0
    sleep 0.05
  done
  die "no $2 lines in $1 after $tries tries"
}
# Prints a command as one would type it, and runs it.
show() {
  printf '$ %s\n' "$*"
  "$@"
}

# --- a hub, three tenants, a server ---------------------------------------------------------
mkfifo hub.in
test_hub "my-team/support=$root/deploy/demo/adapters/ticket-triage" <hub.in >hub.out &
started+=($!)
exec 7>hub.in
await hub.out
read -r endpoint cdn <hub.out

declare -A hashes
for tenant in acme trial boss; do
  lorica key --out "$tenant.key" 2>/dev/null
  hashes[$tenant]=$(lorica key --hash <"$tenant.key")
done
cat >tenants.json <<JSON
{"tenants": [
  {"name": "acme", "role": "manager", "adapters": ["my-team/*"], "keys": ["${hashes[acme]}"]},
  {"name": "trial", "role": "user", "adapters": [], "requests_per_minute": 3,
   "keys": ["${hashes[trial]}"]},
  {"name": "boss", "role": "operator", "adapters": ["*"], "keys": ["${hashes[boss]}"]}]}
JSON
loricad --model "$model" --data-dir data --tenants-file tenants.json --hub-allow 'my-team/*' \
  --hub-endpoint "$endpoint" --hub-redirect-hosts "$cdn" --grpc-address 127.0.0.1:0 \
  --port-file port 2>server.log &
started+=($!)
await port
LORICA_SERVER=127.0.0.1:$(head -n 1 port)
export LORICA_SERVER
lorica --api-key-file boss.key --wait 60 status >/dev/null

# --- from the hub, and moved while it is used -----------------------------------------------
show lorica --api-key-file acme.key adapters register support --source my-team/support
for number in $(seq 40); do
  printf '{"adapter_id": "support", "prompt": "Ticket %s: the export hangs", ' "$number"
  printf '"max_tokens": 24, "ignore_eos": true}\n'
done >calls.jsonl
: >answers.jsonl
lorica --api-key-file acme.key batch --file calls.jsonl --concurrency 4 >answers.jsonl &
batch=$!
# However fast the machine: some calls are answered by now, and most are not.
await_lines answers.jsonl 8
echo "my-team/support@v2=$root/deploy/demo/adapters/text-to-sql" >&7
await_lines hub.out 2 # the commit is there
show lorica --api-key-file acme.key adapters register support --source my-team/support@v2 --replace
wait "$batch" || die "a call failed while the name moved"
printf '$ lorica --api-key-file acme.key batch --file calls.jsonl --concurrency 4   # meanwhile\n'
tokens=$(python3 - answers.jsonl <<'PY'
import collections, json, sys
answers = [json.loads(line) for line in open(sys.argv[1])]
errors = sum("error" in answer for answer in answers)
seen = collections.Counter(a["adapter"]["generation"][:12] for a in answers if "error" not in a)
print(f"{len(answers)} answers, {errors} errors, by generation: {dict(seen)}", file=sys.stderr)
if errors or len(seen) != 2:
    sys.exit("the swap was not seamless, or not under load")
print(sum(answer["usage"]["completion_tokens"] for answer in answers))
PY
) || die "the answers are not what they should be"
show lorica --api-key-file acme.key adapters rollback support
show lorica --api-key-file acme.key adapters get support
show lorica --api-key-file boss.key --tenant acme adapters evict support --wait-for-streams

# --- a quota, and the bill -----------------------------------------------------------------
for _ in 1 2 3; do lorica --api-key-file trial.key generate --max-tokens 4 "Hello" >/dev/null; done
printf '$ lorica --api-key-file trial.key generate --max-tokens 4 Hello   # the fourth\n'
if lorica --api-key-file trial.key generate --max-tokens 4 "Hello"; then die "no quota was hit"; fi
show lorica --api-key-file boss.key usage
billed=$(lorica --api-key-file boss.key --json usage --of acme | python3 -c '
import json, sys
print(sum(row["completion_tokens"] for row in json.load(sys.stdin)["rows"]))')
[ "$billed" = "$tokens" ] || die "billed $billed tokens, answered $tokens"
printf 'answered %s tokens, billed %s\n' "$tokens" "$billed"
