"""Whether a part of the stack answers."""

from __future__ import annotations

import urllib.error
import urllib.request

ANSWER_SECONDS = 5.0


def answers(url: str, refused: int | None = None) -> bool:
    """Whether a part answers a GET, or if `refused` is given, answers a POST with that status."""
    request = urllib.request.Request(url, method="POST" if refused else "GET")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return refused is None
    except urllib.error.HTTPError as error:
        return error.code == refused
    except OSError:
        return False
