#!/bin/bash
# test.sh: a cluster, Ambit on it, every story of e2e/kind and the Gateway API conformance suite, and the end of the cluster.
# What fails first does not hide what comes after it; the exit code is that of all. KEEP=1 leaves the cluster, RUN=regexp
# takes the stories it names and no conformance suite, SHORT=1 the stories that CI runs.
set -uo pipefail
cd "$(dirname "$0")/../.."
kind=bin/ambit-kind
failed=()
say() { printf '== %s\n' "$*"; }

make kind || exit 1
end() {
  if [ -n "${KEEP:-}" ]; then
    say 'the cluster stays (make kind-delete)'
  else
    make kind-delete
  fi
}
trap end EXIT

# The stories' time limit is for a machine of two cores.
stories() { say "$1"; "$kind" run -- go test -tags kind -count=1 -timeout "$2" -run "$3" ./e2e/kind -v || failed+=("$1"); }
if [ -n "${SHORT:-}" ]; then
  stories 'the short story on a cluster' 20m '^TestJourney$'
else
  stories 'stories on a cluster' 90m "${RUN:-.}"
  if [ -z "${RUN:-}" ]; then
    say 'Gateway API conformance'
    "$kind" run -- make conformance || failed+=('Gateway API conformance')
  fi
fi

[ ${#failed[@]} = 0 ] && { say 'all well'; exit 0; }
say "failed: ${failed[*]}"
exit 1
