#!/usr/bin/env bash
# Builds the example images and loads them into the engine that DOCKER_HOST names: ballast.example/web
# :v1, :v2 and :v3 (never ready), and ballast.example/client:v1. Usage: build.sh [DIR]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-"$here/../../target/example-images"}
"$here/../images.sh" "$dir"
docker load -q -i "$dir/images.tar"
