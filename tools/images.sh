#!/usr/bin/env bash
# Builds the images of deploy/docker with the first builder that is found: images.sh [--allow-unpinned] [PIPELINE]
# BASE_IMAGE=python:3.12.12-slim-trixie@sha256:... names the base by its digest; REGISTRY is put in front of names.
set -euo pipefail
cd "$(dirname "$0")/.."

allow_unpinned=""
if [ "${1:-}" = "--allow-unpinned" ]; then
  allow_unpinned=yes
  shift
fi
pipeline="${1:-ocr}"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
base="${BASE_IMAGE:-python:3.12.12-slim-trixie}"

# A tag can be given other content at any time; a digest is the content.
if [[ ! "$base" =~ @sha256:[0-9a-f]{64}$ ]]; then
  if [ -z "$allow_unpinned" ]; then
    echo "no image was built: the base $base has no digest, so what it holds may change under its name" >&2
    echo "  docker buildx imagetools inspect ${base%%@*} --format '{{.Manifest.Digest}}'   # or: skopeo inspect" >&2
    echo "  prints it: BASE_IMAGE=${base%%@*}@sha256:... $0 $pipeline; or $0 --allow-unpinned for a try" >&2
    exit 1
  fi
  echo "warning: the base $base has no digest: these images are for a try, not to be handed on" >&2
fi

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

build() { # IMAGE FILE ARGUMENT...
  "$builder" build --tag "${REGISTRY:+$REGISTRY/}$1:$version" --file "deploy/docker/$2.Dockerfile" \
    --build-arg "BASE_IMAGE=$base" "${@:3}" .
}
build ipa-serving/service service
build ipa-serving/dataplane dataplane
build "ipa/$pipeline" stage --build-arg "PIPELINE=$pipeline"
