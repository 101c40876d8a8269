#!/usr/bin/env bash
# Builds the images of deploy/docker, and the chart beside them: images.sh [--allow-unpinned] [PIPELINE...]
# By default as root on Debian, with neither a registry nor a container engine: on a base of Debian's own archive, by
# mmdebstrap and buildah, into the OCI layout build/images. DEBIAN_MIRROR replaces the archive's address.
# With BASE_IMAGE=python:3.13.5-slim-trixie@sha256:... on that base instead, by docker, podman or buildah, into its own
# store. REGISTRY is put in front of names. PIPELINE: whose stages; of all that can run if none is given.
set -euo pipefail
cd "$(dirname "$0")/.."

# The release of the base. tools/sbom.py reads the Python that it has.
suite=trixie python=3.13.5
out=build

allow_unpinned=""
if [ "${1:-}" = "--allow-unpinned" ]; then
  allow_unpinned=yes
  shift
fi
pipelines=("$@")
if [ ${#pipelines[@]} -eq 0 ]; then
  for each in pipelines/*/runtime.py; do
    each=${each%/runtime.py}
    [[ "$(<"$each/pipeline.yaml")" == *$'\nrunnable: false'* ]] || pipelines+=("${each#pipelines/}")
  done
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)

fail() {
  echo "no image was built: $1" >&2
  exit 1
}

built=()
build_all() { # BUILDER BASE BUILD_BASE OPTION...
  build() { # IMAGE FILE ARGUMENT...
    "${builder[@]}" build "${options[@]}" --tag "${REGISTRY:+$REGISTRY/}$1:$version" \
      --file "deploy/docker/$2.Dockerfile" --build-arg "BASE_IMAGE=$base" --build-arg "BUILD_IMAGE=$build_base" "${@:3}" .
    built+=("${REGISTRY:+$REGISTRY/}$1:$version")
  }
  build ipa-serving/service service
  build ipa-serving/dataplane dataplane
  for each in "${pipelines[@]}"; do
    build "ipa/$each" stage --build-arg "PIPELINE=$each"
  done
}

if [ -n "${BASE_IMAGE:-}" ]; then
  base="$BASE_IMAGE" build_base="$BASE_IMAGE" options=()
  # A tag can be given other content at any time; a digest is the content.
  if [[ ! "$base" =~ @sha256:[0-9a-f]{64}$ ]]; then
    if [ -z "$allow_unpinned" ]; then
      echo "no image was built: the base $base has no digest, so what it holds may change under its name" >&2
      echo "  docker buildx imagetools inspect ${base%%@*} --format '{{.Manifest.Digest}}'   # or: skopeo inspect" >&2
      echo "  prints it: BASE_IMAGE=${base%%@*}@sha256:... $0 $*; or $0 --allow-unpinned for a try" >&2
      exit 1
    fi
    echo "warning: the base $base has no digest: these images are for a try, not to be handed on" >&2
  fi
  for candidate in docker podman buildah; do
    if command -v "$candidate" >/dev/null; then
      builder=("$candidate")
      build_all
      exit
    fi
  done
  fail "none of docker, podman, buildah is here"
fi

missing=()
for each in mmdebstrap buildah; do
  command -v "$each" >/dev/null || missing+=("$each")
done
# No network is made, but buildah ends without what would make it; Debian's does not ask for it.
[ -e /usr/lib/podman/netavark ] || missing+=(netavark)
[ "$(id -u)" -eq 0 ] || fail "a base of Debian's own archive is made by root; or give a BASE_IMAGE with its digest"
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "${missing[*]} not found (on Debian: apt-get install ${missing[*]}); or give a BASE_IMAGE"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null || true # one source of several may fail; the install below says what is missing
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "${missing[*]} cannot be installed; try: apt-get install ${missing[*]}"
fi
# Without capabilities such as those of a container without CAP_SYS_ADMIN nothing can be mounted.
unshare --mount true 2>/dev/null || fail "this root may not mount: it needs CAP_SYS_ADMIN (docker run --privileged)"

mkdir -p "$out/base" "$out/storage" "$out/run"
# How this machine reaches the archive and Python's packages (proxies, certificates) counts in the builds, and stays out
# of the images.
apt-config dump | grep '^Acquire::' >"$out/base/machine.conf"
# As many open files and processes as this shell may have: a container's usual million may be more than that.
options=(--isolation chroot --network host --ulimit "nofile=$(ulimit -Hn):$(ulimit -Hn)"
  --ulimit "nproc=$(ulimit -Hu):$(ulimit -Hu)" --layers --quiet --volume "$PWD/$out/base/machine.conf:/etc/apt/apt.conf.d/99machine:ro")
for each in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  [ ! -e "$each" ] || options+=(--volume "$each:$each:ro")
done
builder=(buildah --root "$PWD/$out/storage" --runroot "$PWD/$out/run")

debian() { # NAME PACKAGES: a local image of these packages of today's archive
  local tar="$out/base/$1.tar" image="localhost/ipa-serving/$1:$suite" container
  # Within a day the archive need not be asked again.
  if [ -n "$(find "$tar" -mtime -1 2>/dev/null)" ]; then
    ! "${builder[@]}" inspect --type image "$image" >/dev/null 2>&1 || return 0
  else
    rm -f "$tar"
  fi
  # Files that the installation makes are of this day; those of packages keep their times, by which Python knows that
  # its compiled files are up to date.
  [ -e "$tar" ] || SOURCE_DATE_EPOCH=$(date --utc --date=00:00 +%s) mmdebstrap --quiet --mode=root --variant=apt --format=tar \
    --include="$2" --skip=output/dev --aptopt="$out/base/machine.conf" \
    --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' "$suite" "$tar.new" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  [ -e "$tar" ] || mv "$tar.new" "$tar"
  container=$("${builder[@]}" from scratch)
  "${builder[@]}" add --quiet "$container" "$tar" / >/dev/null
  "${builder[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 "$container"
  "${builder[@]}" commit --quiet --rm "$container" "$image" >/dev/null
}
echo "base: Debian $suite"
debian base ca-certificates,python3
debian build ca-certificates,python3,python3-venv,python3-pip
base="localhost/ipa-serving/base:$suite" build_base="localhost/ipa-serving/build:$suite"
found=$(tar -xOf "$out/base/base.tar" ./var/lib/dpkg/status | sed -n '/^Package: python3$/,/^$/s/^Version: \([0-9.]*\).*/\1/p')
[ "${found%.*}" = "${python%.*}" ] || fail "Debian $suite has Python $found; the SBOMs are for $python"
build_all

rm -rf "$out/images"
for each in "${built[@]}"; do
  "${builder[@]}" push --quiet --format oci "$each" "oci:$out/images:$each"
done
"${PY:-.venv/bin/python}" -m tools.chart_artifact "$out/images"
# What earlier builds left is in nobody's way, and takes room.
"${builder[@]}" rm --all >/dev/null
"${builder[@]}" rmi --prune >/dev/null 2>&1 || true
"${PY:-.venv/bin/python}" -m tools.image_report "$out/images"
