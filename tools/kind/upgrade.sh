#!/bin/bash
# upgrade.sh: from another version of this repository to the one that is checked out, and back, on a cluster of its own, while
# an application is asked over new connections through a waypoint. FROM=ref says which (a tag, branch or commit); it is built
# in a work tree of its own. KEEP=1 leaves the cluster, REDIRECTION= is as for `make kind`.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${FROM:-}" ] || { echo 'from which version? Say FROM=ref, a tag, branch or commit: make kind-upgrade FROM=v1.2.0' >&2; exit 2; }
git rev-parse --verify --quiet "$FROM^{commit}" >/dev/null || { echo "git knows no commit named \"$FROM\" here" >&2; exit 2; }
export NAME=${NAME:-ambit-upgrade}
before=$(mktemp -d)
say() { printf '== %s\n' "$*"; }

finish() {
  local code=$?
  if [ -n "${KEEP:-}" ]; then
    say "the cluster stays (make kind-delete NAME=$NAME)"
  else
    env -u KUBECONFIG make --no-print-directory kind-delete NAME="$NAME" || code=1
  fi
  git worktree remove --force "$before/tree" || true
  rm -rf "$before"
  exit $code
}
trap finish EXIT

git worktree add --quiet --detach "$before/tree" "$FROM"
old=$(git -C "$before/tree" describe --tags --always)
say "a cluster with Ambit $old"
make --no-print-directory -C "$before/tree" kind NAME="$NAME" VERSION="$old"

say "this version: $VERSION"
make --no-print-directory build images
go build -o bin/ambit-kind ./tools/kind/cmd/ambit-kind
bin/ambit-kind load bin/images/*.tar
eval "$(bin/ambit-kind env)"
kubectl apply -f e2e/samples/shop.yaml
kubectl -n shop rollout status deployment/web --timeout=180s
kubectl -n shop wait pod client --for=condition=Ready --timeout=60s
"$before/tree/bin/ambitctl" waypoint apply -n shop --enroll-namespace --wait

# under TITLE COMMAND…: what it prints goes to the asker, which ends with it and fails if a single request did.
under() {
  say "$1"
  shift
  local out="$before/asked"
  if ! { "$@" && kubectl -n shop rollout status deployment/waypoint --timeout=180s && sleep 3; } 2>&1 | tee "$before/told" |
    kubectl exec -i -n shop client -- ambit-echo loop http://web --workers 8 --rate 50 --duration 15m --until-eof -q >"$out" 2>&1; then
    cat "$before/told" "$out"
    return 1
  fi
  tail -3 "$before/told"
  head -2 "$out"
}
under "upgrade to $VERSION" bin/ambitctl upgrade --set global.tag="$VERSION"
bin/ambitctl version
bin/ambitctl proxy-status
under "back to $old" "$before/tree/bin/ambitctl" upgrade --set global.tag="$old"
"$before/tree/bin/ambitctl" version
say 'all well'
