#!/usr/bin/env bash
# Makes .venv from the hashed lock, with the first Python from 3.11 to 3.13 that is found.
set -euo pipefail
cd "$(dirname "$0")/.."

fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

python=""
for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.13 /usr/bin/python3; do
  if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && fits "$candidate"; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "ipa needs Python 3.11, 3.12 or 3.13 with venv; none was found. Name one with PYTHON=/path/to/python make install" >&2
  echo "(on Debian: apt-get install python3 python3-venv)" >&2
  exit 1
fi

started=$SECONDS
if [ ! -x .venv/bin/python ] || ! fits .venv/bin/python; then
  rm -rf .venv
  "$python" -m venv .venv
fi
# uv installs the lock, and comes of it as well: pip takes its entry alone, with version and hashes.
entry=$(sed -n '/^uv==/,/^ *#/{/#/!p}' requirements/all.txt)
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
  -r <(printf '%s\n' "$entry")
# Compiled now, since every process that imports scikit-learn uncompiled pays seconds for it.
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes --no-deps \
  -r requirements/all.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
touch .venv/.installed
echo "installed into .venv with $(.venv/bin/python --version) in $((SECONDS - started)) s"
