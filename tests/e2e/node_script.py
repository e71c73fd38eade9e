"""Runs a script with a JavaScript SDK and returns what it reports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

NODE = Path(__file__).resolve().parent / "node"
ORDER = "import { order, say } from './order.mjs';"
SECONDS = 120.0


def run(code: str, *, folder: Path = NODE, imports: str = ORDER, **order: Any) -> list[Any]:
    """Runs a module in `folder`, with the packages there. Returns the values it reports with `say`."""
    assert (folder / "node_modules").is_dir(), "The SDKs are not there: run './local/setup.sh tests'."
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", f"{imports}\n{code}"],
        cwd=folder,
        input=json.dumps(order),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.split("\n") if line]
