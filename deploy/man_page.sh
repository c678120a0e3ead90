#!/usr/bin/env bash
# Writes the manual page of a program from what its --help says, so that it never says less:
#
#   deploy/man_page.sh PROGRAM > lorica.1
#
# Commands that the help lists get a section each, and theirs too.
set -euo pipefail

if [ $# -ne 1 ] || [ "$1" = --help ]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  [ $# -eq 1 ] && exit 0
  exit 2
fi
program=$1
name=$(basename "$program")

# Roff has its own mind about backslashes, hyphens, and dots and quotes that begin a line.
escape() { sed 's/\\/\\e/g; s/-/\\-/g; s/^\([.'"'"']\)/\\\&\1/'; }

section() { # PROGRAM TITLE WORDS...: the help goes in as it is laid out
  printf '.SH %s\n.nf\n' "$(printf '%s' "$2" | tr '[:lower:]' '[:upper:]' | escape)"
  "$1" "${@:3}" --help | escape
  printf '.fi\n'
}

commands_of() {
  "$@" --help | awk '/^Subcommands:/ {on = 1; next} /^[^ ]/ {on = 0} on && /^  [a-z]/ {print $1}'
}

version=$("$program" --version | awk '{print $NF}')
about=$("$program" --help | sed -n '1s/\.$//p' | escape)
printf '.TH %s 1 "" "Lorica %s" "User Commands"\n' "${name^^}" "$version"
printf '.SH NAME\n%s \\- %s\n' "$name" "$about"
section "$program" options
for command in $(commands_of "$program"); do
  section "$program" "$name $command" "$command"
  for more in $(commands_of "$program" "$command"); do
    section "$program" "$name $command $more" "$command" "$more"
  done
done
