#!/usr/bin/env bash
# Makes a folder that runs where Lorica was not built: bin/, lib/ with the shared libraries that
# they need, share/ with manual pages and bash's completion, licenses/. Left out are glibc, the
# NVIDIA driver and CUDA's own libraries, which the other machine has; its glibc must be no older
# than this one's.
#
#   deploy/bundle.sh [options]
#
#   --cuda         with the CUDA backend, liblorica_cuda.so and liblorica_cuda_f16.so; needs nvcc
#   --from FOLDER  take the programs that are built in FOLDER, rather than build them
#   --output PATH  the folder to make (build/bundle/lorica); what is there is replaced
#   --archive      also PATH.tar.gz
#   --help         this text
#
# The folder may be moved anywhere. Never waits for input.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$lorica_root"

cuda=false
archive=false
from=
output=build/bundle/lorica
while [ $# -gt 0 ]; do
  case $1 in
    --cuda) cuda=true ;;
    --archive) archive=true ;;
    --from | --output)
      [ $# -ge 2 ] || die "$1 needs a path" 2
      if [ "$1" = --from ]; then from=$2; else output=$2; fi
      shift
      ;;
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) die "unknown option $1 (try --help)" 2 ;;
  esac
  shift
done

# What the other machine has, as the beginning of a file's name: glibc's parts, the driver,
# CUDA's libraries.
glibc='c|m|dl|rt|pthread|resolv|util|anl|nsl|mvec|nss_[a-z]*'
stays_behind="(ld-linux|lib($glibc|cuda|cudart|cublas|cublasLt)\\.so|libnvidia-)"

# Shared libraries that a file needs, at any depth, as paths.
needed_by() {
  ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | grep -Ev "/${stays_behind}[^/]*\$" || true
}

# The Debian package's copyright file of a library, by the package's name.
copy_license() {
  local name package
  name=$(basename "$(readlink -f "$1")")
  package=$(dpkg -S "*/$name" 2>/dev/null | sed -n '1s/[:,].*//p') || true
  [ -n "$package" ] && [ -f "/usr/share/doc/$package/copyright" ] || return 0
  cp -L "/usr/share/doc/$package/copyright" "$output/licenses/$package"
}

if [ -z "$from" ]; then
  build_cuda=OFF
  if $cuda; then
    [ -n "$(find_nvcc)" ] || die "--cuda needs nvcc, in PATH or in /usr/local/cuda/bin" 2
    build_cuda=ON
  fi
  install_packages "${product_packages[@]}"
  deploy/fetch.sh
  build_preset release -DLORICA_CUDA="$build_cuda"
  from=build/release
fi
programs=("$from/bin/loricad" "$from/bin/lorica" "$from/bin/lorica-grammar")
plugins=()
if $cuda; then plugins+=("$from"/lib/liblorica_cuda{,_f16}.so); fi
for file in "${programs[@]}" "${plugins[@]}"; do
  [ -f "$file" ] || die "$file is not there: build it first, or leave out --from"
done

rm -rf "$output"
mkdir -p "$output/bin" "$output/lib" "$output/licenses"
for file in "${programs[@]}"; do strip -o "$output/bin/$(basename "$file")" "$file"; done
for file in "${plugins[@]}"; do strip -o "$output/lib/$(basename "$file")" "$file"; done
chmod +x "$output"/bin/*
libraries=$(for file in "${programs[@]}" "${plugins[@]}"; do needed_by "$file"; done | sort -u)
for library in $libraries; do
  cp -L "$library" "$output/lib/$(basename "$library")"
  copy_license "$library"
done
cp LICENSE NOTICE "$output/licenses/"
mkdir -p "$output/share/man/man1" "$output/share/bash-completion/completions"
for program in lorica loricad; do
  deploy/man_page.sh "$from/bin/$program" >"$output/share/man/man1/$program.1"
done
cp client/lorica.bash "$output/share/bash-completion/completions/lorica"

# Every library must come from the folder itself or be one that stays behind.
for file in "$output"/bin/* "$output"/lib/liblorica_*; do
  [ -e "$file" ] || continue
  strays=$(ldd "$file" | awk '$2 == "=>" {print $1, $3}' |
    grep -v " $(realpath "$output")/" | grep -Ev "^${stays_behind}" || true)
  [ -z "$strays" ] || die "$file would still look elsewhere for: $strays"
done
glibc_here=$(ldd --version | sed -n '1s/.* //p')
say "$output: $(du -sh "$output" | cut -f1), needs glibc $glibc_here or newer"
if $archive; then
  tar -C "$(dirname "$output")" -czf "$output.tar.gz" "$(basename "$output")"
  say "$output.tar.gz: $(du -h "$output.tar.gz" | cut -f1)"
fi
