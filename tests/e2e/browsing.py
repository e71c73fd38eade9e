"""Runs a scenario in Chromium and returns what it saw. Screenshots are saved in build/screenshots."""

from __future__ import annotations

import atexit
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.e2e.browser.chromium import chromium

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "e2e" / "browser"
SCREENSHOTS = ROOT / "build" / "screenshots"
SECONDS = 250.0  # for a scenario: less than a test may take
END_SECONDS = 20.0


class Browser:
    """One Chromium for all tests of a process, since a start takes longer than most scenarios. It starts at need."""

    def __init__(self) -> None:
        self._node: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def play(self, order: dict[str, Any]) -> list[Any]:
        """What a scenario says, in a profile of its own. After one that fails, a new Chromium plays the next."""
        node = self._started()
        assert node.stdin is not None
        assert node.stdout is not None
        watchdog = threading.Timer(SECONDS, node.kill)
        watchdog.start()
        seen = []
        try:
            node.stdin.write(json.dumps(order) + "\n")
            node.stdin.flush()
            for line in map(json.loads, node.stdout):
                if "failed" in line:
                    assert line["failed"] is None, line["failed"]
                    return seen
                seen.append(line["seen"])
            raise AssertionError("The browser's driver has ended.")
        except BaseException:
            node.kill()  # so that the next scenario reads nothing of this one
            raise
        finally:
            watchdog.cancel()

    def _started(self) -> subprocess.Popen[str]:
        if self._node is None or self._node.poll() is not None:
            assert (SCRIPTS / "node_modules").is_dir(), "The driver is not there: run './local/setup.sh tests'."
            browser = chromium()
            assert browser, "There is no Chromium: run './local/setup.sh tests'."
            self.close()
            self._node = subprocess.Popen(
                ["node", "browse.mjs", browser],
                cwd=SCRIPTS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        return self._node

    def close(self) -> None:
        """Ends Chromium, as the end of its driver's orders does."""
        if self._node is None:
            return
        node, self._node = self._node, None
        try:
            node.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            node.kill()
            node.communicate()


_BROWSER = Browser()


def browse(scenario: str, scenarios: str = "scenarios", **order: Any) -> list[Any]:
    """What a scenario of `scenarios.mjs`, or of another such module, says: a value at a time."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS.parent / ".gitignore").write_text("*\n")
    return _BROWSER.play(order | {"scenario": scenario, "scenarios": scenarios, "screenshots": str(SCREENSHOTS)})
