#!/usr/bin/env bash
# Builds and runs Lorica's tests; closes with ctest's own summary and exit code.
#
#   tests/run.sh [options] [-- ctest options]
#
#   --filter REGEX  only tests whose name matches
#   --long          also the tests labelled `long` (soak runs, longer simulations), and then what
#                   --fuzz runs, unless there is a filter or another build than build/tests
#   --fuzz          only the fuzz targets, a minute each, with clang, in build/fuzz
#   --asan          with the address and undefined-behaviour sanitizers, in build/asan
#   --tsan          with the thread sanitizer, in build/tsan
#   --gpu           with the CUDA backend and its tests, in build/cuda; needs nvcc and a GPU
#   --help          this text
#
# Installs missing Debian packages (as root, or with sudo where it asks no password), fetches
# the pinned parts and the model, builds. LORICA_FIXTURES may name a folder with adapters that
# are too large for the repository. Never waits for input.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/common.sh"
cd "$lorica_root"

preset=tests
skipped_labels=(long)
long=false
ctest_options=()
while [ $# -gt 0 ]; do
  case $1 in
    --filter)
      [ $# -ge 2 ] || die "--filter needs a regular expression" 2
      ctest_options+=(-R "$2")
      shift
      ;;
    --long)
      skipped_labels=("${skipped_labels[@]/#long/}")
      long=true
      ;;
    --fuzz) preset=fuzz ;;
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    --gpu)
      [ -n "$(find_nvcc)" ] || die "--gpu needs nvcc, in PATH or in /usr/local/cuda/bin" 2
      gpu_answers || die "--gpu needs a GPU, and nvidia-smi finds none" 2
      preset=cuda
      ;;
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --)
      shift
      ctest_options+=("$@")
      break
      ;;
    *) die "unknown option $1 (try --help)" 2 ;;
  esac
  shift
done

install_packages "${product_packages[@]}" "${test_packages[@]}"
deploy/fetch.sh
if [ "$preset" = fuzz ]; then
  install_packages clang libclang-rt-14-dev
  cmake --preset fuzz -DLORICA_PARTS_DIR="$lorica_cache/parts" >/dev/null
  cmake --build build/fuzz -j "$(build_jobs)" --target fuzzers
  exec ctest --test-dir build/fuzz --parallel 2 --output-on-failure --no-tests=error -L '^fuzz$' \
    "${ctest_options[@]}"
fi
fuzz_too=$long
[ ${#ctest_options[@]} -eq 0 ] || fuzz_too=false
options=()
# Where it can be compiled it is, whatever was so last time; its tests skip themselves where there
# is no GPU.
if [ "$preset" = tests ]; then
  if [ -n "$(find_nvcc)" ]; then options+=(-DLORICA_CUDA=ON); else options+=(-DLORICA_CUDA=OFF); fi
fi
build_preset "$preset" "${options[@]}"

skipped=$(printf '%s\n' "${skipped_labels[@]}" | sed '/^$/d' | paste -sd '|')
[ -z "$skipped" ] || ctest_options+=(-LE "^($skipped)\$")
say "running the tests in build/$preset${skipped:+ (without those labelled $skipped)}"
ctest --test-dir "build/$preset" --parallel 2 --timeout 300 --output-on-failure \
  --no-tests=error "${ctest_options[@]}"
if [ "$preset" = tests ] && "$fuzz_too"; then exec tests/run.sh --fuzz; fi
