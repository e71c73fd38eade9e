#!/bin/sh
# Sets up all that the local stack and the tests need: the environment in .venv, a Java, the Firestore emulator.
# What it can bring it brings; what it can't is one line with the remedy. With `tests`, the client SDKs
# and a Chromium as well; with `web`, the web example's packages.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FIREBASE_TOOLS=firebase-tools@15.34.2

fail() {
    echo "$1" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null || fail "There is no $PYTHON: install Python 3.11 or newer, or say make PYTHON=/path/to/python."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is older than 3.11: install Python 3.11 or newer, or say make PYTHON=/path/to/python."

install() {
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes "$@"
}

wanted=$(cat requirements.txt requirements-dev.txt requirements-java.txt | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up .venv"
    "$PYTHON" -m venv --clear .venv || fail "$PYTHON can't make an environment: install its venv package (python3-venv)."
    install -r requirements.txt -r requirements-dev.txt || fail "The packages could not be installed: see pip's words above."
    echo "$wanted" >.venv/installed
fi

if ! .venv/bin/python -m local.firestore_emulator java; then
    echo "Bringing a Java"
    install -r requirements-java.txt || fail "There is no Java and none could be brought: install Java 11 or newer."
fi

if ! .venv/bin/python -m local.firestore_emulator jar; then
    echo "Bringing the Firestore emulator"
    command -v npx >/dev/null ||
        fail "The Firestore emulator is missing: install Node.js for the set-up to bring it, or run 'gcloud components install cloud-firestore-emulator'."
    npx --yes "$FIREBASE_TOOLS" setup:emulators:firestore >/dev/null ||
        fail "The Firestore emulator could not be brought: run 'gcloud components install cloud-firestore-emulator', or set FIRESTORE_EMULATOR_JAR."
fi

if [ "${1:-}" = tests ] || [ "${1:-}" = web ]; then
    command -v npm >/dev/null || fail "There is no npm, which brings the clients' SDKs: install Node.js 20 or newer."
    node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' ||
        fail "Node.js $(node --version) is too old for the clients' SDKs: install Node.js 20 or newer."
    locks=examples/web/package-lock.json
    [ "$1" = web ] || locks="$locks $(echo tests/e2e/*/package-lock.json)"
    for lock in $locks; do
        folder=${lock%/*}
        wanted=$(cat "$folder/package.json" "$lock" | cksum)
        if [ "$(cat "$folder/node_modules/.installed" 2>/dev/null)" != "$wanted" ]; then
            echo "Setting up $folder"
            npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null ||
                fail "The packages of $folder could not be installed: see npm's words above."
            echo "$wanted" >"$folder/node_modules/.installed"
        fi
    done
fi

if [ "${1:-}" = tests ] && ! .venv/bin/python -m tests.e2e.browser.chromium; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "There is no Chromium for the browser's tests: install one ('sudo apt-get install chromium'), or set CHROMIUM to it."
    fi
    echo "Bringing Chromium"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null ||
        fail "Chromium could not be installed: see apt-get's words above, or set CHROMIUM to one."
fi
