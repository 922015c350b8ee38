#!/usr/bin/env bash
# Follows a session with `curl -N`, which forgets everything: this keeps the last id and calls it again.
#
#   bash follow.sh <url>
#
# Prints the id of each entry, and the gateway's own frames by their name; ends at `closed` or 204.
set -euo pipefail

command -v curl >/dev/null || { echo "curl is missing: run tests/run, which installs it" >&2; exit 1; }

url=$1 last=
while true; do
  resume=()
  if [[ $last ]]; then resume=(-H "Last-Event-ID: $last"); fi
  id= name=
  # A cut ends the reading loop as well as curl; what was read of a frame without its blank line is dropped.
  while IFS= read -r line; do
    case $line in
      'id: '*) id=${line#id: } ;;
      'event: '*) name=${line#event: } ;;
      'status: 204') echo 204; exit ;;
      '')
        if [[ $name ]]; then echo "$name"; elif [[ $id ]]; then echo "$id"; last=$id; fi
        if [[ $name == closed ]]; then exit; fi
        id= name=
        ;;
    esac
  done < <(curl -sSN -H 'Accept: text/event-stream' "${resume[@]}" -w 'status: %{http_code}\n' "$url" 2>/dev/null || true)
  sleep 0.1
done
