#!/bin/sh
# Sets up all that the local stack and the tests need: the environment in .venv, a Java, the Firestore emulator.
# What it can bring it brings; what it can't is one line with the remedy.
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
