#!/usr/bin/env bash
# Installs what building and the tour need and this machine misses, on Debian or Ubuntu: through apt
# when root, else by printing the exact line. `setup.sh test` adds what only the tests need.
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
[ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)

if [ "${1:-}" = test ]; then
  need ssh openssh-client
  PATH="$PATH:/usr/sbin:/sbin" need sshd openssh-server
  need docker-registry docker-registry
  need etcd etcd-server
  need busybox busybox-static
  # The Python client that tests/host/clients.rs drives. A package goes to the system's Python, which
  # need not be the first one in PATH.
  typed='from kubernetes.client import DiscoveryV1Api'
  /usr/bin/python3 -c "$typed" >/dev/null 2>&1 || python3 -c "$typed" >/dev/null 2>&1 || missing+=(python3-kubernetes)
fi

# The tests run an sshd and a registry of their own on loopback, and take etcd into an image. The packages would start one for
# everybody: a machine that had no such server before must not have one afterwards.
forbid_services() {
  [ -e /usr/sbin/policy-rc.d ] && return
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

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
  case " ${missing[*]} " in *" openssh-server "* | *" docker-registry "* | *" etcd-server "*) forbid_services ;; esac
  # kubectl is there already where another package manager brought it: a missing package of that
  # name must not stop the rest.
  if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
    echo "setup: apt could not install: ${missing[*]}" >&2
    exit 1
  fi
  case " ${missing[*]} " in
  *" openssh-server "*)
    # Also not at the next boot. Where no systemd runs there is nothing to switch off.
    systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    ;;
  esac
  case " ${missing[*]} " in
  *" docker-registry "*) systemctl disable docker-registry.service >/dev/null 2>&1 || true ;;
  esac
  case " ${missing[*]} " in
  *" etcd-server "*) systemctl disable etcd.service >/dev/null 2>&1 || true ;;
  esac
fi

command -v cargo >/dev/null 2>&1 || {
  echo "setup: Rust is missing: install it with rustup (https://rustup.rs), then try again" >&2
  exit 1
}
