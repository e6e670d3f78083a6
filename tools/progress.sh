#!/bin/bash
# progress.sh TITLE COMMAND…: runs the command quietly, tells how long it took, and shows its output only when it fails.
title=$1; shift
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
start=$SECONDS
[ -t 1 ] && printf '  … %s' "$title"
if "$@" >"$out" 2>&1; then
  [ -t 1 ] && printf '\r\033[K'
  printf '  ok %s (%ds)\n' "$title" $((SECONDS - start))
else
  code=$?
  [ -t 1 ] && printf '\r\033[K'
  printf '  FAILED %s\n' "$title"
  cat "$out"
  exit $code
fi
