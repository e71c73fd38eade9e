#!/bin/sh
# Installs the JavaScript packages of one lock file, unless they are there. The second argument is what `npm pack` made
# of clients/js.
set -eu
lock=$1 packed=$2
folder=${lock%/*}
grep -q "file:.*$packed" "$lock" || packed=
wanted=$(cat "$folder/package.json" "$lock" ${packed:+"$packed"} | cksum)
if [ "$(cat "$folder/node_modules/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Setting up $folder"
    npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || {
        echo "The packages of $folder could not be installed: see npm's output above." >&2
        exit 1
    }
    echo "$wanted" >"$folder/node_modules/.installed"
fi
