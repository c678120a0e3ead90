# shellcheck shell=bash
# Completion of `lorica` in bash: source it, for instance from ~/.bashrc.
#
# It asks `lorica ... --help` for commands, options and the values that an option takes, and the
# server for adapters and their generations, so it knows what this version of the command knows.

# Words in the help text of "$@": commands, or with --options first the long options.
_lorica_help() {
  if [ "$1" = --options ]; then
    shift
    "$@" --help 2>/dev/null | sed -n 's/^  \(-[a-zA-Z],\)\{0,1\}\(--[a-z-]*\).*/\2/p'
  else
    "$@" --help 2>/dev/null | awk '/^Subcommands:/ {on = 1; next} /^[^ ]/ {on = 0} on {print $1}'
  fi
}

# What the help text of "$2"... says of option "$1": its values, one a line, where they are few;
# else "-" where it takes a value.
_lorica_values() {
  local option=$1
  shift
  "$@" --help 2>/dev/null | awk -v option="$option" '
    /^  -/ {
      count = split($1, names, ",")
      for (i = 1; i <= count; ++i) if (names[i] == option) {
        if (match($0, /[{][^}]*[}]/)) {
          gsub(/,/, "\n", $0); match($0, /[{][^}]*[}]/)
          print substr($0, RSTART + 1, RLENGTH - 2)
        } else if ($2 ~ /^[A-Z][A-Z]+(:[A-Z]+)?(=|$)/) print "-"
        exit
      }
    }'
}

_lorica_adapters() {
  "$@" adapters list --json 2>/dev/null | sed -n 's/^ *"adapter_id": "\(.*\)",$/\1/p'
}

# The generations that adapter "$2" stood for, as `rollback --to` takes them.
_lorica_generations() {
  "$1" adapters get "$2" --json 2>/dev/null |
    sed -n '/"history"/,$ s/^ *"generation": "\(.*\)",$/\1/p'
}

_lorica() {
  local current=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]}
  local at=$((COMP_CWORD - 1)) word commands=() candidates='' before=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      generate | chat | batch | adapters | status | usage | key | tokenize | bench)
        [ ${#commands[@]} -gt 0 ] || commands=("$word")
        ;;
      -*) ;;
      *) [ "${commands[*]}" != adapters ] || commands+=("$word") ;;
    esac
  done
  # bash makes words of their own of each "=": the option is before "a=0.7,b", or before "=value".
  while [ "$at" -gt 1 ] && [ "${COMP_WORDS[at]}" = = ]; do
    case ${COMP_WORDS[at - 1]} in -*) at=$((at - 1)) ;; *) at=$((at - 2)) ;; esac
  done
  case ${COMP_WORDS[at]} in
    -a | --adapter) candidates=$(_lorica_adapters "$program") ;;
    --mix)
      case $current in *,*) before=${current%,*}, ;; esac
      candidates=$(_lorica_adapters "$program" | sed "s|^|$before|; s|\$|=|")
      compopt -o nospace 2>/dev/null
      ;;
    --to)
      for word in "${COMP_WORDS[@]:1:at-1}"; do
        case $word in
          -* | adapters | rollback) ;;
          *) candidates+=" $(_lorica_generations "$program" "$word")" ;;
        esac
      done
      ;;
    -*)
      candidates=$(_lorica_values "${COMP_WORDS[at]}" "$program" "${commands[@]}")
      [ "$candidates" != - ] || return 0
      ;;
  esac
  if [ -n "$candidates" ]; then
    :
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
