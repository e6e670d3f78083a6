#!/bin/sh
# prereqs.sh: the programs a cluster built here needs beyond Go. A Docker service that comes with the packages is not started:
# the cluster has a daemon of its own.
set -eu
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need dockerd docker.io
need docker docker.io
need containerd containerd
need runc runc
need mmdebstrap mmdebstrap
need iptables iptables
need ip iproute2
need nsenter util-linux
[ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
[ -n "$missing" ] || exit 0
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
