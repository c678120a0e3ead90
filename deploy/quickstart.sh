#!/usr/bin/env bash
# Builds Lorica on Debian 12, fetches a small model, starts the server with the demo
# adapters, and asks eight questions of five adapters and the base model at once, in one
# batch. Repeat it as often as you like: what is done already is not done again.
#
#   deploy/quickstart.sh [options]
#
#   --setup-only  install, build and fetch; start nothing
#   --keep        leave the server running at the end
#   --cuda        serve on the GPU; needs nvcc, once, to build the CUDA backend (which is built
#                 without the flag too where a GPU answers and there is nvcc)
#   --help        this text
#
# Leaves build/release/bin/loricad, build/release/bin/lorica and the model in
# ${XDG_CACHE_HOME:-~/.cache}/lorica. Never waits for input.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$lorica_root"

setup_only=false
keep=false
cuda=false
for argument in "$@"; do
  case $argument in
    --setup-only) setup_only=true ;;
    --keep) keep=true ;;
    --cuda) cuda=true ;;
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) die "unknown option $argument (try --help)" 2 ;;
  esac
done

model=$lorica_cache/SmolLM2-135M-Instruct.Q4_1.gguf
bin=build/release/bin
state=$lorica_root/build/quickstart
server_pid=
device=cpu

# 50051 if it is free, else one that the kernel picks.
free_port() {
  python3 - <<'PYTHON'
import socket
for port in (50051, 0):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(probe.getsockname()[1])
        break
PYTHON
}

stop_server() {
  [ -n "$server_pid" ] || return 0
  kill -TERM "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}

start_server() {
  local port
  port=$(free_port)
  address=127.0.0.1:$port
  [ "$port" = 50051 ] || say "port 50051 is busy, taking $port"
  say "starting loricad on $address, --device $device (log: $state/server.log)"
  # In a session of its own, so that Ctrl-C and a closed terminal spare a kept server.
  setsid "$bin/loricad" --model "$model" --adapters-dir deploy/demo/adapters \
    --data-dir "$state/data" --grpc-address "$address" --device "$device" \
    >"$state/server.log" 2>&1 </dev/null &
  server_pid=$!
  trap stop_server EXIT
  local tries
  for ((tries = 0; tries < 300; ++tries)); do
    "$bin/lorica" --server "$address" status >/dev/null 2>&1 && return 0
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 15 "$state/server.log" >&2
  die "the server did not come up; the end of its log is above"
}

# Prints who was asked what and said what, then the speed of the whole batch.
show_answers() {
  python3 - deploy/demo/prompts.jsonl "$state/answers.jsonl" "$1" <<'PYTHON'
import json, sys, textwrap

def show(label, text):
    lines = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, 92) or [""]]
    print("\n".join(f"  {label if i == 0 else '      '} {line}".rstrip()
                    for i, line in enumerate(lines)))

prompts, answers = ([json.loads(line) for line in open(path)] for path in sys.argv[1:3])
seconds = float(sys.argv[3])
failed = tokens = 0
for prompt, answer in zip(prompts, answers, strict=True):
    print(f"\n{prompt.get('adapter_id', '(base model)')}")
    show("asked:", prompt["messages"][-1]["content"])
    if "error" in answer:
        failed += 1
        show("error:", f"{answer['error']['code']}: {answer['error']['message']}")
        continue
    tokens += answer["usage"]["completion_tokens"]
    show("said: ", answer["text"])
print(f"\n{len(answers)} streams in one batch: {tokens} tokens in {seconds:.1f} s, "
      f"{tokens / seconds:.0f} tok/s together, adapters loaded on the way")
if failed:
    sys.exit(f"{failed} of {len(answers)} requests failed")
PYTHON
}

ask_all() {
  local count began ended
  count=$(wc -l <deploy/demo/prompts.jsonl)
  say "asking $count questions at once"
  began=$(date +%s.%N)
  # What it counts is shown once, below the answers.
  if ! "$bin/lorica" --server "$address" batch --file deploy/demo/prompts.jsonl \
    --concurrency "$count" >"$state/answers.jsonl" 2>"$state/batch.log"; then
    cat "$state/batch.log" >&2
    die "the batch did not run; see $state/server.log"
  fi
  ended=$(date +%s.%N)
  show_answers "$(awk "BEGIN {print $ended - $began}")"
}

# Commands that work from the repository root with the server at $1.
show_commands() {
  cat <<TEXT
  $bin/lorica $1adapters list
  $bin/lorica $1generate --chat --adapter intent "my card got stuck in the machine"
  $bin/lorica $1chat
  $bin/lorica --help
TEXT
}

show_next_steps() {
  printf '\nHow to go on, in %s:\n' "$lorica_root"
  if $keep; then
    show_commands "--server $address "
    printf '\nThe server goes on at %s; stop it with: kill %s\n' "$address" "$server_pid"
    return
  fi
  cat <<TEXT
  $bin/loricad --model $model \\
    --adapters-dir deploy/demo/adapters --data-dir build/data --device $device
and in another terminal:
TEXT
  show_commands ""
}

# ON where the CUDA backend is to be built.
cuda_option() {
  if [ -z "$(find_nvcc)" ]; then
    ! $cuda || die "--cuda needs nvcc, and there is none in PATH or /usr/local/cuda/bin" 2
    echo OFF
  elif $cuda || gpu_answers; then
    echo ON
  else
    echo OFF
  fi
}

# Before minutes are spent on building.
if $cuda && ! $setup_only; then
  gpu_answers || die "--cuda needs a GPU, and nvidia-smi finds none (--setup-only only builds)" 2
fi
began=$SECONDS
build_cuda=$(cuda_option)
install_packages "${product_packages[@]}"
deploy/fetch.sh
build_preset release -DLORICA_CUDA="$build_cuda"
say "set up in $((SECONDS - began)) s: $bin/loricad, $bin/lorica"
if $setup_only; then
  exit 0
fi
if $cuda; then device=cuda; fi

mkdir -p "$state"
start_server
ask_all
if $keep; then
  trap - EXIT
else
  stop_server
  say "server stopped"
fi
show_next_steps
