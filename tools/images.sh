#!/usr/bin/env bash
# Builds the images of deploy/docker with the first builder that is found: images.sh [PIPELINE]
set -euo pipefail
cd "$(dirname "$0")/.."

pipeline="${1:-ocr}"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)

builder=""
for candidate in docker podman buildah; do
  if command -v "$candidate" >/dev/null; then
    builder="$candidate"
    break
  fi
done
if [ -z "$builder" ]; then
  echo "no image was built: none of docker, podman, buildah is here" >&2
  exit 1
fi

# REGISTRY=registry.example puts its name in front.
build() { # IMAGE FILE ARGUMENT...
  "$builder" build --tag "${REGISTRY:+$REGISTRY/}$1:$version" --file "deploy/docker/$2.Dockerfile" "${@:3}" .
}
build ipa-serving/service service
build ipa-serving/dataplane dataplane
build "ipa/$pipeline" stage --build-arg "PIPELINE=$pipeline"
