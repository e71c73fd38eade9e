"""Runs a scenario in Chromium and returns what it saw. Screenshots are saved in build/screenshots."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.e2e.browser.chromium import chromium

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "e2e" / "browser"
SCREENSHOTS = ROOT / "build" / "screenshots"
SECONDS = 300.0


def browse(scenario: str, scenarios: str = "scenarios", **order: Any) -> list[Any]:
    """What a scenario of `scenarios.mjs`, or of another such module, says: a value at a time."""
    assert (SCRIPTS / "node_modules").is_dir(), "The browser's driver is not there: run './local/setup.sh tests'."
    browser = chromium()
    assert browser, "There is no Chromium: run './local/setup.sh tests'."
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS.parent / ".gitignore").write_text("*\n")
    order |= {"scenario": scenario, "scenarios": scenarios, "chromium": browser, "screenshots": str(SCREENSHOTS)}
    with subprocess.Popen(
        ["node", "browse.mjs"], cwd=SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as node:
        watchdog = threading.Timer(SECONDS, node.kill)
        watchdog.start()
        try:
            seen, _ = node.communicate(json.dumps(order))
        finally:
            watchdog.cancel()
            node.kill()
    assert node.returncode == 0
    return [json.loads(line) for line in seen.split("\n") if line]
