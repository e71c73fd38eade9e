"""Where this machine has a Chromium: at `CHROMIUM`, or under a usual name. As a script, says whether it has one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MAC = (
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
)


def chromium() -> str | None:
    places = (os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES), *(str(path) for path in _MAC if path.exists()))
    return next(filter(None, places), None)


if __name__ == "__main__":
    sys.exit(chromium() is None)
