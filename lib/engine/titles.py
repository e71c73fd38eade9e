"""A chat's title: a model writes it after the chat's first answer, where the operator has named one.

It is written in the worker's request and after the commit that ended the answer, so nobody waits for it. Of several
answers that end at once, and however often a task is delivered, one alone makes the call: it has claimed the title
first. Nothing here may fail a generation, and nothing that is asked or said here may reach a log line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import orjson

from lib.cloud.documents import Refused
from lib.cloud.store import RequestLost, Store
from lib.dialects.conversation import Conversation, Role, Turn, Words
from lib.dialects.protocol import Answer, Dialect, Outgoing
from lib.domain.end import State
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.engine.buffer import Buffer
from lib.engine.reader import Reader
from lib.journal.writer import Clock
from lib.runtime.catalog import Upstream, Usage
from lib.runtime.logs import labelled
from lib.runtime.settings import Settings
from lib.upstream.call import Call
from lib.upstream.fault import UpstreamFault

TITLE_SECONDS = 20.0  # for the whole call
TITLE_TOKENS = 100  # of output
TITLE_CHARACTERS = 80
EXCERPT_CHARACTERS = 2000  # of the question, and of the answer
_AROUND = " \t\"'`“”„‘’«»*#"  # what models put around a title

NewCall = Callable[[Upstream, Outgoing], Call]

log = logging.getLogger(__name__)


class Titles:
    """Writes titles. `new_call` makes the upstream calls, each of which may take so many `seconds`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        dialects: Mapping[str, Dialect],
        new_call: NewCall,
        clock: Clock,
        *,
        seconds: float = TITLE_SECONDS,
    ):
        self._settings = settings
        self._store = store
        self._dialects = dialects
        self._new_call = new_call
        self._clock = clock
        self._seconds = seconds

    def write(self, generation_id: str) -> None:
        """Gives the chat of a generation that has ended a title, if it is to have one. Raises nothing."""
        if self._settings.title_model is None:
            return
        with labelled(generation=generation_id):
            try:
                self._write(self._settings.title_model, generation_id)
            except UpstreamFault as fault:
                log.warning("title not written", extra={"reason": fault.reason, "status": fault.status})
            except (Unreachable, Refused) as error:
                log.warning("title not written", extra={"cause": type(error).__name__})
            except Exception:
                log.exception("a title could not be written")

    def _write(self, model: str, generation_id: str) -> None:
        generation, chats = self._store.generation(generation_id), self._store.chats
        if generation is None or not generation.state.terminal or generation.state is State.FAILED:
            return
        if not chats.untitled(generation) or not (answer := chats.content(generation)):
            return
        upstream = self._settings.catalog.serving(model)
        dialect = next(self._dialects[name] for name in upstream.speaks if name in self._dialects)
        request = dialect.written(self._conversation(model, generation, answer))
        if not chats.claim(generation, self._clock()):
            return
        begun = time.monotonic()
        said = dialect.answer()
        try:
            self._ask(upstream, dialect, request, said)
        except UpstreamFault:
            if said.silent:
                chats.release(generation)
            raise
        title = tidied(str(said.said().fields["content"]))
        written = bool(title) and chats.set_title(generation, title)
        log.info(
            "title written" if written else "title dropped",
            extra={
                "upstream": upstream.name,
                "cause": None if written else "changed" if title else "empty",
                "durationMs": round(1000 * (time.monotonic() - begun)),
                "tokens": said.said().output_tokens,
                "inputTokens": said.said().input_tokens,
            },
        )

    def _conversation(self, model: str, generation: Generation, answer: str) -> Conversation:
        """The request for a title. What was said is quoted in one turn, so that no model goes on with it."""
        quoted = f"<question>{self._question(generation)}</question>\n<answer>{answer[:EXCERPT_CHARACTERS]}</answer>"
        return Conversation(
            model=model,
            instructions=self._settings.title_prompt,
            turns=(Turn(role=Role.USER, parts=(Words(text=quoted),)),),
            output_tokens=TITLE_TOKENS,
        )

    def _question(self, generation: Generation) -> str:
        """The beginning of what was asked, or nothing where that can't be known any more. Errors: `Unreachable`."""
        dialect = self._dialects.get(generation.dialect)
        try:
            request = orjson.loads(self._store.request(generation))
        except (RequestLost, orjson.JSONDecodeError):
            return ""
        return dialect.question(request)[:EXCERPT_CHARACTERS] if dialect is not None else ""

    def _ask(self, upstream: Upstream, dialect: Dialect, request: dict[str, object], said: Answer) -> None:
        """Makes the call, and folds what it brings into `said`. Errors: `UpstreamFault`."""
        call = self._new_call(upstream, dialect.outgoing(request, ask_usage=upstream.usage is Usage.ASK))
        buffer = Buffer(0)

        def give_up() -> None:
            buffer.close(UpstreamFault("deadline", "The title took too long."))
            call.cut()

        bound = threading.Timer(self._seconds, give_up)
        bound.daemon = True
        bound.start()
        try:
            Reader(
                call,
                buffer,
                _AtOnce(),
                dialect=dialect,
                reading=dialect.reading(),
                asked=dialect.check(request),
                answer=said,
                max_event=self._settings.max_event_bytes,
            ).run()
        finally:
            bound.cancel()
        if isinstance(buffer.outcome, Exception):
            raise buffer.outcome


class _AtOnce:
    """The pace of a reader whose events nobody commits."""

    def events_came(self) -> None:
        pass

    def until_due(self) -> float:
        return 0.0


def tidied(said: str) -> str:
    """A title in one line, without what models put around it. Empty if nothing was said."""
    lines = (" ".join(line.split()).strip(_AROUND) for line in said.splitlines())
    line = next(filter(None, lines), "")
    return line if len(line) <= TITLE_CHARACTERS else f"{line[:TITLE_CHARACTERS].rstrip()}…"
