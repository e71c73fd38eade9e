"""Firebase's web SDK, as scripts of web/ that are run against a stack's Firestore."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.stack import Stack
from local.token import PROJECT, id_token

WEB = Path(__file__).resolve().parent / "web"
SECONDS = 120.0


def path_of(user: str, message: str) -> str:
    return f"users/{user}/chats/followed/messages/{message}"


@dataclass(frozen=True)
class Attempt:
    """One thing that a script is to try, as the user of a token, or as nobody."""

    user: str | None
    action: str
    path: str
    data: Any = None


class WebSdk:
    """The SDK's scripts against a stack's Firestore."""

    def __init__(self, stack: Stack, project: str = PROJECT, path_of: Callable[[str, str], str] = path_of):
        self._stack = stack
        self._path_of = path_of
        self.project = project

    def follow(
        self, user: str, message: str, body: dict[str, Any], stop_at: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Asks for an answer in the chat `followed`: each change as its follower is shown it, and what it got last."""
        return self._run(["listen.mjs"], {**self._asked(user, message, body), "stopAt": stop_at})

    def run(self, code: str, user: str, message: str, body: dict[str, Any]) -> list[Any]:
        """What a module of this code says, which may use what `app.mjs` and `asking.mjs` have."""
        return list(self._run(["--input-type=module", "--eval", code], self._asked(user, message, body)))

    def _asked(self, user: str, message: str, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": self._stack.url,
            "user": user,
            "token": id_token(user),
            "path": self._path_of(user, message),
            "chat": "followed",
            "id": message,
            "body": {"model": "demo", **body},
        }

    def outcomes(self, attempts: Iterable[Attempt]) -> list[str]:
        """What came of each: `ok`, or the error's code."""
        told = [
            {
                "as": None if each.user is None else id_token(each.user, self.project),
                "action": each.action,
                "path": each.path,
                "data": each.data,
            }
            for each in attempts
        ]
        return list(self._run(["attempt.mjs"], {"attempts": told}))

    def _run(self, arguments: list[str], order: dict[str, Any]) -> Iterator[Any]:
        where = {"host": "127.0.0.1", "port": self._stack.ports.firestore_port, "project": self.project}
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
            subprocess.Popen(
                ["node", *arguments],
                cwd=WEB,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
            ) as node,
        ):
            assert node.stdin is not None
            assert node.stdout is not None
            watchdog = threading.Timer(SECONDS, node.kill)
            watchdog.start()
            try:
                node.stdin.write(json.dumps({**where, **order}))
                node.stdin.close()
                yield from map(json.loads, node.stdout)
                node.wait()
                complaints.seek(0)
                assert node.returncode == 0, complaints.read()[-4000:]
            finally:
                watchdog.cancel()
                node.kill()
