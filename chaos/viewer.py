"""A viewer like an application's: it reads, loses its connection or leaves, and comes back where it was.

It records what it saw and when. Nothing here may judge that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import requests

from chaos.dialects import text_of
from chaos.question import CHAT, Question
from chaos.wires import Begun, Over, Said, Wire, refused
from local.client import Client, Frame

_PAUSE_SECONDS = (0.05, 0.4)
_AWAY_SECONDS = (0.05, 1.0)
_LOOK_SECONDS = 0.3  # until a list is asked for again


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame, when it was seen, and when its connection was opened (both on the monotonic clock)."""

    frame: Frame
    at: float
    opened: float


class Viewer:
    """One screen that shows an answer, by one of the service's protocols.

    Without an `asker` it starts the answer; otherwise it watches the asker's from the beginning. `leaves` are the
    places in the answer after which it leaves for a moment. `seen` are the events with numbers, of all connections, and
    `said` the texts of responses without them, each from the answer's first word on. `end` is `[DONE]`, or the code of
    the error that ended the stream or the request. It stops once `over` is set and its current response has ended.
    """

    def __init__(
        self,
        question: Question,
        client: Client,
        wire: type[Wire],
        chance: random.Random,
        over: threading.Event,
        *,
        asker: Viewer | None = None,
        leaves: Sequence[int] = (),
    ):
        self.question = question
        self.wire = wire(client, question)
        self.seen: list[Sight] = []
        self.said: list[str] = []
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
    def begun(self) -> bool:
        """Whether it has seen a word of the answer, or its end. An answer without a word may be started again."""
        words = (text_of(self.wire.dialect, sight.frame) for sight in self.seen)
        return any(words) or any(self.said) or self.end is not None

    @property
    def cursor(self) -> int:
        return self.seen[-1].frame.id or 0 if self.seen else 0

    def _run(self) -> None:
        try:
            if self._asker is not None:
                self._asker.started.wait()
                self.generation = self._asker.generation
                self._over.wait(self._chance.uniform(0.0, 1.0))
            elif not self.question.streamed:
                self.started.set()  # its response comes only with the answer's end
            self._watch()
        finally:
            self.started.set()
            self.close()

    def _watch(self) -> None:
        while self.end is None and not self._over.is_set():
            try:
                away = self._turn()
            except (requests.RequestException, OSError):
                away = _PAUSE_SECONDS  # the connection broke
            if self.end is None:
                self._over.wait(self._chance.uniform(*away))

    def _turn(self) -> tuple[float, float]:
        """Opens one response and reads it. Returns the range of seconds to stay away."""
        if self.generation is None and self._asker is not None:
            self.generation = next((each["id"] for each in self._client.list(chat_id=CHAT)), None)
            if self.generation is None:
                return _LOOK_SECONDS, _LOOK_SECONDS
        opened, cursor = time.monotonic(), self.cursor
        first = self.generation is None
        with self.wire.ask() if first else self.wire.follow(self.generation or "", cursor) as response:
            return self._read(response, opened, cursor)

    def _read(self, response: requests.Response, opened: float, cursor: int) -> tuple[float, float]:
        """Reads until the response ends or it is time to leave."""
        if response.status_code not in (200, 204):
            self.generation = response.headers.get("X-Generation-Id", self.generation)
            self.end = refused(self.wire.dialect, response).end
            return _PAUSE_SECONDS
        place = 0
        if not self.wire.numbered:
            self.said.append("")
        for told in self.wire.told(response, cursor):
            match told:
                case Begun(generation):
                    self.generation = generation
                    self.started.set()
                case Over(end):
                    self.end = end
                    break
                case Said(text):
                    self.said[-1] += text
                    place += 1
                case Frame():
                    self.seen.append(Sight(told, time.monotonic(), opened))
                    place = told.id or 0
            if self._leaves and place >= self._leaves[0]:
                self._leaves = [number for number in self._leaves if number > place]
                return _AWAY_SECONDS
            if self._over.is_set():
                break
        return _PAUSE_SECONDS
