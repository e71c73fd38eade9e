#!/bin/sh
# Installs what the local stack and the tests need: the environment in .venv, Java, and the Firestore emulator. For
# anything that it can't install it prints one line with the remedy. With `web` it also installs the web examples'
# packages, with `bench` the benchmark's peers and tools, and with `tests` all of these, the client SDKs, Chromium, and
# in build/clients those of Python's clients whose dependencies are not the project's.
# What uses clients/js is given what `npm pack` makes of it, as apps are.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FIREBASE_TOOLS=firebase-tools@15.34.2

fail() {
    echo "$1" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null || fail "There is no $PYTHON: install Python 3.11 or newer, or run make PYTHON=/path/to/python."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is older than 3.11: install Python 3.11 or newer, or run make PYTHON=/path/to/python."

# uv installs in seconds what takes pip half a minute.
sync() {
    .venv/bin/uv pip sync --quiet --require-hashes --python "$@"
}

wanted=$(cat requirements.txt requirements-dev.txt requirements-java.txt | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up .venv"
    "$PYTHON" -m venv --clear .venv || fail "$PYTHON can't make an environment: install its venv package (python3-venv)."
    sed -n '/^uv==/,/[^\\]$/p' requirements-dev.txt >.venv/uv.txt
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt ||
        fail "uv could not be installed: see pip's output above."
    sync .venv/bin/python requirements.txt requirements-dev.txt || fail "The packages could not be installed: see uv's output above."
    echo "$wanted" >.venv/installed
fi

if ! .venv/bin/python -m local.firestore_emulator java; then
    echo "Installing Java"
    sync .venv/bin/python requirements.txt requirements-dev.txt requirements-java.txt || fail "There is no Java and it could not be installed: install Java 11 or newer."
fi

if ! .venv/bin/python -m local.firestore_emulator jar; then
    echo "Installing the Firestore emulator"
    command -v npx >/dev/null ||
        fail "The Firestore emulator is missing: install Node.js, with which this script can install it, or run 'gcloud components install cloud-firestore-emulator'."
    npx --yes "$FIREBASE_TOOLS" setup:emulators:firestore >/dev/null ||
        fail "The Firestore emulator could not be installed: run 'gcloud components install cloud-firestore-emulator', or set FIRESTORE_EMULATOR_JAR."
fi

case "${1:-}" in
    tests) locks="bench/node/package-lock.json clients/js/package-lock.json $(echo tests/e2e/*/package-lock.json examples/*/package-lock.json)" ;;
    bench) locks=bench/node/package-lock.json ;;
    web) locks=$(echo examples/*/package-lock.json) ;;
    *) exit 0 ;;
esac

# The tests start the emulator some forty times.
[ "$1" != tests ] || .venv/bin/python -m local.firestore_emulator prepare

command -v npm >/dev/null || fail "There is no npm, which installs the JavaScript packages: install Node.js 20 or newer."
node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' ||
    fail "Node.js $(node --version) is too old for the JavaScript packages: install Node.js 20 or newer."
mkdir -p build
packed=build/$(npm pack ./clients/js --pack-destination build --silent) || fail "clients/js could not be packed: see npm's output above."
{
    [ "$1" = web ] || echo "./local/system.sh $1"
    echo "$locks" | tr ' ' '\n' | sed "s|.*|./local/packages.sh & $packed|"
} | xargs -P 4 -I COMMAND sh -c COMMAND || exit 1

wanted=$(cksum <requirements-clients.txt)
if [ "$1" = tests ] && [ "$(cat build/clients/installed 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up build/clients"
    { .venv/bin/uv venv --quiet --clear --python .venv/bin/python build/clients && sync build/clients/bin/python requirements-clients.txt; } ||
        fail "Python's clients could not be installed: see uv's output above."
    echo "$wanted" >build/clients/installed
fi
