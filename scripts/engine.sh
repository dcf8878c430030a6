#!/usr/bin/env bash
# A Docker Engine of its own in a network namespace of its own, for tests, the tour and benchmarks:
# it neither sees nor harms the host's containers, bridges and rules.
#
#   engine.sh start NAME DIR   start containerd and dockerd in the namespace NAME, state below DIR
#   engine.sh start_dockerd NAME DIR   start dockerd again, after it was stopped or killed
#   engine.sh stop NAME DIR    stop both, remove the namespace and DIR
#
# ENGINE_HOST=1 starts it in the present namespace, for the tour on a host without an engine: Docker's
# own bridge and rules are then the host's, and stay for the caller to remove.
# ENGINE_LIVE_RESTORE= (empty) leaves live-restore off, as Swarm demands. The socket is DIR/docker.sock. The namespace is joined with nsenter, not `ip netns exec`, which
# would hide the cgroup mounts that runc needs. A veth pair `NAME-h` (host, 198.18.N.1) to `eth0`
# (namespace, 198.18.N.2) gives the namespace a node address and a default route.
set -euo pipefail
action=$1 name=$2 dir=$3
enter=(nsenter --net=/var/run/netns/"$name")
bridge=(--bip 172.30.0.1/24)
[ -z "${ENGINE_HOST:-}" ] || enter=() bridge=()
inside() { "${enter[@]}" "$@"; }

# 198.18.0.0/15 is set aside for benchmarks by RFC 2544: no real network has it.
subnet() { echo $(( $(cksum <<<"$name" | cut -d' ' -f1) % 250 + 1 )); }

wait_for() { # wait_for SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "engine: gave up waiting for: $*" >&2; return 1; }
    sleep 0.1
  done
}

start() {
  mkdir -p "$dir"
  [ -n "${ENGINE_HOST:-}" ] || make_namespace
  start_engine
}

make_namespace() {
  ip netns add "$name"
  local n; n=$(subnet)
  ip link add "${name:0:12}-h" type veth peer name eth0 netns "$name"
  ip addr add "198.18.$n.1/24" dev "${name:0:12}-h"
  ip link set "${name:0:12}-h" up
  inside ip link set lo up
  inside ip addr add "198.18.$n.2/24" dev eth0
  inside ip link set eth0 up
  inside ip route add default via "198.18.$n.1"
  inside sysctl -qw net.ipv4.ip_forward=1
}

start_engine() {
  # A containerd of its own: the host's would start shims in the host's network namespace.
  cat > "$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$dir/containerd.sock"
TOML
  # Not `inside`: of a function in the background $! is a shell in between, and containerd would
  # outlive it. Locks of whoever starts an engine are not the engine's.
  "${enter[@]}" containerd --config "$dir/containerd.toml" \
    >"$dir/containerd.log" 2>&1 < /dev/null 5>&- 6>&- 7>&- 8>&- 9>&- &
  echo $! > "$dir/containerd.pid"
  wait_for 20 test -S "$dir/containerd.sock"
  echo "{}" > "$dir/daemon.json"
  start_dockerd
}

start_dockerd() {
  inside dockerd --config-file "$dir/daemon.json" --data-root "$dir/docker" --exec-root "$dir/exec" -H "unix://$dir/docker.sock" \
    -p "$dir/dockerd.pid" --containerd "$dir/containerd.sock" --containerd-namespace "$name" \
    --containerd-plugins-namespace "$name-plugins" ${ENGINE_LIVE_RESTORE---live-restore} "${bridge[@]}" \
    ${ENGINE_FLAGS:-} >"$dir/dockerd.log" 2>&1 < /dev/null 5>&- 6>&- 7>&- 8>&- 9>&- &
  wait_for 40 docker -H "unix://$dir/docker.sock" version
}

stop() {
  if [ -S "$dir/docker.sock" ]; then
    local ids; ids=$(timeout 10 docker -H "unix://$dir/docker.sock" ps -aq || true)
    [ -z "$ids" ] || timeout 60 xargs docker -H "unix://$dir/docker.sock" rm -f <<<"$ids" >/dev/null || true
  fi
  local program pid
  for program in dockerd containerd; do
    # Read once: dockerd removes its own file when it ends.
    pid=$(cat "$dir/$program.pid" 2>/dev/null || true)
    [ -n "$pid" ] || continue
    kill "$pid" 2>/dev/null || true
    wait_for 15 sh -c "! kill -0 $pid 2>/dev/null" || kill -9 "$pid" 2>/dev/null || true
    rm -f "$dir/$program.pid"
  done
  # What the engine mounted below its directory goes before the directory does.
  awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
  if [ -z "${ENGINE_HOST:-}" ]; then
    ip netns del "$name" 2>/dev/null || true
    ip link del "${name:0:12}-h" 2>/dev/null || true
  fi
  rm -rf "$dir"
}

"$action"
