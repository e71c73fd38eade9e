#!/bin/sh
# Installs the system's packages that the bench needs, and with `tests` those of the tests, unless they are there.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/usr/local/sbin

missing=
instead=
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v nghttpx >/dev/null || missing="$missing nghttp2-proxy"
if [ "$1" = tests ] && ! .venv/bin/python -m tests.e2e.browser.chromium; then
    missing="$missing chromium"
    instead=", or set CHROMIUM to one"
fi
[ "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed:$missing. Install them ('sudo apt-get install$missing')$instead." >&2
    exit 1
fi
echo "Installing$missing"
# shellcheck disable=SC2086  # each of them is a word
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null || {
    echo "Could not be installed:$missing. See apt-get's output above$instead." >&2
    exit 1
}
