#!/usr/bin/env bash
# Builds the example images without a registry and without an engine: static binaries, `docker load`
# archives. Usage: images.sh DIR; leaves DIR/images.tar. Does nothing when it is newer than the sources.
#
#   ballast.example/web:v1, :v2    examples/web/main.rs
#   ballast.example/web:v3         the same, never ready
#   ballast.example/client:v1      examples/client/main.rs
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
mkdir -p "$dir"
exec 9>"$dir/.lock"; flock 9
if [ -e "$dir/images.tar" ] && [ -z "$(find "$here/web" "$here/client" "$0" -newer "$dir/images.tar" -type f)" ]; then exit 0; fi

compile() { rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols "$here/$1/main.rs" -o "$dir/$1"; }
compile web
compile client

arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/out"
manifest=()

layer() { # layer NAME: a tar with one program at the root, the same bytes every time
  tar -C "$dir" --owner=0 --group=0 --mtime=@0 --mode=0755 -cf "$work/out/$1.tar" "$1"
  sha256sum "$work/out/$1.tar" | cut -d' ' -f1
}
image() { # image TAG PROGRAM DIFF_ID ENV
  local config; config=$(printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Entrypoint":["/%s"],"Env":[%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$arch" "$2" "$4" "$3")
  local id; id=$(printf '%s' "$config" | sha256sum | cut -d' ' -f1)
  printf '%s' "$config" > "$work/out/$id.json"
  manifest+=("{\"Config\":\"$id.json\",\"RepoTags\":[\"$1\"],\"Layers\":[\"$2.tar\"]}")
}
web=$(layer web)
client=$(layer client)
image ballast.example/web:v1 web "$web" '"VERSION=v1"'
image ballast.example/web:v2 web "$web" '"VERSION=v2"'
image ballast.example/web:v3 web "$web" '"VERSION=v3","NEVER_READY=1"'
image ballast.example/client:v1 client "$client" ''
(IFS=,; printf '[%s]' "${manifest[*]}") > "$work/out/manifest.json"
tar -C "$work/out" -cf "$dir/images.tar.new" .
mv "$dir/images.tar.new" "$dir/images.tar"
