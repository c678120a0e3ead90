# shellcheck shell=bash
# Completion of `lorica` in bash: source it, for instance from ~/.bashrc.
#
# It asks `lorica ... --help` for commands and options, and the server for adapters, so it knows
# what this version of the command knows.

# Words in the help text of "$@": commands, or with --options first the long options.
_lorica_help() {
  if [ "$1" = --options ]; then
    shift
    "$@" --help 2>/dev/null | sed -n 's/^  \(-[a-zA-Z],\)\{0,1\}\(--[a-z-]*\).*/\2/p'
  else
    "$@" --help 2>/dev/null | awk '/^Subcommands:/ {on = 1; next} /^[^ ]/ {on = 0} on {print $1}'
  fi
}

_lorica_adapters() {
  "$@" adapters list --json 2>/dev/null | sed -n 's/^ *"adapter_id": "\(.*\)",$/\1/p'
}

_lorica() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local program=${COMP_WORDS[0]} word commands=() candidates
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      generate | chat | batch | adapters | status | usage | key | tokenize | bench)
        [ ${#commands[@]} -gt 0 ] || commands=("$word")
        ;;
      *) [ "${commands[*]}" != adapters ] || case $word in -*) ;; *) commands+=("$word") ;; esac ;;
    esac
  done
  if [ "$previous" = -a ] || [ "$previous" = --adapter ]; then
    candidates=$(_lorica_adapters "$program")
  elif [[ $current == -* ]]; then
    candidates=$(_lorica_help --options "$program" "${commands[@]}")
    [ ${#commands[@]} -eq 0 ] || candidates+=" $(_lorica_help --options "$program")"
  elif [ ${#commands[@]} -gt 1 ]; then
    candidates=$(_lorica_adapters "$program")
  else
    candidates=$(_lorica_help "$program" "${commands[@]}")
  fi
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
}

complete -o default -F _lorica lorica
