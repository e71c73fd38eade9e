"""Runs scenarios in Chromium and returns what they saw. Screenshots are saved in build/screenshots."""

from __future__ import annotations

import atexit
import json
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from tests.e2e.browser.chromium import chromium

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "e2e" / "browser"
SCREENSHOTS = ROOT / "build" / "screenshots"
SECONDS = 300.0  # for a scenario
CLOSE_SECONDS = 10.0


class _Browser:
    """One Chromium, since its start takes as much as a short scenario."""

    def __init__(self) -> None:
        assert (SCRIPTS / "node_modules").is_dir(), "The browser's driver is not there: run './local/setup.sh tests'."
        path = chromium()
        assert path, "There is no Chromium: run './local/setup.sh tests'."
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS.parent / ".gitignore").write_text("*\n")
        self._node = subprocess.Popen(
            ["node", "browse.mjs", path],
            cwd=SCRIPTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        atexit.register(self.close)

    def close(self) -> None:
        try:
            self._node.communicate(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._node.kill()
            self._node.communicate()

    def run(self, order: dict[str, Any]) -> list[Any]:
        watchdog = threading.Timer(SECONDS, self._node.kill)
        watchdog.start()
        try:
            print(json.dumps(order), file=cast(IO[str], self._node.stdin), flush=True)
            seen = []
            for line in cast(IO[str], self._node.stdout):
                said = json.loads(line)
                if "seen" not in said:
                    assert said["error"] is None, said["error"]
                    return seen
                seen.append(said["seen"])
        except BrokenPipeError:
            pass
        finally:
            watchdog.cancel()
        _browser.cache_clear()
        raise AssertionError(f"The browser's driver has ended, or was ended: a scenario may take {SECONDS:.0f} s.")


_browser = cache(_Browser)


def browse(scenario: str, scenarios: str = "scenarios", **order: Any) -> list[Any]:
    """What a scenario of `scenarios.mjs`, or of another such module, says: a value at a time."""
    return _browser().run({**order, "scenario": scenario, "scenarios": scenarios, "screenshots": str(SCREENSHOTS)})
