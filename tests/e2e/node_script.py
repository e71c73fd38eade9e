"""Runs a script with a JavaScript SDK and returns what it reports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

NODE = Path(__file__).resolve().parent / "node"
SECONDS = 120.0


def run(code: str, **order: Any) -> list[Any]:
    """Runs a module. Returns the values it reports with `say`. It can use `order` and the packages in `node/`."""
    assert (NODE / "node_modules").is_dir(), "The SDKs are not there: run './local/setup.sh tests'."
    script = f"import {{ order, say }} from './order.mjs';\n{code}"
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        cwd=NODE,
        input=json.dumps(order),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.split("\n") if line]
