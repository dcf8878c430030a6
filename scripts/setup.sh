#!/usr/bin/env bash
# Installs what building, the tour and the tests need and this machine misses, on Debian or Ubuntu:
# through apt when root, else by printing the exact line. Starts dockerd if none runs.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need make make
need pkg-config pkg-config
need git git
need dockerd docker.io
need docker "$(apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli || echo docker.io)"
need iptables iptables
need ip iproute2
need nsenter util-linux
need sysctl procps
need conntrack conntrack
need kubectl kubernetes-client
need curl curl
[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
[ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)

if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "setup: this machine misses: ${missing[*]}" >&2
    echo "setup: run this, then try again:  sudo sh -c '$line'" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # kubectl is there already where another package manager brought it: a missing package of that
  # name must not stop the rest.
  if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
    echo "setup: apt could not install: ${missing[*]}" >&2
    exit 1
  fi
fi

command -v cargo >/dev/null 2>&1 || {
  echo "setup: Rust is missing: install it with rustup (https://rustup.rs), then try again" >&2
  exit 1
}
