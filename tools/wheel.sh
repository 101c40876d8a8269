#!/usr/bin/env bash
# Builds dist/*.whl of the last commit, the same bytes wherever and whenever: wheel.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath "${1:-dist}")

[ -z "$(git status --porcelain -- ipa pyproject.toml README.md LICENSE)" ] ||
  echo "what is not committed is not in the wheel" >&2
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
# From the commit, not the folder: nothing that lies about gets in, and times and modes are git's.
umask 022
git archive HEAD | tar -x --no-same-permissions -C "$tree"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .venv/bin/uv build --quiet --offline --wheel --no-build-isolation \
  --python .venv/bin/python --out-dir "$out" "$tree"
sha256sum "$out"/*.whl
