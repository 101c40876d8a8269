#!/bin/sh
# Installs ipa from this copy of its repository into the Python that is found: its wheel is built here, and
# every other package comes from an index by the hashes of the lock. No index is asked for ipa itself.
set -eu
cd "$(dirname "$0")/../.."
python -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
  -r requirements/build.txt -r requirements/service.txt
python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
python -m pip install --quiet --no-deps --no-index dist/ipa_serving-*.whl
