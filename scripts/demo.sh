#!/usr/bin/env bash
# The tour: a Git repository becomes containers behind a Service; a push rolls them without a failed
# request; what is killed or flushed comes back and is on record. With ONCE=1 it ends after the tour
# and is non-zero if any step failed; otherwise it stays until Ctrl-C.
#
# It uses an installation id, a data directory, address ranges and ports of its own, touches no other
# container or rule, stops only what it started, and leaves nothing behind but installed packages,
# however it ends. Where it had to start dockerd, the kernel keeps what it loaded for it: modules that
# change nothing by themselves, and the AppArmor profile docker-default.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "demo: Services need root to write rules: run it with sudo -E make demo" >&2; exit 1; }

readonly installation=demo01 # six letters stand in the chains' names as they are
readonly port=7441
readonly server=http://127.0.0.1:$port
readonly pod_cidr=10.62.0.0/16 service_cidr=10.63.0.0/16
ballast=${CARGO_TARGET_DIR:-$PWD/target}/debug/ballast
work=$(mktemp -d /tmp/ballast-demo.XXXXXX)
repo=$work/shop
daemon='' own_engine=''
images=()
failures=0

bold() { if [ -t 1 ]; then printf '\033[1m%s\033[0m\n' "$*"; else printf '%s\n' "$*"; fi; }
say() { printf '    %s\n' "$*"; }
step() { printf '\n'; bold "▸ $*"; }
good() { printf '    ✓ %s\n' "$*"; }
bad() { printf '    ✗ %s\n' "$*"; failures=$((failures + 1)); }

engine() { docker "$@"; }
client() { engine run --label "ballast.tour=$work" "$@"; }

# --- what the host had before, to be put back at the end
declare -A sysctls
for key in net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.default.forwarding \
  net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables; do
  sysctls[$key]=$(sysctl -n "$key" 2>/dev/null || true)
done
had_bridge_filter=$([ -e /proc/sys/net/bridge ] && echo yes || true)
had_run_docker=$([ -e /run/docker ] && echo yes || true)
had_docker0=$(ip link show docker0 >/dev/null 2>&1 && echo yes || true)

remember_rules() {
  local program
  for program in iptables ip6tables; do "$program-save" >"$work/$program.before" 2>/dev/null || true; done
  ipset -n list >"$work/sets.before" 2>/dev/null || true
}

# What a dockerd leaves when it ends: its chains, the rules that name them or its bridge, and its
# policy. What was there before it stays, and so does what others added meanwhile.
forget_dockerd() {
  local program table before after policy set
  for program in iptables ip6tables; do
    before=$work/$program.before after=$work/$program.after
    "$program-save" >"$after" 2>/dev/null || continue
    for table in $(sed -n 's/^\*//p' "$after"); do
      {
        echo "*$table"
        in_table "$table" "$after" | grep -i '^-A.*docker' | grep -vxFf <(in_table "$table" "$before") | sed 's/^-A/-D/'
        comm -23 <(chains "$table" "$after") <(chains "$table" "$before") | grep '^DOCKER' | sed 's/^/-X /'
        echo COMMIT
      } >"$work/rules"
      "$program-restore" --noflush <"$work/rules" || code=1
    done
    policy=$(forward_policy "$before")
    [ "$policy" = "$(forward_policy "$after")" ] || "$program" -w -P FORWARD "$policy"
  done
  [ -n "$had_docker0" ] || ip link del docker0 2>/dev/null
  # Empty, or somebody else's by now.
  [ -n "$had_run_docker" ] || rmdir /run/docker/plugins /run/docker 2>/dev/null
  for set in $(ipset -n list 2>/dev/null | grep '^docker-'); do
    grep -qxF "$set" "$work/sets.before" || ipset destroy "$set"
  done
}
in_table() { sed -n "/^\*$1\$/,/^COMMIT/p" "$2"; }
chains() { in_table "$1" "$2" | sed -n 's/^:\([^ ]*\).*/\1/p' | sort; }
forward_policy() { in_table filter "$1" | grep -q '^:FORWARD DROP' && echo DROP || echo ACCEPT; }

# The kernel's parameters as they were, and no filter on bridges where there was none: the module's
# values go with it; where it cannot go, they are switched off.
put_back_kernel() {
  local key
  if [ -z "$had_bridge_filter" ] && [ -e /proc/sys/net/bridge ] && ! modprobe -r br_netfilter 2>/dev/null; then
    sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
  fi
  for key in "${!sysctls[@]}"; do
    [ -z "${sysctls[$key]}" ] || [ "${sysctls[$key]}" = "$(sysctl -n "$key")" ] || sysctl -qw "$key=${sysctls[$key]}"
  done
}

