#!/bin/bash
# test.sh: a cluster, Ambit on it, the stories of e2e/kind and the Gateway API conformance suite, and the end of the cluster;
# then a smaller one whose pods have two addresses. What fails does not hide what comes after it; the exit code is that of all.
# KEEP=1 leaves the cluster, RUN=regexp takes the stories it names and nothing else, SHORT=1 the two stories that CI runs,
# REDIRECTION=nftables, iptables or ebpf has all of it run with that way of redirecting.
set -uo pipefail
cd "$(dirname "$0")/../.."
failed=()
twofold=
say() { printf '== %s\n' "$*"; }

end() { make --no-print-directory kind-delete "$@"; }

finish() {
  local code=$?
  if [ -n "$twofold" ]; then
    end NAME="$twofold" || code=1
  fi
  if [ -n "${KEEP:-}" ]; then
    say 'the cluster stays (make kind-delete)'
  else
    end || code=1
  fi
  exit $code
}
trap finish EXIT

say 'a cluster with Ambit'
make --no-print-directory kind || exit 1

# stories TITLE LIMIT REGEXP. The limits are for two cores.
stories() { say "$1"; ${4:-} bin/ambit-kind run -- go test -tags kind -count=1 -timeout "$2" -run "$3" -v ./e2e/kind || failed+=("$1"); }
if [ -n "${RUN:-}" ]; then
  stories "the stories $RUN" 90m "$RUN"
elif [ -n "${SHORT:-}" ]; then
  # From the first day in the mesh to uninstall --purge.
  stories 'the short story on a cluster' 20m '^(TestJourney|TestInstall)$'
else
  stories 'the stories on a cluster' 90m .
  say 'Gateway API conformance'
  make --no-print-directory conformance || failed+=('Gateway API conformance')
fi

# Stories that install the mesh anew, or change its agents, leave it as it was.
if [ -n "${REDIRECTION:-}" ]; then
  now=$(bin/ambit-kind run -- kubectl get daemonset -n ambit-system ambit-cni-node \
    -o 'jsonpath={.spec.template.spec.containers[0].env[?(@.name=="AMBIT_REDIRECTION")].value}')
  [ "$now" = "$REDIRECTION" ] || failed+=("redirection is \"$now\" in the end, not $REDIRECTION")
fi

# Nothing of another's cluster can be chosen, and one that was made with two families has been tested already.
if [ -z "${RUN:-}${SHORT:-}${KUBECONFIG:-}${IP_FAMILY:-}" ]; then
  twofold=${NAME:-ambit}-dual
  small=(NAME="$twofold" IP_FAMILY=dual WORKERS=1)
  say 'a cluster whose pods have two addresses'
  if make --no-print-directory kind "${small[@]}"; then
    # What a kubelet, a node's port and headless names do is different there, as well.
    stories 'both addresses of a pod' 30m '^(TestDualStack|TestProbes|TestHostPort|TestStatefulSet)$' "env NAME=$twofold"
  else
    failed+=('a cluster whose pods have two addresses')
  fi
fi

if [ ${#failed[@]} -gt 0 ]; then
  say "failed: ${failed[*]}"
  exit 1
fi
say 'all well'
