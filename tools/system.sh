#!/usr/bin/env bash
# Installs by name what demo and tests use beside Python (Prometheus with promtool, PostgreSQL, Chromium, git,
# kustomize, skopeo, a registry, Helm, kubectl), where this machine allows it. Where it does not, the parts that need them are skipped, and
# say so. With --debian all but Helm and kubectl, which need .venv.
set -uo pipefail
if [ "${1:-}" != --debian ]; then
  .venv/bin/python "$(dirname "$0")/helm.py" || echo "not installed: helm, kubectl (their tests are skipped)"
fi
missing=()
command -v prometheus >/dev/null || missing+=(prometheus)
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
# Beside a whole Chromium too: the shell has the same engine, and a page takes a third of the time in it.
command -v chromium-headless-shell >/dev/null || missing+=(chromium-headless-shell)
command -v git >/dev/null || missing+=(git)
command -v kustomize >/dev/null || missing+=(kustomize)
command -v skopeo >/dev/null || missing+=(skopeo)
command -v docker-registry >/dev/null || missing+=(docker-registry)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  # Debian starts a packaged server at once; these are started by the tests, on ports of their own.
  if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
  fi
  # An update that fails for one source of several is no reason not to try.
  apt-get update -qq >/dev/null 2>&1
  # Debian alone has the shell.
  apt-cache show chromium-headless-shell >/dev/null 2>&1 || missing=("${missing[@]/%-headless-shell/}")
  RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 \
    && { echo "installed ${missing[*]}"; exit 0; }
fi
# A whole Chromium serves as well, if slower.
command -v chromium >/dev/null && missing=(${missing[*]/chromium*/})
[ ${#missing[@]} -eq 0 ] || echo "not installed: ${missing[*]} (their parts are skipped; on Debian: apt-get install ${missing[*]})"
exit 0
