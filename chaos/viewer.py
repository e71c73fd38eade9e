"""A viewer like an application's: it reads, loses its connection or leaves, and comes back with its cursor.

It records what it saw and when. Nothing here may judge that.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import requests

from chaos.question import CHAT, Question
from local.client import Client, Frame, Stream

DONE = "[DONE]"
_COME_BACK = frozenset({"still_running", "unavailable"})  # errors that may end a stream although the answer continues
_PAUSE_SECONDS = (0.05, 0.4)
_AWAY_SECONDS = (0.05, 1.0)


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame, when it was seen, and when its connection was opened (both on the monotonic clock)."""

    frame: Frame
    at: float
    opened: float


class Viewer:
    """One screen that shows an answer.

    Without an `asker` it starts the answer; otherwise it watches the asker's from the beginning. `leaves` are the event
    numbers after which it leaves for a moment. `end` is `[DONE]`, or the code of the error that ended the stream or the
    request. It stops once `over` is set and its current response has ended.
    """

    def __init__(
        self,
        question: Question,
        client: Client,
        chance: random.Random,
        over: threading.Event,
        *,
        asker: Viewer | None = None,
        leaves: Sequence[int] = (),
    ):
        self.question = question
        self.seen: list[Sight] = []
        self.generation: str | None = None
        self.started = threading.Event()
        self.end: str | None = None
        self._client = client
        self._chance = chance
        self._over = over
        self._asker = asker
        self._leaves = sorted(leaves)
        self._thread = threading.Thread(target=self._run, name=f"viewer-{question.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, deadline: float) -> bool:
        """Waits until it has stopped, or until `deadline`. Returns whether it has stopped."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def close(self) -> None:
        """Closes its connections. Also works if it was never started."""
        self._client.session.close()

    @property
    def cursor(self) -> int:
        return self.seen[-1].frame.id or 0 if self.seen else 0

    def _run(self) -> None:
        try:
            if self._asker is not None:
                self._asker.started.wait()
                self.generation = self._asker.generation
                self._over.wait(self._chance.uniform(0.0, 1.0))
            self._watch()
        finally:
            self.started.set()
            self.close()

    def _watch(self) -> None:
        while self.end is None and not self._over.is_set():
            try:
                opened = time.monotonic()
                with self._open() as stream:
                    away = self._read(stream, opened)
            except (requests.RequestException, OSError):
                away = _PAUSE_SECONDS  # the connection broke
            if self.end is None:
                self._over.wait(self._chance.uniform(*away))

    def _open(self) -> Stream:
        if self.generation is None:
            return self._client.stream(self.question.body, X_Chat_Id=CHAT, X_Message_Id=self.question.name)
        return self._client.resume(self.generation, self.cursor)

    def _read(self, stream: Stream, opened: float) -> tuple[float, float]:
        """Reads until the response ends or it is time to leave. Returns the range of seconds to stay away."""
        response = stream.response
        if response.status_code != 200:
            self._take_refusal(response)
            return _PAUSE_SECONDS
        self.generation = stream.generation
        self.started.set()
        for frame in stream.frames():
            if frame.id is None:
                code = DONE if frame.data == DONE else json.loads(frame.data)["error"]["code"]
                self.end = None if code in _COME_BACK else code
                break
            self.seen.append(Sight(frame, time.monotonic(), opened))
            if self._leaves and frame.id >= self._leaves[0]:
                self._leaves = [number for number in self._leaves if number > frame.id]
                return _AWAY_SECONDS
            if self._over.is_set():
                break
        return _PAUSE_SECONDS

    def _take_refusal(self, response: requests.Response) -> None:
        """Handles an error response. With a generation's id it is the upstream's refusal, which is final."""
        if "X-Generation-Id" in response.headers:
            self.generation = response.headers["X-Generation-Id"]
            self.end = f"status {response.status_code}"
        elif response.status_code != 503:
            self.end = f"status {response.status_code}: {response.text[:200]}"
