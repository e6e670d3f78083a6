#!/bin/sh
# prereqs.sh: what the tests need beyond Go: root, and a few programs that they check our work against.
set -eu
if [ "$(id -u)" != 0 ]; then
  echo 'the stories build network namespaces: run as root (sudo make test)' >&2
  exit 1
fi
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need openssl openssl
need iptables-restore iptables
need nft nftables
need ip iproute2
need curl curl
# Envoy is fetched with pip.
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  echo "please install:$missing" >&2
  exit 1
fi
echo "  … installing$missing"
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