# In a session of its own: no key of this terminal reaches it.
alone() { setsid -w "$@"; }
labelled() { alone docker ps -aq --filter "label=$1"; }
stop() { # SIGTERM, and SIGKILL after 20 s
  local pid
  for pid in "$@"; do
    kill "$pid"
    for _ in {1..200}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null
    wait "$pid"
  done
}

cleanup() {
  local code=$?
  trap - EXIT
  # A second Ctrl-C does not leave half of it behind.
  trap '' INT TERM HUP
  set +e
  step "Leaving: the tour removes what it made"
  # Every job, not $daemon alone: a signal may come before that is set.
  stop $(jobs -p) 2>/dev/null
  if [ -e "$work/data" ]; then
    # Again where the engine finished a request of the ended daemon after the list.
    for _ in 1 2 3; do
      alone "$ballast" reset --installation "$installation" --data-dir "$work/data" --yes >"$work/reset.log" 2>&1 \
        && [ -z "$(labelled "ballast.dev/installation=$installation")" ] && break
    done || { cat "$work/reset.log"; code=1; }
  fi
  labelled "ballast.tour=$work" 2>/dev/null | xargs -r setsid -w docker rm -f >/dev/null
  for image in "${images[@]}"; do alone docker rmi -f "$image" >/dev/null 2>&1; done
  if [ -n "$own_engine" ]; then
    ENGINE_HOST=1 alone scripts/engine.sh stop "$own_engine" "$work/engine"
    forget_dockerd
  fi
  put_back_kernel
  if [ "$code" != 0 ]; then
    echo "--- the daemon's last lines:" >&2
    tail -n 40 "$work/daemon.log" >&2 2>/dev/null
  fi
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

wait_until() { # wait_until SECONDS WHAT COMMAND...: a dot a second
  local seconds=$1 what=$2 start=$SECONDS; shift 2
  printf '    … %s' "$what"
  until "$@" >/dev/null 2>&1; do
    if [ -n "$daemon" ] && ! kill -0 "$daemon" 2>/dev/null; then printf '\n'; bad "the daemon ended"; exit 1; fi
    if [ $((SECONDS - start)) -ge "$seconds" ]; then printf '\n'; bad "gave up after $seconds s"; return 1; fi
    sleep 0.3
    [ $(((SECONDS - start) % 2)) = 0 ] || printf '.'
  done
  printf ' %s s\n' $((SECONDS - start))
}

converged() { "$ballast" status --server "$server" | tee "$work/status" | grep -q . && "$ballast" status --server "$server" >/dev/null; }
applied() { "$ballast" status --server "$server" --output json 2>/dev/null | grep -q "\"id\": *\"$1\""; }
fetch() { client --rm ballast.example/client:v1 get "$1"; }
kube() { KUBECONFIG=/dev/null kubectl --server "$server" --cache-dir "$work/kube" "$@"; }
# Nobody's key, hooks or templates: they are for repositories of one's own.
git_here() { git -C "$repo" -c user.name=You -c user.email=you@example.invalid -c commit.gpgsign=false -c core.hooksPath=/dev/null "$@"; }
commit() { git_here commit -qam "$1"; git_here rev-parse HEAD; }

step "A Docker Engine and the example images"
if ! engine version >/dev/null 2>&1; then
  say "no engine runs here: starting dockerd for the tour"
  remember_rules
  # Everything of it below $work, and alone: Ctrl-C must not end it before the containers are removed.
  own_engine=ballast-tour-$$
  ENGINE_HOST=1 ENGINE_LIVE_RESTORE='' alone scripts/engine.sh start "$own_engine" "$work/engine"
  export DOCKER_HOST=unix://$work/engine/docker.sock
fi
for tag in web:v1 web:v2 web:v3 client:v1; do
  engine image inspect "ballast.example/$tag" >/dev/null 2>&1 || images+=("ballast.example/$tag")
done
examples/images.sh "$PWD/target/host-images"
engine load -q -i target/host-images/images.tar >/dev/null
good "web v1, v2, v3 and a client, built here from examples/: no registry is needed"

step "A Git repository, and one command that follows it"
mkdir -p "$repo"
cp -r examples/repo/. "$repo"
git_here init -q -b main --template=
git_here add -A
first=$(commit "The shop opens")
say "\$ ballast run $repo"
"$ballast" run "$repo" --installation "$installation" --data-dir "$work/data" --listen "127.0.0.1:$port" \
  --pod-cidr "$pod_cidr" --service-cidr "$service_cidr" --node-name demo-node >"$work/daemon.log" 2>&1 &
daemon=$!
wait_until 30 "the API answers" curl -sf "$server/healthz"
wait_until 90 "commit ${first:0:7} is applied" applied "$first"
wait_until 120 "the world matches the commit" converged || exit 1
kube get pods,deploy,svc -n shop | sed 's/^/    /'

step "The page, by the Service's address and by the node's"
cluster_ip=$(kube get svc -n shop web -o 'jsonpath={.spec.clusterIP}')
node_ip=$(kube get node demo-node -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')
wait_until 20 "http://$cluster_ip/ answers" fetch "http://$cluster_ip/" && good "ClusterIP: $(fetch "http://$cluster_ip/" | head -1)"
wait_until 20 "http://$node_ip:30080/ answers" fetch "http://$node_ip:30080/" && good "NodePort:  $(fetch "http://$node_ip:30080/" | head -1)"

step "A push rolls it: two clients request without pause meanwhile"
load_new=$(client -d ballast.example/client:v1 "http://$cluster_ip/" 25 new 5)
load_keep=$(client -d ballast.example/client:v1 "http://$cluster_ip/" 25 keep-alive 5)
sed -i 's|ballast.example/web:v1|ballast.example/web:v2|' "$repo/web.yaml"
second=$(commit "Serve v2")
say "git commit -m 'Serve v2'   # ${second:0:7}"
wait_until 30 "commit ${second:0:7} is applied" applied "$second"
kube rollout status -n shop deploy/web --timeout=90s | sed 's/^/    /' || bad "the rollout did not end"
for load in "new connections:$load_new" "keep-alive:$load_keep"; do
  engine wait "${load##*:}" >/dev/null
  result=$(engine logs "${load##*:}" 2>&1 | tail -n 1)
  if [[ $result == *" failed=0 "* && $result == *v2:* ]]; then good "${load%%:*}: $result"; else bad "${load%%:*}: $result"; fi
  engine rm -f "${load##*:}" >/dev/null
done

step "A killed container comes back, and is on record"
wait_until 60 "converged" converged || bad "not converged after the rollout"
running() { engine ps -q --filter "label=ballast.dev/installation=$installation" --filter "label=ballast.dev/kind=container"; }
before=$(running | wc -l)
victim=$(running | head -1)
say "\$ docker kill ${victim:0:12}"
engine kill "$victim" >/dev/null
recorded() { curl -s "$server/api/v1/drift" | grep -q "$1"; }
wait_until 30 "the drift is on record" recorded '"container"' || bad "no drift was recorded"
all_run() { [ "$(running | wc -l)" = "$before" ] && ! running | grep -q "$victim"; }
wait_until 60 "all $before containers run again" all_run && good "healed" || bad "not healed"

step "Flushed rules come back, and are on record"
mapfile -t chains < <(iptables-save -t nat 2>/dev/null | sed -n "s/^:\(BALLAST-$installation-[^ ]*\).*/\1/p")
say "\$ iptables -t nat -F  # only the tour's own ${#chains[@]} chains"
for chain in "${chains[@]}"; do iptables -w -t nat -F "$chain"; done
wait_until 30 "the drift is on record" recorded '"network"' || bad "no drift was recorded"
wait_until 30 "the page answers again" fetch "http://$cluster_ip/" && good "healed" || bad "not healed"
"$ballast" drift --server "$server" --all | sed 's/^/    /' || true

step "$([ $failures = 0 ] && echo "The tour is complete" || echo "The tour is complete: $failures step(s) failed")"
say "dashboard   $server/"
say "kubectl     kubectl --server $server get pods,deploy,svc,drifts -A"
say "repository  $repo   (commit to it and watch)"
[ -z "$own_engine" ] || say "containers  DOCKER_HOST=$DOCKER_HOST docker ps"
if [ -n "${ONCE:-}" ]; then exit $((failures > 0)); fi
say "Ctrl-C ends the tour and removes what it made."
trap 'exit $((failures > 0))' INT
wait "$daemon" || true
