# shellcheck shell=bash disable=SC2034
# Shared by the scripts of this repository; source it, do not run it.
set -euo pipefail
export HOME=${HOME:-~}

lorica_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lorica_cache=${XDG_CACHE_HOME:-$HOME/.cache}/lorica

say() { printf '[lorica] %s\n' "$*" >&2; }
die() {
  say "error: $1"
  exit "${2:-1}"
}

# What the product needs to be built. Debian 12's own versions are the pin: gRPC 1.51,
# Protobuf 3.21, Abseil 20220623, g++ 12, CMake 3.25.
product_packages=(ca-certificates g++ cmake ninja-build pkg-config protobuf-compiler
  protobuf-compiler-grpc libgrpc++-dev libprotobuf-dev libabsl-dev libspdlog-dev
  nlohmann-json3-dev libcpp-httplib-dev prometheus-cpp-dev libcli11-dev libre2-dev
  libpcre2-dev libhwy-dev libssl-dev libcurl4-openssl-dev libsqlite3-dev python3 python3-pip)

# What tests take besides: real proxies, promtool, a browser. No service of theirs is started.
test_packages=(libgtest-dev libgmock-dev libbenchmark-dev mold python3-venv python3-jsonschema
  nginx-light haproxy prometheus chromium chromium-driver fonts-dejavu-core)

# install_packages NAME...: installs those that are missing, without ever asking a question.
install_packages() {
  local missing=() name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
      missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "these Debian packages are needed, and there is no apt-get here: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null ||
      die "no right to install packages without a password. Please run this first:
  sudo apt-get install --yes --no-install-recommends ${missing[*]}"
    as_root=(sudo -n)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes \
      --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install the packages (its last lines are above). Is there a network?" 3
  fi
  rm -f "$log"
}

# Compile jobs: one a core, but no more than memory allows (the largest files take 1.5 GB).
build_jobs() {
  local cores memory_jobs
  cores=$(nproc)
  memory_jobs=$(awk '/^MemAvailable:/ {print int($2 / 1500000)}' /proc/meminfo)
  [ "${memory_jobs:-1}" -ge 1 ] || memory_jobs=1
  [ "$memory_jobs" -lt "$cores" ] && echo "$memory_jobs" || echo "$cores"
}

# Where nvcc is; nothing where it is not.
find_nvcc() { PATH=$PATH:/usr/local/cuda/bin command -v nvcc || true; }

gpu_answers() { nvidia-smi --list-gpus >/dev/null 2>&1; }

# build_preset NAME [CMAKE OPTION...]: configures and builds into build/NAME.
build_preset() {
  local preset=$1 jobs
  shift
  jobs=$(build_jobs)
  say "building preset $preset into build/$preset with $jobs compile jobs"
  (cd "$lorica_root" &&
    cmake --preset "$preset" -DLORICA_PARTS_DIR="$lorica_cache/parts" "$@" >/dev/null &&
    cmake --build "build/$preset" -j "$jobs")
}
