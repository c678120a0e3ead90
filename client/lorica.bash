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

# The generations that adapter "$1" stood for, as `rollback --to` takes them; "$2"... asks.
_lorica_generations() {
  local adapter=$1
  shift
  "$@" adapters get "$adapter" --json 2>/dev/null |
    sed -n '/"history"/,$ s/^ *"generation": "\(.*\)",$/\1/p'
}

# Divides what is before the current word: into `reach` goes which server to ask and with which
# key, into `words` all else. bash makes words of their own of "=" and ":".
_lorica_divide() {
  local at=1 value
  while [ "$at" -lt "$COMP_CWORD" ]; do
    case ${COMP_WORDS[at]} in
      --server | --api-key-file | --tenant | --tls-ca | --tls-cert | --tls-key)
        reach+=("${COMP_WORDS[at]}")
        at=$((at + 1))
        [ "$at" -ge "$COMP_CWORD" ] || [ "${COMP_WORDS[at]}" != = ] || at=$((at + 1))
        [ "$at" -lt "$COMP_CWORD" ] || break
        value=${COMP_WORDS[at]}
        while [[ $((at + 2)) -lt $COMP_CWORD && ${COMP_WORDS[at + 1]} == :* ]]; do
          value+=${COMP_WORDS[at + 1]}${COMP_WORDS[at + 2]}
          at=$((at + 2))
        done
        reach+=("${value/#\~\//$HOME/}")
        ;;
      --tls) reach+=(--tls) ;;
      *) words+=("${COMP_WORDS[at]}") ;;
    esac
    at=$((at + 1))
  done
}

_lorica() {
  local current=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]}
  local at=$((COMP_CWORD - 1)) word commands=() candidates='' before='' reach=() words=()
  _lorica_divide
  local ask=("$program" "${reach[@]}")
  for word in "${words[@]}"; do
    case $word in
      generate | chat | batch | adapters | status | usage | key | tokenize | bench)
        [ ${#commands[@]} -gt 0 ] || commands=("$word")
        ;;
      -*) ;;
      *) [ "${commands[*]}" != adapters ] || commands+=("$word") ;;
    esac
  done
  # The option is before "a=0.7,b", or before "=value".
  while [ "$at" -gt 1 ] && [ "${COMP_WORDS[at]}" = = ]; do
    case ${COMP_WORDS[at - 1]} in -*) at=$((at - 1)) ;; *) at=$((at - 2)) ;; esac
  done
  case ${COMP_WORDS[at]} in
    -a | --adapter) candidates=$(_lorica_adapters "${ask[@]}") ;;
    --mix)
      case $current in *,*) before=${current%,*}, ;; esac
      candidates=$(_lorica_adapters "${ask[@]}" | sed "s|^|$before|; s|\$|=|")
      compopt -o nospace 2>/dev/null
      ;;
    --to)
      for word in "${words[@]}"; do
        case $word in
          --to) break ;;
          -* | adapters | rollback) ;;
          *) candidates+=" $(_lorica_generations "$word" "${ask[@]}")" ;;
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
    candidates=$(_lorica_adapters "${ask[@]}")
  else
    candidates=$(_lorica_help "$program" "${commands[@]}")
  fi
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
}

complete -o default -F _lorica lorica
